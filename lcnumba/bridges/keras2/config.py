"""Keras' description of a Sequential model, as a model of this library."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lcnumba import activations, constraints
from lcnumba.bridges.keras2.weights import activation_name, softmax_over_width
from lcnumba.layers.dense import Dense
from lcnumba.layers.registry import keras_layers
from lcnumba.models.sequential import Sequential
from lcnumba.utils import keras_config, registry
from lcnumba.utils.arrays import float_dtype
from lcnumba.utils.types import Shape

__all__ = [
    "ADVICE",
    "LONGEST_NAME",
    "check_formats",
    "group_names",
    "layer_entries",
    "model_of_config",
    "shown",
    "translated_entry",
    "user_names",
]

# Characters of a path of a layer in a file.
LONGEST_NAME = 1 << 12


def layer_entries(config: Mapping[str, Any]) -> list[Any] | None:
    """The entries of the layers in a config of a model of Keras; None if it has none."""
    inner = config.get("config")
    entries = inner.get("layers") if isinstance(inner, Mapping) else inner  # a list, as Keras once wrote it
    return entries if isinstance(entries, list) else None


def group_names(layers: list[tuple[str, str]]) -> dict[str, str]:
    """What Keras' present format calls layers, given by class and name: by class, numbered."""
    counts: dict[str, int] = {}
    groups = {}
    for cls, name in layers:
        base = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", cls)).lower()
        number = counts.get(base, 0)
        counts[base] = number + 1
        groups[name] = f"{base}_{number}" if number else base
    return groups


def user_names(
    config: Mapping[str, Any], groups: set[str], place: str = "", name: str = ""
) -> Iterator[tuple[str, str]]:
    """Where layers of a config lie in the present format, and what users call them, those of models inside it too."""
    entries = layer_entries(config)
    if entries is None:
        # A layer around another one, such as TimeDistributed.
        inner = config.get("config")
        around = inner.items() if isinstance(inner, Mapping) else ()
        found = [(f"{place}{key}", value) for key, value in around if f"{place}{key}" in groups]
    else:
        numbered = group_names([(str(entry["class_name"]), str(entry["config"]["name"])) for entry in entries])
        found = [(f"{place}layers/{numbered[str(entry['config']['name'])]}", entry) for entry in entries]
    for group, entry in found:
        path = f"{name}{entry['config']['name']}"
        if len(path) > LONGEST_NAME:
            raise ValueError(f"it has names of {len(path)} characters and more")
        if group in groups:
            yield group, path
            yield from user_names(entry, groups, f"{group}/", f"{path}/")


def shown(name: Any) -> str:
    """A name of a file for a terminal, which such names could otherwise command."""
    return str(name) if str(name).isprintable() and str(name).isascii() else ascii(name)


ADVICE = (
    "Make the network here, and fill its layers one by one: import_weights(layer, load_keras_weights(path, name)), by "
    "paths like 'outer/inner' for layers of models inside it"
)
# Modules of Keras' own classes, as its files name them; a function of its own is called by its name alone.
_PACKAGES = ("keras", "tf_keras", "tensorflow", "builtins")


def model_of_config(config: Mapping[str, Any], version: str | None) -> tuple[Sequential, Shape, list[str]]:
    """The unbuilt model of a config of Keras, the shape of its input, and what must be said of it."""
    _check_origin("the model", {key: config.get(key) for key in ("class_name", "module", "registered_name")})
    if config.get("class_name") != "Sequential":
        raise ValueError(f"the model is a {config.get('class_name')!r:.80}, and only a Sequential is read. {ADVICE}")
    inner = config["config"]
    inner = {"layers": inner} if isinstance(inner, list) else inner  # as Keras once wrote it
    shape = inner.get("build_input_shape")
    layers: list[dict[str, Any]] = []
    notes: list[str] = []
    for entry in inner["layers"]:
        declared = entry["config"].get("batch_input_shape") or (entry.get("build_config") or {}).get("input_shape")
        shape = shape if declared is None or layers else declared
        if entry["class_name"] == "InputLayer":
            _check_dtype(entry["config"], of_input=True)
            continue
        made, more = translated_entry(entry, version)
        layers.append(made)
        notes += more
    if shape is None:
        raise ValueError("its config names no input shape")
    model = Sequential.from_config({"name": inner.get("name"), "layers": layers})
    _check_rows(model, (None, *shape[1:]))
    return model, (None, *shape[1:]), notes


def _check_rows(model: Sequential, shape: Shape) -> None:
    """Raise if a Dense gets more than rows: Keras multiplies along the last axis."""
    for layer in model.layers:
        if isinstance(layer, Dense) and len(shape) != 2:
            raise ValueError(
                f"layer {layer.name!r} is a Dense on inputs of shape {shape}; here Dense takes rows (N, features), "
                f"after a Flatten. {ADVICE}"
            )
        shape = tuple(layer.compute_output_shape(shape))


def translated_entry(entry: Mapping[str, Any], version: str | None) -> tuple[dict[str, Any], list[str]]:
    """A layer in a config of Keras, as ours, and what must be said of it; an error for what would not be the same."""
    name, settings = entry["class_name"], dict(entry["config"])
    called = f"layer {settings.get('name')!r:.80}"
    known = keras_layers()
    if name not in known:
        raise ValueError(f"{called} is a {name!r:.80}; known here are {', '.join(known)}. {ADVICE}")
    _check_origin(called, entry)
    _check_dtype(settings)
    if settings.get("noise_shape") is not None:
        raise ValueError(f"{called} has a noise_shape, which Dropout does not have here")
    keys, ignored = known[name]
    foreign = set(settings) - keys
    if foreign:
        raise ValueError(f"{called} has settings that Keras' layer has not: {foreign!r:.200}")
    if not keys & {"activation", "use_bias"} <= set(settings):
        raise ValueError(
            f"{called} lacks settings of Keras' {name}; it may be a class of somebody's with that name. {ADVICE}"
        )
    for key in ignored:
        settings.pop(key, None)
    notes: list[str] = []
    if "activation" in settings:
        activation = activations.get(settings["activation"])
        if isinstance(activation, activations.HardSigmoid) and _major(version) >= 3:
            raise ValueError(
                f"{called} has the hard_sigmoid of Keras {version:.20}, relu6(x + 3) / 6; here it is that of Keras 2, "
                f"0.2 x + 0.5 between 0 and 1. {ADVICE}"
            )
        if name.startswith("LocallyConnected") and softmax_over_width(activation, _data_format(settings)):
            raise ValueError(
                f"{called} has {activation_name(activation)} with channels_first, which in Keras is over the width; "
                f"that of a layer here is over the channels. {ADVICE}. A layer without activation, followed by "
                f"Activation({activation_name(activation)!r}), is the same as Keras' layer"
            )
    if name.startswith("LocallyConnected"):
        notes = _converted_constraints(called, settings, 1 if name.endswith("1D") else 2)
    return {"class_name": name, "config": settings}, notes


def _major(version: str | None) -> int:
    """The first number of a version; that of the Keras which has these layers if a file does not tell."""
    number = (version or "").partition(".")[0]
    return int(number) if number.isdecimal() and len(number) < 4 else 2


def _data_format(settings: Mapping[str, Any]) -> str:
    given = settings.get("data_format")
    return str(given).lower() if given is not None else keras_config.data_format()


def _check_origin(called: str, entry: Any) -> None:
    """Raise if anything in an entry is a class of somebody's own, which may be called as one of Keras' is."""
    if isinstance(entry, list):
        for value in entry:
            _check_origin(called, value)
    if not isinstance(entry, Mapping):
        return
    if isinstance(entry.get("class_name"), str):
        module, registered = entry.get("module"), entry.get("registered_name")
        keras = isinstance(module, str) and module.partition(".")[0] in _PACKAGES
        if not keras and (isinstance(module, str) or isinstance(registered, str)):
            raise ValueError(
                f"{called} is, or has, a {entry['class_name']!r:.80} that is not Keras' own, but a class of somebody's "
                f"({str(registered or module)!r:.80}). {ADVICE}"
            )
        if entry["class_name"] == "__lambda__":
            raise ValueError(
                f"{called} has a function as its activation, say, whose code is in the file and not run. {ADVICE}"
            )
    for value in entry.values():
        _check_origin(called, value)


def _check_dtype(settings: Mapping[str, Any], of_input: bool = False) -> None:
    """Raise unless a layer computes in float32 or float64, or is an input of integers."""
    policy = settings.get("dtype")
    if isinstance(policy, Mapping):
        policy = (policy.get("config") or {}).get("name")
    if policy is None or (of_input and re.fullmatch("u?int[0-9]+|bool", str(policy))):
        return
    try:
        float_dtype(policy)
    except (TypeError, ValueError):
        raise ValueError(
            f"layer {settings.get('name')!r:.80} has dtype {policy!r:.80}; float32 and float64 are computed in here. "
            f"{ADVICE}"
        ) from None


def _converted_constraints(called: str, settings: dict[str, Any], rank: int) -> list[str]:
    """Give norm constraints the axes that they have here, or leave them out; return what must be said of it.

    Keras' axes are those of its storage: with implementation 1 they are ours, and with 3 the one axis runs over all
    weights. With implementation 2 norms count numbers that belong to no connection. Of a bias with channels_first the
    axes do not fit to how its memory is used.
    """
    notes = []
    for part in ("kernel", "bias"):
        constraint = constraints.get(settings.get(f"{part}_constraint"))
        if not isinstance(constraint, constraints.Norm):
            continue
        axes = sorted(axis % (rank + 1) for axis in constraint._axes)
        number = settings.get("implementation", 1)
        if part == "kernel" and number == 3:
            config = registry.config_of(constraint)
            settings["kernel_constraint"] = {**config, "config": {**config["config"], "axis": [0, 1, 2]}}
        elif (part == "kernel" and number == 2) or (
            part == "bias" and _data_format(settings) == "channels_first" and axes != list(range(rank + 1))
        ):
            settings[f"{part}_constraint"] = None
            how = "implementation 2" if part == "kernel" else "channels_first"
            notes.append(
                f"{called}: {part}_constraint {type(constraint).__name__} is left out: with {how} Keras takes norms "
                "over its own storage, which has no counterpart here. Predictions are the same. To train on, make the "
                "network here with the constraint that you want, and fill it: load_keras(path, model)"
            )
    return notes


def check_formats(config: Mapping[str, Any], model: Sequential) -> None:
    """Raise if the layers that a model is filled from have another data format: their numbers lie in another order."""
    entries = layer_entries(config) or []
    for kind in (("LocallyConnected1D", "LocallyConnected2D"), ("Flatten",)):
        theirs = [entry["config"] for entry in entries if entry["class_name"] in kind]
        mine = [layer.get_config() for layer in model.layers if type(layer).__name__ in kind]
        if len(theirs) != len(mine):
            continue  # Flatten may be done otherwise; of the others, shapes tell
        for there, here in zip(theirs, mine, strict=True):
            if _data_format(there) != here["data_format"]:
                raise ValueError(
                    f"layer {there.get('name')!r:.80} has data_format={_data_format(there)!r:.80} in the file, and "
                    f"{here['name']!r} has {here['data_format']!r}: the weights would be taken in another order. Make "
                    "the layer with the file's"
                )
