"""Every public class and function has an example in its docstring; `test_architecture` runs them."""

import doctest
import importlib
import inspect

import pytest

pytest.importorskip("sklearn", minversion="1.6")

import lcnumba

# Modules whose names users reach, beside those of the package itself.
MODULES = [*lcnumba._MODULES, "estimators", "reference"]
# Names, with their modules, that have no example, each with the reason.
EXEMPT: set[str] = set()


def public():
    """Yield the public classes and functions by name: no values, aliases of types, or Protocols."""
    names = [(lcnumba._HOMES[name], name) for name in lcnumba.__all__]
    names += [(module, name) for module in MODULES for name in importlib.import_module(f"lcnumba.{module}").__all__]
    for module, name in names:
        found = getattr(importlib.import_module(f"lcnumba.{module}"), name)
        if inspect.isroutine(found) or (inspect.isclass(found) and not getattr(found, "_is_protocol", False)):
            yield f"{module}.{name}", found


PUBLIC = dict(public())


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - EXEMPT))
def test_there_is_an_example(name):
    # A class' own docstring: inspect.getdoc would look at its bases, too.
    text = inspect.cleandoc(PUBLIC[name].__doc__ or "")
    _, heading, examples = text.partition("\nExamples\n--------\n")
    assert heading, "there is no section of examples"
    assert ">>> " in examples


def test_exempt_names_exist():
    assert set(PUBLIC) >= EXEMPT


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - EXEMPT))
def test_examples_are_among_those_that_are_run(name):
    """Doctest passes over what it takes for another module's: a function whose globals are not those of its module."""
    module, _, last = name.rpartition(".")
    found = doctest.DocTestFinder().find(importlib.import_module(f"lcnumba.{module}"))
    assert any(test.name == f"lcnumba.{name}" and test.examples for test in found), last
