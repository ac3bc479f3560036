"""Tell what an HDF5 file of Keras holds, as JSON: run as a program, in a process of its own.

    python keras_index.py FILE

The HDF5 library may hang, crash or fill the memory on a damaged file; here it harms nobody, and the memory of this
process is limited. It reads names, shapes and places alone; the numbers themselves the caller reads from the
file. No link is followed, so that nothing outside the file is ever opened.

The reply has "config", the model's config as text, or null; "version", Keras' own, or null; "by_name", the layers of
Keras' first format as [name, arrays], or null; "groups", the arrays of each layer of its present format, at any depth,
by path. An array is {"name", "shape", "dtype", "offset"}, or {"error"} where it cannot be read; in the first format it
has a "label", what the file calls it.
"""

import json
import sys
from typing import Any

import h5py
import numpy as np

LONGEST_CONFIG = 1 << 23
MOST_NAMES = 1 << 14
LONGEST_NAMES = 1 << 20
DEEPEST = 32  # models within models, each of which takes two groups
# What the present format holds beside layers, at its root.
BESIDE = ("optimizer", "metrics")
LONGEST_PATH = 1 << 12
FLOATS = (h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F32BE, h5py.h5t.IEEE_F64LE, h5py.h5t.IEEE_F64BE)
MEMORY = 1 << 29  # bytes beyond what the libraries take


def limit_memory() -> None:
    """Limit this process to so much more memory, where the system can."""
    try:
        import resource

        with open("/proc/self/statm") as file:  # noqa: PTH123 - nothing but the standard library
            pages = int(file.read().split()[0])
        size = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        pass


def described(file: Any) -> dict[str, Any]:
    """Return the whole reply for an open file."""
    config = text(file.attrs, "model_config") if "model_config" in file.attrs else None
    root = child(file, "model_weights") if "model_weights" in file else file
    layers = None
    if any(str(name).startswith("layer_names") for name in root.attrs):
        layers = [(name, arrays_by_name(child(root, name))) for name in names(root, "layer_names")]
    version = text(file.attrs, "keras_version") if "keras_version" in file.attrs else None
    groups = arrays_by_path(file) if layers is None else {}
    return {"config": config, "version": version, "by_name": layers, "groups": groups}


def arrays_by_name(group: Any) -> list[dict[str, Any]]:
    """The arrays that "weight_names" of a group lists."""
    return [{**described_array(group, path), "label": path} for path in names(group, "weight_names")]


def arrays_by_path(file: Any) -> dict[str, list[dict[str, Any]]]:
    """The arrays "vars/0", "vars/1", ... of all groups that have such, by the groups' paths."""
    found: dict[str, list[dict[str, Any]]] = {}
    waiting, seen = [(file, "")], 0
    while waiting:
        group, path = waiting.pop()
        if len(group) > MOST_NAMES:
            raise ValueError(f"{path!r} holds {len(group)} groups")
        for name in group:
            if not path and name in ("vars", *BESIDE):
                continue
            seen += 1
            where = f"{path}/{name}" if path else str(name)
            if seen > MOST_NAMES or where.count("/") > 2 * DEEPEST or len(where) > LONGEST_PATH:
                raise ValueError("it holds too many groups, or groups too deep within each other")
            try:
                inner = child(group, name)
            except (ValueError, TypeError) as error:
                found[where] = [{"error": str(error)}]
                continue
            if name == "vars":
                found[path] = arrays_by_number(inner, path)
                seen += len(found[path])
            elif isinstance(inner, h5py.Group):
                waiting.append((inner, where))
    return dict(sorted(found.items()))


def arrays_by_number(stored: Any, path: str) -> list[dict[str, Any]]:
    """The arrays "0", "1", ... of a group."""
    try:
        if not isinstance(stored, h5py.Group):
            raise TypeError(f"'vars' of {path!r} is no group")
        if len(stored) > MOST_NAMES:
            raise ValueError(f"{path} has {len(stored)} arrays")
        return [described_array(stored, str(number)) for number in range(len(stored))]
    except (ValueError, TypeError) as error:
        return [{"error": str(error)}]


def described_array(group: Any, path: str) -> dict[str, Any]:
    """Where an array lies; or an error that tells why it cannot be read."""
    try:
        found = group
        for part in path.split("/"):
            found = child(found, part)
        if not isinstance(found, h5py.Dataset):
            raise TypeError(f"{path!r} is no dataset")
        return place(found)
    except (ValueError, TypeError) as error:
        return {"error": str(error)}


def place(dataset: Any) -> dict[str, Any]:
    """Shape, type and place of an array that is stored in one piece."""
    kind = dataset.dtype
    # By the type in the file: NumPy's does not tell how the bits of a float lie.
    if not any(dataset.id.get_type().equal(known) for known in FLOATS):
        raise TypeError(f"{dataset.name} has dtype {kind}; weights are float32 or float64")
    if dataset.is_virtual or dataset.external or dataset.chunks is not None:
        raise ValueError(f"{dataset.name} is not stored in one piece in this file, as Keras stores it")
    declared, stored = int(np.prod(dataset.shape, dtype=object)) * kind.itemsize, dataset.id.get_storage_size()
    offset = dataset.id.get_offset() if declared else 0
    if offset is None or stored != declared:
        raise ValueError(f"{dataset.name} declares {declared} bytes and stores {stored}")
    return {"name": dataset.name, "shape": list(dataset.shape), "dtype": kind.str, "offset": int(offset)}


def child(group: Any, name: str) -> Any:
    """What lies in a group under a name; links that could lead elsewhere are refused."""
    if not isinstance(group, h5py.Group):
        raise TypeError(f"{group!r} is no group")
    if not name or name == "." or name not in group:
        raise ValueError(f"there is no {name!r} in {group.name!r}")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise TypeError(f"{name!r} in {group.name!r} is a link, which is not followed")
    return group[name]


def names(group: Any, attribute: str) -> list[str]:
    """A list of names, perhaps in chunks: `attribute`, or `attribute` 0, 1, ..."""
    present = [attribute] if attribute in group.attrs else []
    while not present or present[-1] != attribute:
        following = f"{attribute}{len(present)}"
        if following not in group.attrs:
            break
        present.append(following)
    found: list[str] = []
    for part in present:
        identifier = group.attrs.get_id(part)
        count = int(np.prod(identifier.shape, dtype=object))
        if count > MOST_NAMES or count * identifier.dtype.itemsize > LONGEST_NAMES:
            raise ValueError(f"{part} of {group.name!r} is too long")
        if count:  # an empty list is stored as numbers
            found += [string(value) for value in np.asarray(group.attrs[part]).reshape(-1)]
    return found


def text(attributes: Any, name: str) -> str:
    """One attribute that is a text."""
    identifier = attributes.get_id(name)
    if identifier.shape != () or identifier.dtype.itemsize > LONGEST_CONFIG:
        raise ValueError(f"{name} is no text of at most {LONGEST_CONFIG} bytes")
    found = string(attributes[name])
    if len(found) > LONGEST_CONFIG:
        raise ValueError(f"{name} has {len(found)} characters, and at most {LONGEST_CONFIG} are expected")
    return found


def string(value: Any) -> str:
    """A text or bytes as text."""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no name")
    return str(value)


def main(path: str) -> int:
    """Print the reply for a file, or {"error"}; always succeed, unless the library does not let it."""
    limit_memory()
    try:
        with h5py.File(path, "r") as file:
            reply = described(file)
    except Exception as error:  # noqa: BLE001 - whatever h5py makes of a damaged file
        reply = {"error": str(error)}
    json.dump(reply, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
