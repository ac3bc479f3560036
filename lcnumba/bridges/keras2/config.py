"""Translation of a Keras config of a Sequential model into a model of this library."""

import re
from collections.abc import Mapping
from typing import Any

from lcnumba import activations, constraints
from lcnumba.bridges.keras2.weights import activation_name, is_softmax_over_width
from lcnumba.layers.dense import Dense
from lcnumba.layers.registry import keras_layers
from lcnumba.models.sequential import Sequential
from lcnumba.utils import keras_config, registry
from lcnumba.utils.arrays import float_dtype
from lcnumba.utils.types import Shape
from lcnumba.utils.validation import int_tuple

__all__ = ["HINT", "check_data_formats", "layer_entries", "model_from_config", "translate_layer"]


def layer_entries(config: Mapping[str, Any]) -> list[Any] | None:
    """Return the entries of the layers in a Keras model config; None if it has none."""
    inner = config.get("config")
    entries = inner.get("layers") if isinstance(inner, Mapping) else inner  # old versions of Keras wrote a list
    return entries if isinstance(entries, list) else None


HINT = (
    "Build the network with lcnumba and set the weights of each layer: import_weights(layer, load_keras_weights(path, "
    "name)); the name is a path such as 'outer/inner' for layers of nested models. Or keep the network in Keras 3, "
    "with this library's layers in it: lcnumba.keras.load_model(path)"
)
# Settings that change what a layer computes, and do not exist here.
_REFUSED = frozenset({"noise_shape", "renorm", "virtual_batch_size", "adjustment", "quantization_config"})
# Packages of Keras' own classes in its files; its own functions have no module there.
_PACKAGES = ("keras", "tf_keras", "tensorflow", "builtins")


def model_from_config(config: Mapping[str, Any], version: str | None) -> tuple[Sequential, Shape, list[str]]:
    """Return the unbuilt model of a Keras config, its input shape, and warnings."""
    _check_origin("the model", {key: config.get(key) for key in ("class_name", "module", "registered_name")})
    if config.get("class_name") != "Sequential":
        raise ValueError(f"the model is a {config.get('class_name')!r:.80}; only a Sequential is supported. {HINT}")
    inner = config["config"]
    inner = {"layers": inner} if isinstance(inner, list) else inner  # old versions of Keras wrote a list
    shape = inner.get("build_input_shape")
    layers: list[dict[str, Any]] = []
    warnings: list[str] = []
    for entry in inner["layers"]:
        declared = entry["config"].get("batch_input_shape") or (entry.get("build_config") or {}).get("input_shape")
        shape = shape if declared is None or layers else declared
        if entry["class_name"] == "InputLayer":
            _check_dtype(entry["config"], of_input=True)
            continue
        translated, more = translate_layer(entry, version)
        layers.append(translated)
        warnings += more
    if shape is None:
        raise ValueError("its config has no input shape")
    model = Sequential.from_config({"name": inner.get("name"), "layers": layers})
    _check_dense_inputs(model, (None, *shape[1:]))
    return model, (None, *shape[1:]), warnings


def _check_dense_inputs(model: Sequential, shape: Shape) -> None:
    """Raise if a Dense layer gets inputs of rank above 2, which Keras multiplies along the last axis."""
    for layer in model.layers:
        if isinstance(layer, Dense) and len(shape) != 2:
            raise ValueError(
                f"layer {layer.name!r} is a Dense on inputs of shape {shape}; here Dense takes inputs of shape "
                f"(N, features), as after a Flatten. {HINT}"
            )
        shape = tuple(layer.compute_output_shape(shape))


def translate_layer(entry: Mapping[str, Any], version: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the config here of a layer of Keras, and warnings; an error if it would compute something else."""
    name, settings = entry["class_name"], dict(entry["config"])
    label = f"layer {settings.get('name')!r:.80}"
    known = keras_layers()
    if name not in known:
        raise ValueError(f"{label} is a {name!r:.80}; must be one of {', '.join(known)}. {HINT}")
    _check_origin(label, entry)
    _check_dtype(settings)
    keys, ignored = known[name]
    for key in keys & _REFUSED:
        if settings.get(key) not in (None, False):
            raise ValueError(f"{label} has {key}={settings[key]!r:.80}, which {name} does not support here. {HINT}")
    if name == "UpSampling2D" and settings.get("interpolation", "nearest") != "nearest":
        raise ValueError(
            f"{label} has interpolation={settings['interpolation']!r:.80}; UpSampling2D has 'nearest' alone here. "
            f"{HINT}"
        )
    foreign = set(settings) - keys
    if foreign:
        raise ValueError(f"{label} has settings that the Keras layer does not have: {foreign!r:.200}")
    if not keys & {"activation", "use_bias"} <= set(settings):
        raise ValueError(f"{label} lacks settings of Keras' {name}; it may be a custom class of that name. {HINT}")
    if name == "Conv1D" and str(settings.get("padding")).lower() == "causal":
        raise ValueError(f"{label} has padding='causal'; {_without_causal(settings)} is equivalent. {HINT}")
    for key in ignored:
        settings.pop(key, None)
    for key, value in settings.items():
        if key.endswith("_initializer") and isinstance(value, Mapping):
            settings[key] = _without_axes(value)
    warnings: list[str] = []
    if "activation" in settings:
        activation = activations.get(settings["activation"])
        if isinstance(activation, activations.HardSigmoid) and _major(version) >= 3:
            raise ValueError(
                f"{label} has the hard_sigmoid of Keras {version:.20}, relu6(x + 3) / 6; here it is that of Keras 2, "
                f"0.2 x + 0.5 clipped to [0, 1]. {HINT}"
            )
        if "data_format" in keys and is_softmax_over_width(activation, _data_format(settings)):
            raise ValueError(
                f"{label} has {activation_name(activation)} with channels_first, which is over the width in Keras, but "
                f"over the channels here. {HINT}. A layer without activation, followed by "
                f"Activation({activation_name(activation)!r}), is equivalent to the Keras layer"
            )
    if name.startswith("LocallyConnected"):
        warnings = translate_constraints(label, settings, 1 if name.endswith("1D") else 2)
    return {"class_name": name, "config": settings}, warnings


def _without_causal(settings: Mapping[str, Any]) -> str:
    """The layers that a Conv1D of padding "causal" is equal to."""
    (size,) = int_tuple("kernel_size", settings["kernel_size"], 1)
    (dilation,) = int_tuple("dilation_rate", settings.get("dilation_rate", 1), 1)
    return f"ZeroPadding1D(padding=({dilation * (size - 1)}, 0)) before the layer, and padding='valid',"


def _without_axes(initializer: Mapping[str, Any]) -> dict[str, Any]:
    """An initializer without settings of Keras 3 that are not set."""
    config = initializer.get("config")
    if not isinstance(config, Mapping):
        return dict(initializer)
    kept = {key: value for key, value in config.items() if value is not None or not key.endswith("put_axes")}
    return {**initializer, "config": kept}


def _major(version: str | None) -> int:
    """Return the major version; 2 if the file does not name one, since Keras 3 lacks these layers."""
    number = (version or "").partition(".")[0]
    return int(number) if number.isdecimal() and len(number) < 4 else 2


def _data_format(settings: Mapping[str, Any]) -> str:
    given = settings.get("data_format")
    return str(given).lower() if given is not None else keras_config.data_format()


def _check_origin(label: str, entry: Any) -> None:
    """Raise if an entry contains a custom class, which may have the name of one of Keras."""
    if isinstance(entry, list):
        for value in entry:
            _check_origin(label, value)
    if not isinstance(entry, Mapping):
        return
    if isinstance(entry.get("class_name"), str):
        module, registered = entry.get("module"), entry.get("registered_name")
        keras = isinstance(module, str) and module.partition(".")[0] in _PACKAGES
        if not keras and (isinstance(module, str) or isinstance(registered, str)):
            raise ValueError(
                f"{label} is, or has, a {entry['class_name']!r:.80} that is a custom class "
                f"({str(registered or module)!r:.80}), not one of Keras. {HINT}"
            )
        if entry["class_name"] == "__lambda__":
            raise ValueError(
                f"{label} has a custom function, as its activation, say, whose code in the file is not executed. {HINT}"
            )
    for value in entry.values():
        _check_origin(label, value)


def _check_dtype(settings: Mapping[str, Any], of_input: bool = False) -> None:
    """Raise unless a layer computes in float32 or float64; an input may be of integers."""
    policy = settings.get("dtype")
    if isinstance(policy, Mapping):
        policy = (policy.get("config") or {}).get("name")
    if policy is None or (of_input and re.fullmatch("u?int[0-9]+|bool", str(policy))):
        return
    try:
        float_dtype(policy)
    except (TypeError, ValueError):
        raise ValueError(
            f"layer {settings.get('name')!r:.80} has dtype {policy!r:.80}; must be float32 or float64. {HINT}"
        ) from None


def translate_constraints(label: str, settings: dict[str, Any], rank: int) -> list[str]:
    """Translate the axes of norm constraints in place, or remove the constraint; return warnings.

    Keras' axes are those of its storage: with implementation 1 they are the same here, and with 3 the only axis is all
    weights. With implementation 2 the norms include elements without a connection. The axes of a bias with
    channels_first do not match the use of its memory.
    """
    warnings = []
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
            warnings.append(
                f"{label}: {part}_constraint {type(constraint).__name__} is omitted: with {how} Keras takes norms "
                "over its own storage, which has no counterpart here. Predictions are the same. To continue training, "
                "build the model with the constraint you want, and load only the weights: give it with the path"
            )
    return warnings


def check_data_formats(config: Mapping[str, Any], model: Sequential) -> None:
    """Raise if layers of the file and of the model differ in what orders or names their weights alone."""
    entries = layer_entries(config) or []
    for kind in (("LocallyConnected1D", "LocallyConnected2D"), ("Flatten",)):
        theirs = [entry["config"] for entry in entries if entry["class_name"] in kind]
        mine = [layer.get_config() for layer in model.layers if type(layer).__name__ in kind]
        if len(theirs) != len(mine):
            continue  # Flatten may be replaced; the shapes of the others are checked later
        for there, here in zip(theirs, mine, strict=True):
            if _data_format(there) != here["data_format"]:
                raise ValueError(
                    f"layer {there.get('name')!r:.80} has data_format={_data_format(there)!r:.80} in the file, but "
                    f"{here['name']!r} has {here['data_format']!r}, which orders the weights differently; use the "
                    "file's data_format"
                )
    normalization = "BatchNormalization"
    theirs = [entry["config"] for entry in entries if entry["class_name"] == normalization]
    mine = [layer.get_config() for layer in model.layers if type(layer).__name__ == normalization]
    if len(theirs) == len(mine):
        for there, here in zip(theirs, mine, strict=True):
            for key in ("center", "scale"):
                if (found := there.get(key, True)) != here[key]:
                    raise ValueError(
                        f"layer {there.get('name')!r:.80} has {key}={found!r:.80} in the file, but "
                        f"{here['name']!r} has {here[key]!r}: a beta could be taken for a gamma; use the file's {key}"
                    )
