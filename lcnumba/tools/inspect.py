"""What a file holds, told without loading it: models of this library and files of Keras."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lcnumba.bridges.keras2.config import ADVICE, layer_entries, model_of_config, shown, translated_entry
from lcnumba.bridges.keras2.files import KerasFile
from lcnumba.bridges.keras2.models import entries_of
from lcnumba.formats import contents, npz
from lcnumba.layers.dense import Dense
from lcnumba.layers.locally_connected import LocallyConnected
from lcnumba.models.saving import from_config
from lcnumba.models.sequential import Sequential
from lcnumba.runtime.signals import deferred
from lcnumba.utils.types import Shape
from lcnumba.utils.validation import file_path

__all__ = ["layer_entries"]

# Characters of a setting in a line of text.
LONGEST_SHOWN = 120


def described(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield lines that tell what a model file of Keras, or of this library, holds: no weight is read."""
    given = file_path(path)
    with deferred():  # what a signal raises is no fault of the file
        try:
            with npz.ModelFile(given) as mine:
                lines = list(_ours(mine))
        except ValueError:
            if contents.described(given) == contents.OURS:  # and damaged
                raise
            lines = []  # the reader of Keras' files tells what it is
    if lines:
        yield from lines
        return
    with KerasFile(given) as file:
        config, first = file.config(), file.by_name()
        version = "" if file.version is None else f" {shown(file.version)}"
        yield f"{'weights' if config is None else 'model'} of Keras{version}, {'first' if first else 'present'} format"
        with file.refusing():
            yield from [] if config is None else list(_verdicts(config, file.version))
            entries = entries_of(file)
        for entry in entries:
            arrays = ", ".join(array.described for array in entry.arrays) or "none"
            name = entry.short if entry.place else entry.name
            also = "" if entry.name == name else f" ({shown(entry.name)})"
            yield f"weights of {shown(name)}{also}: {arrays}"


def _ours(file: npz.ModelFile) -> Iterator[str]:
    """What a file of this library holds."""
    shapes = file.weight_shapes()
    total = sum(math.prod(size) for size in shapes)
    if file.config is None:
        yield "weights of lcnumba"
        for number, size in enumerate(shapes):
            yield f"weight {number}: {size}"
        yield f"numbers in all: {total:,}"
        return
    yield f"{'model' if file.training is None else 'checkpoint'} of lcnumba, {shown(file.config.get('name'))}"
    shape = (None, *file.config["build_input_shape"][1:])
    yield f"input {shown(shape)}"
    try:
        model = from_config(Sequential, file.config, None)
    except (TypeError, ValueError):
        model = None  # it has layers of users' own, of which no more is known than the file says
    yield from _our_layers(file.config["layers"], model, shape, "")
    yield f"weights: {', '.join(map(str, shapes)) or 'none'}; {total:,} numbers in all"
    if file.training is not None:
        progress = file.training["dict"]["progress"]["dict"]
        within = f", and {progress['batch']} batches of the next" if progress["batch"] else ""
        rate = "" if progress["lr"] is None else f", lr {progress['lr']}"
        yield shown(f"training: {progress['epoch']} epochs{within}, {progress['step']} steps{rate}")
        for name, values in progress["history"]["dict"].items():
            yield shown(f"last {name}: {values[-1] if values else 'none'}")


def _our_layers(entries: Any, model: Sequential | None, shape: Shape, within: str) -> Iterator[str]:
    """A line for each layer: what it is, its output and weights as far as they are known, and its settings."""
    layers: Iterable[Any] = [None] * len(entries) if model is None else model.layers
    for entry, layer in zip(entries, layers, strict=True):
        name = str(entry["config"].get("name"))
        sizes = ""
        if layer is not None:
            weights = list(layer.weight_shapes(shape).values()) if isinstance(layer, LocallyConnected | Dense) else []
            output = tuple(layer.compute_output_shape(shape))
            count = f", {sum(math.prod(size) for size in weights):,} numbers {weights}" if weights else ""
            sizes = f": output {output}{count}"
        yield f"layer {shown(within + name)} ({shown(entry['class_name'])}){shown(sizes)}{_settings(entry)}"
        if entry["class_name"] == "Sequential":
            yield from _our_layers(entry["config"]["layers"], layer, shape, f"{within}{name}/")
        shape = shape if layer is None else output


def _settings(entry: Mapping[str, Any]) -> str:
    """The settings of a layer as text, but for what is usual, and its optimizer."""
    if entry["class_name"] == "Sequential":
        return ""
    usual = {"trainable": True, "use_bias": True, "activation": "linear", "data_format": "channels_last"}
    parts = [
        f"{key}={_brief(value)}"
        for key, value in entry["config"].items()
        if key not in ("name", "batch_input_shape") and value is not None and usual.get(key) != value
    ]
    if "optimizer" in entry:
        parts.append(f"optimizer={_brief(entry['optimizer'])}")
    elif "optimizer_left_out" in entry:
        parts.append(f"optimizer={_brief(entry['optimizer_left_out'])}, which the file does not hold")
    return f"; {', '.join(parts)}" if parts else ""


def _brief(value: Any) -> str:
    """A value of a config, short enough for a line."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        text = f"{value.get('class_name')}({', '.join(f'{k}={v!r}' for k, v in value['config'].items())})"
    else:
        text = str(_sizes(value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _sizes(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _verdicts(config: Mapping[str, Any], version: str | None) -> Iterator[str]:
    """A line for each layer of a config of Keras, and whether it can be loaded; and one for the whole."""
    for entry in layer_entries(config) or []:
        name, cls = entry["config"].get("name"), entry["class_name"]
        try:
            made, notes = (None, []) if cls == "InputLayer" else translated_entry(entry, version)
            if made is not None:
                Sequential.from_config({"layers": [made]})
            verdict = "; ".join(["can be loaded", *notes])
        except Exception as error:  # noqa: BLE001 - whatever a config leads to is the verdict
            verdict = f"cannot be loaded: {str(error).removesuffix(ADVICE).strip()}"
        yield f"layer {shown(name)} ({shown(cls)}): {shown(verdict)}"
    try:
        model_of_config(config, version)
        yield "as a whole: lcnumba.load_keras reads it"
    except Exception as error:  # noqa: BLE001
        yield f"as a whole it cannot be loaded: {shown(str(error))}"
