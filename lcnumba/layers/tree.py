"""Traversal of the layers of a model, including those of inner models."""

from collections.abc import Iterator
from typing import Any

__all__ = ["Container", "flat_layers", "is_model", "leaves", "models", "walk"]


class Container:
    """A layer that contains layers: a model."""

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, in order."""
        raise NotImplementedError


def is_model(layer: Any, custom: bool = False) -> bool:
    """Whether a layer is made of layers that are walked into; `custom`: also a user's class that has `layers`.

    A custom layer of layers has weights, files and steps of its own, so that a model treats it as one layer. But its
    layers' optimizers and random numbers are those of the model, too.
    """
    return isinstance(layer, Container) or (custom and hasattr(layer, "layers") and hasattr(layer, "get_weights"))


def walk(layer: Any, *trees: Any) -> Iterator[tuple[Any, ...]]:
    """Yield each layer that is not a model, with its entries of trees shaped like the model.

    Parameters
    ----------
    layer : layer or model
        A layer that is not a model is yielded itself.
    *trees : sequences
        One entry per layer; the entry of an inner model is again such a sequence.

    Raises
    ------
    ValueError
        If the number of entries and the number of layers differ.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba.layers.tree import walk
    >>> model = lc.Sequential([lc.Sequential([lc.Flatten(name="flat")]), lc.Dense(2, name="scores")])
    >>> [(layer.name, number) for layer, number in walk(model, [[1], 2])]
    [('flat', 1), ('scores', 2)]
    """
    if not is_model(layer):
        yield layer, *trees
        return
    for entries in zip(layer.layers, *trees, strict=True):
        yield from walk(*entries)


def flat_layers(layer: Any) -> Iterator[Any]:
    """Yield the layers of a model that are not models, including those of inner models; of a layer, itself.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba.layers.tree import flat_layers
    >>> inner = lc.Sequential([lc.Flatten(name="flat")])
    >>> [layer.name for layer in flat_layers(lc.Sequential([inner, lc.Dense(2, name="scores")]))]
    ['flat', 'scores']
    """
    return (leaf for (leaf,) in walk(layer))


def leaves(model: Any) -> Iterator[Any]:
    """Yield what `flat_layers` does, and in place of a custom layer of layers those that it is made of.

    Examples
    --------
    >>> import lcnumba as lc
    >>> from lcnumba.protocol import leaves
    >>> inner = lc.Sequential([lc.Flatten(name="flat")])
    >>> [layer.name for layer in leaves(lc.Sequential([inner, lc.Dense(2, name="scores")]))]
    ['flat', 'scores']
    """
    for layer in model.layers:
        if is_model(layer, custom=True):
            yield from leaves(layer)
        else:
            yield layer


def models(model: Container) -> Iterator[Any]:
    """Yield a model and all its inner models."""
    yield model
    for layer in model.layers:
        if is_model(layer):
            yield from models(layer)
