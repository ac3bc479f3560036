"""Saving and loading of models: files and configs."""

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lcnumba import optimizers
from lcnumba.formats import contents, npz
from lcnumba.layers.base import Trainable
from lcnumba.layers.registry import layer_class
from lcnumba.layers.tree import Container
from lcnumba.protocol import lost_weights
from lcnumba.runtime.signals import deferred
from lcnumba.utils import registry
from lcnumba.utils.messages import warn
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import arguments

# The most layers that a warning names.
MAX_NAMED = 5


class UnknownLayerError(ValueError):
    """A config contains a layer of an unknown class."""


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write structure and weights; `Sequential.save` documents it."""
    _require_built(model, "save")
    config = model.get_config()
    found = _unsaved_optimizers(config)
    if found:  # before anything is written: a warning may be an error
        warn(
            f"the file does not contain {found}: only built-in optimizers are saved. lcnumba.load will use 'sgd'; "
            "set layer.optimizer after loading, or compile with the optimizer",
            UserWarning,
        )
    _warn_of_lost_weights(model)
    npz.write_model(path, config, model.get_weights())


def save_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """Write only the weights; `Sequential.save_weights` documents it."""
    _require_built(model, "save")
    _warn_of_lost_weights(model)
    npz.write_weights(path, model.get_weights())


def load_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """Load the weights of a file; `Sequential.load_weights` documents it."""
    _require_built(model, "load_weights")
    mine = model.weight_shapes(model.input_shape)
    with npz.ModelFile(path) as file:
        theirs = file.weight_shapes()
        if len(theirs) != len(mine):
            raise ValueError(f"{os.fspath(path)!r} holds {len(theirs)} weights; {model.name!r} has {len(mine)}")
        for number, (here, there) in enumerate(zip(mine, theirs, strict=True)):
            if here != there:
                raise ValueError(
                    f"weight {number} of {os.fspath(path)!r} has shape {there}; that of {model.name!r} has {here}"
                )
        weights = file.read_weights(mine)
    model.set_weights(weights)


def load(kind: Any, path: str | os.PathLike[str], layers: Mapping[str, Any] | None) -> Any:
    """Read a model of a class; `lcnumba.load` documents it."""
    _check_classes(layers)
    with (
        npz.ModelFile(path) as file,
        deferred(),
    ):  # an exception from a signal handler must not be reported as an invalid file
        config = file.config
        if config is None:
            raise ValueError(
                f"{os.fspath(path)!r} holds weights only; create and build the model, then call its load_weights(path)"
            )
        try:
            model = from_config(kind, config, layers)
            shape = (None, *tuple(config["build_input_shape"])[1:])
            plan = list(weights_plan(model, shape))
        except UnknownLayerError:
            raise
        except Exception as error:
            if not contents.is_content_error(error):
                raise
            raise ValueError(f"{os.fspath(path)!r} holds no valid model config: {error}") from error
        # Shapes are compared before any weight is read or allocated, so that a file cannot cause larger allocations
        # than its own size.
        weights = file.read_weights([shape for _, _, shapes in plan for shape in shapes])
    for layer, input_shape, shapes in plan:
        mine, weights = weights[: len(shapes)], weights[len(shapes) :]
        if isinstance(layer, Trainable):
            layer.build_with(input_shape, mine)
        else:
            layer.set_weights(mine)
    model.build(shape)
    warn_of_optimizers(repr(os.fspath(path)), config)
    return model


def from_config(kind: Any, config: Mapping[str, Any], layers: Mapping[str, Any] | None) -> Any:
    """The model of a config, not built; `kind` is its class and that of inner models."""
    _check_classes(layers)
    known = dict(layers or {})
    config = arguments(config)
    entries = config.get("layers")
    if not isinstance(entries, list | tuple):
        raise TypeError(f"layers={entries!r} of the config is a {type(entries).__name__}; give a list")
    model = kind(name=config.get("name"))
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("class_name"), str):
            raise TypeError(f"layers of the config holds {entry!r}; give dicts of 'class_name' and 'config'")
        name, settings = entry["class_name"], arguments(entry.get("config"))
        layer: Any
        if name == "Sequential":
            layer = from_config(kind, settings, layers)
        else:
            found = known.get(name) or layer_class(name)
            if found is None:
                raise UnknownLayerError(f"layer class {name!r} is not known; pass layers={{{name!r}: the class}}")
            make = getattr(found, "from_config", None)
            layer = make(settings) if make else found(**settings)
        if "optimizer" in entry:
            layer.optimizer = entry["optimizer"]
        model._append_unbuilt(layer)
    return model


def weights_plan(model: Any, shape: Shape) -> Iterator[tuple[Any, Shape, list[tuple[int, ...]]]]:
    """The layers with weights, in order, each with its input shape and the shapes of its weights."""
    for layer in model.layers:
        if isinstance(layer, Container):
            yield from weights_plan(layer, shape)
        elif isinstance(layer, Trainable):
            yield layer, shape, list(layer.weight_shapes(shape).values())
        else:
            model._build_missing(layer, shape)  # a custom layer must be built to know its weights
            if hasattr(layer, "get_weights"):
                yield layer, shape, [np.shape(weight) for weight in layer.get_weights()]
        shape = tuple(layer.compute_output_shape(shape))


def layer_entry(layer: Any) -> dict[str, Any]:
    """A layer's entry in the config of its model, with its optimizer if that is built in, else its class name."""
    entry = {"class_name": type(layer).__name__, "config": layer.get_config()}
    optimizer = getattr(layer, "optimizer", None)
    if optimizers.is_built_in(optimizer):
        return {**entry, "optimizer": registry.config_of(optimizer)}
    return entry if optimizer is None else {**entry, "optimizer_left_out": type(optimizer).__name__}


def weights_of(layer: Any) -> list[Array]:
    """Copies of the weights of a layer; empty if it has no get_weights."""
    return list(layer.get_weights()) if hasattr(layer, "get_weights") else []


def warn_of_optimizers(where: str, config: Mapping[str, Any]) -> None:
    """Warn of layers whose custom optimizer was replaced by "sgd"."""
    found = _unsaved_optimizers(config)
    if found:
        warnings.warn(
            f"{where} does not contain {found}, which is not built in; 'sgd' is used instead. Set layer.optimizer, or "
            "compile with the optimizer",
            stacklevel=3,
        )


def _unsaved_optimizers(config: Mapping[str, Any]) -> str:
    """Text on the custom optimizers that a config does not include, with their layers; empty if there are none."""
    found: list[str] = []

    def visit(config: Mapping[str, Any]) -> None:
        for entry in config["layers"]:
            if entry["class_name"] == "Sequential":
                visit(entry["config"])
            elif "optimizer_left_out" in entry:
                found.append(f"{entry['optimizer_left_out']!r:.80} of layer {entry['config'].get('name')!r:.80}")

    visit(config)
    rest = f" and of {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return f"the optimizer {', '.join(found[:MAX_NAMED])}{rest}" if found else ""


def _warn_of_lost_weights(model: Any) -> None:
    if lost := lost_weights(model):
        warn(f"the file does not contain {lost}", UserWarning)


def _require_built(model: Any, action: str) -> None:
    if not model.built:
        raise RuntimeError(f"{action} before build: {model.name!r} has no weights yet; call or build it first")


def _check_classes(layers: Any) -> None:
    if not isinstance(layers, Mapping | None):
        raise TypeError(f"layers={layers!r:.200} is a {type(layers).__name__}; give a dict of name to class")
