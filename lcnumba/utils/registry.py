"""Objects by name: snake_case, CamelCase, an instance, or a config dict, as Keras takes them."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["build", "config_of"]


def build(
    kind: str, table: Mapping[str, Any], identifier: Any, renamed: Mapping[str, str | None] = MappingProxyType({})
) -> Any:
    """Return the object for a name or a config dict; anything else unchanged.

    Nothing is imported: a name that is not in the table is an error.

    Parameters
    ----------
    kind : str
        Its name in messages: "activation", "optimizer", ....
    table : mapping of str to callable
        The constructors, by snake_case name or by the exact name.
    identifier : str, dict or object
        A name, or a config as Keras writes it, now or formerly: ``{"class_name": name, "config": {...}}`` with
        other entries, ``{"class_name": "function", "config": name}``.
    renamed : mapping of str to str or None
        Names of config entries here; entries renamed to None are dropped.
    """
    if isinstance(identifier, str):
        return _find(kind, table, identifier)()
    if isinstance(identifier, Mapping):
        name, config = identifier.get("class_name"), identifier.get("config") or {}
        if name == "function" and isinstance(config, str):
            return _find(kind, table, config)()
        if not isinstance(name, str) or not isinstance(config, Mapping):
            raise TypeError(f"{kind} must be a config with 'class_name' and 'config', got {identifier!r}")
        make = _find(kind, table, name)
        config = {renamed.get(entry, entry): value for entry, value in config.items()}
        config.pop(None, None)
        try:
            return make(**config)
        except TypeError as error:
            raise TypeError(f"cannot create {kind} from {identifier!r}: {error}") from error
    if isinstance(identifier, type):
        raise TypeError(f"{kind}={identifier!r} is a class; give an instance, {identifier.__name__}(...)")
    return identifier


def config_of(instance: Any) -> dict[str, Any]:
    """Return the config dict from which `build` creates an equal object."""
    return {"class_name": type(instance).__name__, "config": instance.get_config()}


def _find(kind: str, table: Mapping[str, Any], name: str) -> Any:
    found = table.get(name) or table.get(_snake(name))
    if found is None:
        raise ValueError(f"{kind}={name!r} is not known; give one of {', '.join(sorted(table))}")
    return found


def _snake(name: str) -> str:
    """ReLU -> relu, GlorotUniform -> glorot_uniform, SGD -> sgd."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()
