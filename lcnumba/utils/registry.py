"""Objects by name: snake_case, CamelCase, an instance, or a config dict, as Keras takes them."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["build", "config_of"]


def build(
    kind: str, table: Mapping[str, Any], identifier: Any, renamed: Mapping[str, str | None] = MappingProxyType({})
) -> Any:
    """Return the object that a string or a config dict stands for; anything else unchanged.

    Nothing is ever imported: a name that the table does not hold is an error.

    Parameters
    ----------
    kind : str
        What messages call it: "activation", "optimizer", ....
    table : mapping of str to callable
        What makes each object, by snake_case name or by the very name.
    identifier : str, dict or object
        A name, or a config as Keras writes it, now or formerly: ``{"class_name": name, "config": {...}}`` with
        anything beside, ``{"class_name": "function", "config": name}``.
    renamed : mapping of str to str or None
        What entries of a config are called here; those of None are left out.
    """
    if isinstance(identifier, str):
        return _find(kind, table, identifier)()
    if isinstance(identifier, Mapping):
        name, config = identifier.get("class_name"), identifier.get("config") or {}
        if name == "function" and isinstance(config, str):
            return _find(kind, table, config)()
        if not isinstance(name, str) or not isinstance(config, Mapping):
            raise TypeError(f"{kind}={identifier!r} is no config; give 'class_name' and 'config'")
        make = _find(kind, table, name)
        config = {renamed.get(entry, entry): value for entry, value in config.items()}
        config.pop(None, None)
        try:
            return make(**config)
        except TypeError as error:
            raise TypeError(f"{kind}={identifier!r} cannot be made: {error}") from error
    if isinstance(identifier, type):
        raise TypeError(f"{kind}={identifier!r} is a class; give an instance, {identifier.__name__}(...)")
    return identifier


def config_of(instance: Any) -> dict[str, Any]:
    """The config dict from which `build` makes an equal object."""
    return {"class_name": type(instance).__name__, "config": instance.get_config()}


def _find(kind: str, table: Mapping[str, Any], name: str) -> Any:
    found = table.get(name) or table.get(_snake(name))
    if found is None:
        raise ValueError(f"{kind}={name!r} is not known; give one of {', '.join(sorted(table))}")
    return found


def _snake(name: str) -> str:
    """ReLU -> relu, GlorotUniform -> glorot_uniform, SGD -> sgd."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()
