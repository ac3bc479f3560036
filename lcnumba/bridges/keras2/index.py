"""Program that lists the arrays of a Keras HDF5 file as JSON; `files.py` runs it in a separate process.

The HDF5 library may hang, crash or exhaust memory on a damaged file, so it runs isolated, with limited memory. Only
names, shapes and offsets are read; the caller reads the array data from the file. No link is followed, so that nothing
outside the file is opened.

The reply has "config", the model's config as text, or null; "version", that of Keras, or null; "legacy_layers", the
layers of a legacy HDF5 file as [name, arrays], or null; "groups", the arrays of each layer of a v3 file by path, nested
layers included. An array is {"name", "shape", "dtype", "offset"}, or {"error"} if it cannot be read; in a legacy file
it also has a "label", its name in the file.
"""

import json
import sys
from typing import Any

import h5py
import numpy as np

MAX_CONFIG = 1 << 23
MAX_NAMES = 1 << 14
MAX_NAMES_BYTES = 1 << 20
MAX_DEPTH = 32  # of nested models, each of which takes two groups
# Groups at the root of a v3 file that are not layers.
NOT_LAYERS = ("optimizer", "metrics")
MAX_PATH = 1 << 12
FLOATS = (h5py.h5t.IEEE_F32LE, h5py.h5t.IEEE_F32BE, h5py.h5t.IEEE_F64LE, h5py.h5t.IEEE_F64BE)
MAX_MEMORY = 1 << 29  # bytes, beyond those of the loaded libraries


def limit_memory() -> None:
    """Limit the address space of this process, where the system supports it."""
    try:
        import resource

        with open("/proc/self/statm") as file:  # noqa: PTH123 - no import for one line
            pages = int(file.read().split()[0])
        size = pages * resource.getpagesize() + MAX_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        pass


def describe(file: Any) -> dict[str, Any]:
    """Return the reply for an open file."""
    config = read_text(file.attrs, "model_config") if "model_config" in file.attrs else None
    root = child(file, "model_weights") if "model_weights" in file else file
    layers = None
    if any(str(name).startswith("layer_names") for name in root.attrs):
        layers = [(name, arrays_by_name(child(root, name))) for name in read_names(root, "layer_names")]
    version = read_text(file.attrs, "keras_version") if "keras_version" in file.attrs else None
    groups = arrays_by_path(file) if layers is None else {}
    return {"config": config, "version": version, "legacy_layers": layers, "groups": groups}


def arrays_by_name(group: Any) -> list[dict[str, Any]]:
    """Return the arrays that "weight_names" of a group lists."""
    return [{**describe_array(group, path), "label": path} for path in read_names(group, "weight_names")]


def arrays_by_path(file: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the arrays "vars/0", "vars/1", ... of all groups that have them, by path of the group."""
    found: dict[str, list[dict[str, Any]]] = {}
    stack, seen = [(file, "")], 0
    while stack:
        group, path = stack.pop()
        if len(group) > MAX_NAMES:
            raise ValueError(f"{path!r} holds {len(group)} groups")
        for name in group:
            if not path and name in ("vars", *NOT_LAYERS):
                continue
            seen += 1
            where = f"{path}/{name}" if path else str(name)
            if seen > MAX_NAMES or where.count("/") > 2 * MAX_DEPTH or len(where) > MAX_PATH:
                raise ValueError("it holds too many groups, or too deeply nested ones")
            try:
                inner = child(group, name)
            except (ValueError, TypeError) as error:
                found[where] = [{"error": str(error)}]
                continue
            if name == "vars":
                found[path] = arrays_by_number(inner, path)
                seen += len(found[path])
            elif isinstance(inner, h5py.Group):
                stack.append((inner, where))
    return dict(sorted(found.items()))


def arrays_by_number(stored: Any, path: str) -> list[dict[str, Any]]:
    """Return the arrays "0", "1", ... of a group."""
    try:
        if not isinstance(stored, h5py.Group):
            raise TypeError(f"'vars' of {path!r} is not a group")
        if len(stored) > MAX_NAMES:
            raise ValueError(f"{path} has {len(stored)} arrays")
        return [describe_array(stored, str(number)) for number in range(len(stored))]
    except (ValueError, TypeError) as error:
        return [{"error": str(error)}]


def describe_array(group: Any, path: str) -> dict[str, Any]:
    """Return the name, shape, dtype and offset of an array, or the error why it cannot be read."""
    try:
        found = group
        for part in path.split("/"):
            found = child(found, part)
        if not isinstance(found, h5py.Dataset):
            raise TypeError(f"{path!r} is not a dataset")
        return locate(found)
    except (ValueError, TypeError) as error:
        return {"error": str(error)}


def locate(dataset: Any) -> dict[str, Any]:
    """Return the name, shape, dtype and offset of a contiguous dataset."""
    kind = dataset.dtype
    # Compares types in the file: the dtype does not determine the bit layout of a float.
    if not any(dataset.id.get_type().equal(known) for known in FLOATS):
        raise TypeError(f"{dataset.name} has dtype {kind}; weights are float32 or float64")
    if dataset.is_virtual or dataset.external or dataset.chunks is not None:
        raise ValueError(f"{dataset.name} is not contiguous in this file, as Keras writes it")
    declared, stored = int(np.prod(dataset.shape, dtype=object)) * kind.itemsize, dataset.id.get_storage_size()
    offset = dataset.id.get_offset() if declared else 0
    if offset is None or stored != declared:
        raise ValueError(f"{dataset.name} declares {declared} bytes but stores {stored}")
    return {"name": dataset.name, "shape": list(dataset.shape), "dtype": kind.str, "offset": int(offset)}


def child(group: Any, name: str) -> Any:
    """Return a member of a group; soft and external links are refused."""
    if not isinstance(group, h5py.Group):
        raise TypeError(f"{group!r} is not a group")
    if not name or name == "." or name not in group:
        raise ValueError(f"there is no {name!r} in {group.name!r}")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise TypeError(f"{name!r} in {group.name!r} is a link, which is not followed")
    return group[name]


def read_names(group: Any, attribute: str) -> list[str]:
    """Return a list of names, from `attribute`, or in chunks from `attribute` 0, 1, ..."""
    present = [attribute] if attribute in group.attrs else []
    while not present or present[-1] != attribute:
        chunk = f"{attribute}{len(present)}"
        if chunk not in group.attrs:
            break
        present.append(chunk)
    found: list[str] = []
    for part in present:
        identifier = group.attrs.get_id(part)
        count = int(np.prod(identifier.shape, dtype=object))
        if count > MAX_NAMES or count * identifier.dtype.itemsize > MAX_NAMES_BYTES:
            raise ValueError(f"{part} of {group.name!r} is too long")
        if count:  # an empty list is stored as an array of floats
            found += [to_str(value) for value in np.asarray(group.attrs[part]).reshape(-1)]
    return found


def read_text(attributes: Any, name: str) -> str:
    """Return a text attribute of bounded length."""
    identifier = attributes.get_id(name)
    if identifier.shape != () or identifier.dtype.itemsize > MAX_CONFIG:
        raise ValueError(f"{name} is not a text of at most {MAX_CONFIG} bytes")
    found = to_str(attributes[name])
    if len(found) > MAX_CONFIG:
        raise ValueError(f"{name} has {len(found)} characters; at most {MAX_CONFIG} are allowed")
    return found


def to_str(value: Any) -> str:
    """Return text or bytes as str."""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a name")
    return str(value)


def main(path: str) -> int:
    """Print the reply for a file, or {"error"}; the exit code is 0 unless the HDF5 library crashes."""
    limit_memory()
    try:
        with h5py.File(path, "r") as file:
            reply = describe(file)
    except Exception as error:  # noqa: BLE001 - h5py raises many types for a damaged file
        reply = {"error": str(error)}
    json.dump(reply, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
