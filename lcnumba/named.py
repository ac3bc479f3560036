"""Objects by name: snake_case, CamelCase, an instance, or a config dict, as Keras takes them."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["build", "config_of"]


def build(kind: str, table: Mapping[str, Any], identifier: Any) -> Any:
    """Return the object that a string or a config dict stands for; anything else unchanged.

    Parameters
    ----------
    kind : str
        What messages call it: "activation", "optimizer", ....
    table : mapping of str to class
        The known classes by snake_case name.
    identifier : str, dict or object
        A name, or ``{"class_name": name, "config": {...}}``.
    """
    if isinstance(identifier, str):
        return _find(kind, table, identifier)()
    if isinstance(identifier, Mapping):
        name, config = identifier.get("class_name"), identifier.get("config") or {}
        if not isinstance(name, str) or not isinstance(config, Mapping):
            raise TypeError(f"{kind}={identifier!r} is no config; give 'class_name' and 'config'")
        return _find(kind, table, name)(**config)
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
