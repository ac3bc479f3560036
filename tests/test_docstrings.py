"""Every public class and function has an example in its docstring; `test_architecture` runs them."""

import doctest
import importlib
import inspect

import pytest

pytest.importorskip("sklearn", minversion="1.6")

import lcnumba

# Modules whose names users reach, beside those of the package itself.
MODULES = lcnumba._MODULES
# Names, with their modules, that have no example, each with the reason.
EXEMPT: set[str] = set()


def public():
    """Yield the public classes and functions by name: no values, aliases of types, or Protocols."""
    names = [("lcnumba", name) for name in lcnumba.__all__]
    modules = [f"lcnumba.{module}" for module in MODULES]
    names += [(module, name) for module in modules for name in importlib.import_module(module).__all__]
    for module, name in names:
        found = getattr(importlib.import_module(module), name)
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
def test_examples_are_run(name):
    """Doctest passes over what it takes for another module's, and `test_architecture` runs the examples of modules."""
    found = PUBLIC[name]
    if found.__module__ == "lcnumba":  # where users find a class, and not where it is written
        tests = doctest.DocTestFinder().find(found, name, module=False)
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        assert sum(runner.run(test).failed for test in tests) == 0
    else:
        tests = doctest.DocTestFinder().find(importlib.import_module(found.__module__))
        name = f"{found.__module__}.{found.__qualname__}"
    assert any(test.name == name and test.examples for test in tests)
