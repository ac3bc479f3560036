"""Summary of a model file of this library or of Keras, without loading it: ``python -m lcnumba inspect``."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lcnumba.bridges.keras2.config import HINT, layer_entries, model_from_config, translate_layer
from lcnumba.bridges.keras2.files import KerasFile
from lcnumba.bridges.keras2.names import printable, read_entries
from lcnumba.connectivity import topology
from lcnumba.formats import contents, npz
from lcnumba.layers.base import Trainable
from lcnumba.models.saving import from_config
from lcnumba.models.sequential import Sequential
from lcnumba.runtime.signals import deferred
from lcnumba.utils.types import Shape
from lcnumba.utils.validation import file_path

__all__ = ["describe"]

# Characters of a setting.
MAX_SHOWN = 120


def describe(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield lines that summarize a model file of this library or of Keras; no weights are read."""
    given = file_path(path)
    with deferred():  # an error of a signal handler is not the file's
        try:
            with npz.ModelFile(given) as mine:
                lines = list(_describe_lcnumba(mine))
        except ValueError:
            if contents.describe(given) == contents.LCNUMBA_FILE:  # but damaged
                raise
            lines = []  # KerasFile names its type
    if lines:
        yield from lines
        return
    with KerasFile(given) as file:
        config, legacy = file.config(), file.legacy_layers()
        version = "" if file.version is None else f" {printable(file.version)}"
        yield f"Keras{version} {'weights' if config is None else 'model'}, {'legacy' if legacy else 'v3'} format"
        with file.translate_errors():
            yield from [] if config is None else list(_describe_keras_layers(config, file.version))
            entries = read_entries(file)
        for entry in entries:
            arrays = ", ".join(array.description for array in entry.arrays) or "none"
            name = entry.short if entry.group else entry.name
            also = "" if entry.name == name else f" ({printable(entry.name)})"
            yield f"weights of {printable(name)}{also}: {arrays}"


def _describe_lcnumba(file: npz.ModelFile) -> Iterator[str]:
    """Yield the lines for a file of this library."""
    shapes = file.weight_shapes()
    total = sum(math.prod(size) for size in shapes)
    if file.config is None:
        yield "lcnumba weights"
        for number, size in enumerate(shapes):
            yield f"weight {number}: {size}"
        yield f"total: {total:,} weights"
        return
    yield f"lcnumba {'model' if file.training is None else 'checkpoint'}, {printable(file.config.get('name'))}"
    shape = (None, *file.config["build_input_shape"][1:])
    yield f"input {printable(shape)}"
    try:
        model = from_config(Sequential, file.config, None)
    except (TypeError, ValueError):
        model = None  # it has custom layers, whose classes are not given
    yield from _describe_layers(file.config["layers"], model, shape, "")
    yield f"weights: {', '.join(map(str, shapes)) or 'none'}; {total:,} in total"
    if file.training is not None:
        progress = file.training["dict"]["progress"]["dict"]
        within = f", and {progress['batch']} batches of the next" if progress["batch"] else ""
        rate = "" if progress["lr"] is None else f", lr {progress['lr']}"
        yield printable(f"training: {progress['epoch']} epochs{within}, {progress['step']} steps{rate}")
        for name, values in progress["history"]["dict"].items():
            yield printable(f"last {name}: {values[-1] if values else 'none'}")


def _describe_layers(entries: Any, model: Sequential | None, shape: Shape, within: str) -> Iterator[str]:
    """Yield a line for each layer: its class, output shape and weight shapes if known, and settings."""
    layers: Iterable[Any] = [None] * len(entries) if model is None else model.layers
    for entry, layer in zip(entries, layers, strict=True):
        name = str(entry["config"].get("name"))
        sizes = ""
        if layer is not None:
            weights = list(layer.weight_shapes(shape).values()) if isinstance(layer, Trainable) else []
            output = tuple(layer.compute_output_shape(shape))
            count = f", {sum(math.prod(size) for size in weights):,} weights {weights}" if weights else ""
            sizes = f": output {output}{count}"
        yield f"layer {printable(within + name)} ({printable(entry['class_name'])}){printable(sizes)}{_settings(entry)}"
        if entry["class_name"] == "Sequential":
            yield from _describe_layers(entry["config"]["layers"], layer, shape, f"{within}{name}/")
        shape = shape if layer is None else output


def _settings(entry: Mapping[str, Any]) -> str:
    """Return the settings of a layer that are not defaults, and its optimizer, as text."""
    if entry["class_name"] == "Sequential":
        return ""
    defaults = {"trainable": True, "use_bias": True, "activation": "linear", "data_format": "channels_last"}
    parts = [
        f"{key}={_brief(value)}"
        for key, value in entry["config"].items()
        if key not in ("name", "batch_input_shape") and value is not None and defaults.get(key) != value
    ]
    if "optimizer" in entry:
        parts.append(f"optimizer={_brief(entry['optimizer'])}")
    elif "optimizer_left_out" in entry:
        parts.append(f"optimizer={_brief(entry['optimizer_left_out'])}, a custom class that is not saved")
    return f"; {', '.join(parts)}" if parts else ""


def _brief(value: Any) -> str:
    """Return a value of a config as short text."""
    if isinstance(value, dict) and set(value) == {"shape", "indptr", "indices"}:
        text = repr(topology.get(value))
    elif isinstance(value, dict) and isinstance(value.get("config"), dict):
        text = f"{value.get('class_name')}({', '.join(f'{k}={v!r}' for k, v in value['config'].items())})"
    else:
        text = str(_sizes(value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _sizes(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _describe_keras_layers(config: Mapping[str, Any], version: str | None) -> Iterator[str]:
    """Yield a line for each layer of a Keras config that says whether it can be loaded, and one for the model."""
    for entry in layer_entries(config) or []:
        name, cls = entry["config"].get("name"), entry["class_name"]
        try:
            made, notes = (None, []) if cls == "InputLayer" else translate_layer(entry, version)
            if made is not None:
                Sequential.from_config({"layers": [made]})
            verdict = "; ".join(["can be loaded", *notes])
        except Exception as error:  # noqa: BLE001 - any error is the result
            verdict = f"cannot be loaded: {str(error).removesuffix(HINT).strip()}"
        yield f"layer {printable(name)} ({printable(cls)}): {printable(verdict)}"
    try:
        model_from_config(config, version)
        yield "model: can be loaded with lcnumba.load_keras"
    except Exception as error:  # noqa: BLE001
        yield f"model: cannot be loaded: {printable(str(error))}"
