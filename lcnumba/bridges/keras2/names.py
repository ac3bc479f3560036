"""Names of the layers in a Keras file: the user's names, and the group paths that Keras writes."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lcnumba.bridges.keras2.config import layer_entries
from lcnumba.bridges.keras2.files import KerasFile, KerasFileError, StoredArray

__all__ = ["LayerEntry", "find_entry", "group_names", "printable", "read_entries"]

# Characters of the path of a layer.
MAX_PATH = 1 << 12


class LayerEntry(NamedTuple):
    """A layer in a file: the user's name, the group path without "layers", and the group path."""

    name: str
    short: str
    group: str
    arrays: list[StoredArray]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Names by which it is found, the most specific first."""
        return self.name, self.short, self.group, self.name.rpartition("/")[2], self.short.rpartition("/")[2]


def read_entries(file: KerasFile) -> list[LayerEntry]:
    """Return the layers of a file, those of nested models included."""
    layers = file.legacy_layers()
    if layers is not None:
        return [entry for name, arrays in layers for entry in _split_nested(name, arrays)]
    config, groups = file.config(), file.groups()
    names = {} if config is None else dict(_user_names(config, set(groups)))
    entries = []
    for group in groups:
        short = "/".join(part for part in group.split("/") if part != "layers") or group
        entries.append(LayerEntry(names.get(group, short), short, group, file.arrays_of(group)))
    return entries


def _split_nested(name: str, arrays: list[StoredArray]) -> Iterator[LayerEntry]:
    """Yield the layers of a group of a legacy file, where a nested model is one group."""
    parts: dict[str, list[StoredArray]] = {}
    for array in arrays:
        parts.setdefault(array.label.rpartition("/")[0], []).append(array)
    if len(parts) <= 1:
        [inner] = parts or [""]
        yield LayerEntry(name, f"{name}/{inner.removeprefix(f'{name}/')}" if inner else name, "", arrays)
        return
    yield LayerEntry(name, name, "", [])
    for inner, own in parts.items():
        path = f"{name}/{inner.removeprefix(f'{name}/')}"
        yield LayerEntry(path, path, "", own)


def find_entry(name: str, entries: list[LayerEntry]) -> LayerEntry:
    """Return the layer with this name, path, or unique last part of a path; an error if it has no own weights."""
    for level in range(5):
        found = [entry for entry in entries if entry.aliases[level] == name]
        if len(found) > 1:
            paths = ", ".join(printable(entry.group or entry.name) for entry in found)
            raise KerasFileError(f"there are {len(found)} layers {name!r}; give one of {paths}")
        if found:
            break
    else:
        known = [entry.name for entry in entries if entry.arrays]
        raise KerasFileError(f"there is no layer {name!r}; its layers are {', '.join(map(printable, known)) or 'none'}")
    [entry] = found
    if not entry.arrays:
        inner = [other.name for other in entries if other.arrays and other.name.startswith(f"{entry.name}/")]
        if inner:
            raise KerasFileError(f"{name!r} is a model; give one of its layers {', '.join(map(printable, inner))}")
        raise KerasFileError(f"layer {name!r} has no weights")
    return entry


def group_names(layers: list[tuple[str, str]]) -> dict[str, str]:
    """Return the group of each layer in a v3 file by name, from (class, name): the class in snake case, numbered."""
    counts: dict[str, int] = {}
    groups = {}
    for cls, name in layers:
        base = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", cls)).lower()
        number = counts.get(base, 0)
        counts[base] = number + 1
        groups[name] = f"{base}_{number}" if number else base
    return groups


def _user_names(
    config: Mapping[str, Any], groups: set[str], prefix: str = "", name: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield (group path in a v3 file, user's path) for the layers of a config, those of nested models included."""
    entries = layer_entries(config)
    if entries is None:
        # A wrapper of another layer, such as TimeDistributed.
        inner = config.get("config")
        settings = inner.items() if isinstance(inner, Mapping) else ()
        found = [(f"{prefix}{key}", value) for key, value in settings if f"{prefix}{key}" in groups]
    else:
        numbered = group_names([(str(entry["class_name"]), str(entry["config"]["name"])) for entry in entries])
        found = [(f"{prefix}layers/{numbered[str(entry['config']['name'])]}", entry) for entry in entries]
    for group, entry in found:
        path = f"{name}{entry['config']['name']}"
        if len(path) > MAX_PATH:
            raise ValueError(f"it has a layer path of {len(path)} characters; at most {MAX_PATH} are allowed")
        if group in groups:
            yield group, path
            yield from _user_names(entry, groups, f"{group}/", f"{path}/")


def printable(name: Any) -> str:
    """Return a name from a file as printable ASCII, without terminal control characters."""
    return str(name) if str(name).isprintable() and str(name).isascii() else ascii(name)
