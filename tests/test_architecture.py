"""The shape of the code base itself."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lcnumba

PACKAGE = Path(lcnumba.__file__).parent
ORACLE = PACKAGE / "testing" / "reference.py"
MODULES = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "lcnumba.") if not m.name.endswith("__main__")]
# `tests/frameworks` runs the examples of those that import a framework.
WITH_FRAMEWORKS = {
    f"lcnumba.{name}"
    for name in (*lcnumba._BRIDGES, "bridges.jax", "bridges.tensorflow", "bridges.torch", "bridges.xla")
}

# Rooms, from the lowest floor up: a file imports from its own room and from floors below alone. A room is a folder, or
# a file at the top.
FLOORS = [
    {"runtime"},
    {"utils"},
    {"activations", "connectivity", "constraints", "formats", "gradients", "initializers", "kernels", "metrics",
     "regularizers", "schedules"},
    {"implementations", "losses", "optimizers", "testing"},
    {"functional", "layers", "reference"},
    {"protocol"},
    {"callbacks"},
    {"training"},
    {"models"},
    {"bridges", "bridges.keras2", "estimators", "mpi", "plotting"},
    set(lcnumba._BRIDGES),
    {"tools"},
    {"__main__"},
]  # fmt: skip
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports(path):
    """Modules of the package that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute, so that this test sees them"
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        yield from (name.removeprefix("lcnumba.") for name in names if name.startswith("lcnumba."))


def module(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def room(name):
    """The room of a module: its folder, or its own name at the top."""
    return name if (PACKAGE / name.replace(".", "/")).is_dir() or "." not in name else name.rpartition(".")[0]


FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
BY_NAME = {module(path): path for path in FILES}
FOLDERS = [path for path in FILES if path.name == "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_dependencies_point_one_way(path):
    mine = room(module(path))
    for name in imports(path):
        if name in BY_NAME and room(name) != mine:
            assert FLOOR_OF[room(name)] < FLOOR_OF[mine], f"{module(path)} imports {name}"


def test_few_files_use_the_lazy_names_of_the_package():
    """They could import anything, against the order of floors; each has its reason."""
    reasons = {
        "__main__": "the top floor",
        "layers.registry": "layers are imported by their public names",
        "tools.bench": "its version", "tools.info": "its version and folder",
        "training.run": "a history draws itself by lcnumba.plotting",
        "utils.messages": "what is called otherwise in other libraries is looked up among the public names",
    }  # fmt: skip
    found = {
        module(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and "lcnumba" in [alias.name for alias in node.names]
    }
    assert found == set(reasons)


def test_files_of_a_room_import_each_other_in_one_direction():
    depends = {name: {other for other in imports(path) if other in BY_NAME} for name, path in BY_NAME.items()}
    done = set()

    def visit(name, way):
        assert name not in way, f"a circle: {' -> '.join([*way, name])}"
        if name not in done:
            for other in sorted(depends[name] - {name}):
                visit(other, [*way, name])
            done.add(name)

    for name in depends:
        visit(name, [])


@pytest.mark.parametrize("path", FOLDERS, ids=module)
def test_a_folder_is_a_documented_namespace_or_machinery(path):
    """Its ``__init__`` re-exports public names, and nothing else; or it is a docstring."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    rest = tree.body[1:]
    if module(path) in lcnumba._MODULES:
        assert all(isinstance(node, ast.ImportFrom | ast.Assign | ast.FunctionDef) for node in rest)
        assert [node.name for node in rest if isinstance(node, ast.FunctionDef)] == ["__dir__"]
    else:
        # But for a hint to whoever looks for another library's `layers` or `models`.
        if module(path) == "kernels":  # before Numba is imported
            assert ast.unparse(rest) == "from lcnumba.runtime import forks\nforks.guard()"
        else:
            assert not rest or rest[-1].name == "__getattr__", "machinery is imported from its files"


def test_a_file_at_the_top_is_a_documented_namespace():
    at_the_top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in FOLDERS if module(path) in lcnumba._MODULES}
    assert at_the_top | folders == {*lcnumba._MODULES, *lcnumba._BRIDGES}


def test_tests_mirror_the_rooms():
    """So that the test of a file is found by its path."""
    tests = Path(__file__).parent
    rooms = {path.parent.relative_to(PACKAGE) for path in FOLDERS}
    for path in tests.rglob("test_*.py"):
        folder = path.parent.relative_to(tests)
        assert folder in rooms or str(folder) in (".", "frameworks", "interop"), path


def test_the_oracle_imports_numpy_alone():
    names = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(ORACLE.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert names == {"numpy"}
    assert not list(imports(ORACLE))


def run(code, cwd):
    # -P: the installed package, whatever folder the tests run in.
    return subprocess.run([sys.executable, "-P", "-c", code], cwd=cwd, capture_output=True, text=True, check=True)


def test_importing_brings_in_neither_numba_nor_scipy(tmp_path):
    code = "import sys, lcnumba; dir(lcnumba); print([m for m in ('numba', 'scipy', 'numpy') if m in sys.modules])"
    assert run(code, tmp_path).stdout.strip() == "[]"
    code = (
        "import sys, lcnumba; [getattr(lcnumba, n) for n in lcnumba.__all__]; "
        "lcnumba.LocallyConnected2D(2, 3, input_shape=(5, 5, 1)); "
        "print([m for m in ('numba', 'scipy', 'matplotlib', 'tqdm', 'sklearn') if m in sys.modules])"
    )
    assert run(code, tmp_path).stdout.strip() == "[]"


def test_importing_brings_in_no_framework(tmp_path):
    code = """
import sys
class Refusing:
    def find_spec(name, path=None, target=None):
        if name in ("jax", "keras", "onnx", "tensorflow", "torch"):
            raise RuntimeError(name)
sys.meta_path.insert(0, Refusing)
import lcnumba
[getattr(lcnumba, name) for name in dir(lcnumba)]
print(lcnumba.LocallyConnected1D(1, 2, kernel_initializer="ones")([[[1.0], [2.0], [4.0]]]).tolist())
"""
    assert run(code, tmp_path).stdout == "[[[3.0], [6.0]]]\n"


@pytest.mark.parametrize("name", lcnumba._BRIDGES)
def test_a_bridge_without_its_framework_says_what_to_install(name, tmp_path):
    code = f"import sys; sys.modules[{name!r}] = None; import lcnumba; lcnumba.{name}"
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(code, tmp_path)
    extra = "keras3" if name == "keras" else name
    assert f"pip install 'lcnumba[{extra}]', or '.[{extra}]' in a checkout" in error.value.stderr


def test_importing_installs_no_hook_and_starts_no_thread(tmp_path):
    code = """
import os, signal, sys, threading
hooks, handlers = [], {number: signal.getsignal(number) for number in signal.valid_signals()}
os.register_at_fork = lambda **functions: hooks.append(sorted(functions))
import lcnumba
assert threading.active_count() == 1
assert handlers == {number: signal.getsignal(number) for number in signal.valid_signals()}
print(hooks)
import lcnumba.kernels
print(["after_in_child", "after_in_parent", "before"] in hooks, "numba" in sys.modules)
"""
    assert run(code, tmp_path).stdout == "[]\nTrue False\n"


def test_public_names():
    assert set(lcnumba.__all__) == set(lcnumba._HOMES)
    assert lcnumba.__version__
    assert set(lcnumba.__all__) <= set(dir(lcnumba))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        lcnumba.nope  # noqa: B018


@pytest.mark.parametrize("name", sorted(set(MODULES) - WITH_FRAMEWORKS))
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("path", FILES, ids=module)
def test_locks_are_those_that_forked_children_find_free(path):
    """Of threading's own, a child waits for ever for one that another thread held; so for functools.cached_property."""
    if module(path) in ("runtime.locks", "runtime.threads"):
        return
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    imported = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in ("threading", "functools")
        for alias in node.names
    }
    found = (names | imported) & {"Lock", "RLock", "Condition", "Semaphore", "Event", "Barrier", "cached_property"}
    assert not found, "use lcnumba.runtime.locks and lcnumba.utils.lazy"


def test_namespaces_are_attributes_and_show_public_names_alone():
    pytest.importorskip("sklearn")
    code = "import lcnumba; assert lcnumba.estimators.LocallyConnectedClassifier; assert lcnumba.protocol.Layer"
    run(code, PACKAGE.parent)
    for name in lcnumba._MODULES:
        assert name in dir(lcnumba)
        module = getattr(lcnumba, name)
        assert dir(module) == sorted(module.__all__)
    assert not [name for name in dir(lcnumba) if name.startswith("_") and name != "__version__"]


def test_help_works_without_scikit_learn(tmp_path):
    code = (
        "import sys, importlib.util as util; found = util.find_spec; sys.modules['sklearn'] = None\n"
        "util.find_spec = lambda name, *rest: None if name == 'sklearn' else found(name, *rest)\n"
        "import lcnumba, inspect; names = [name for name, _ in inspect.getmembers(lcnumba)]\n"
        "assert 'losses' in names and 'estimators' not in names"
    )
    run(code, tmp_path)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_what_is_imported_late_is_imported_as_a_whole(path):
    """An interrupt in the middle would leave it half imported for good: under `deferred`, or by `import_whole`."""
    if module(path) in ("tools.demo", "bridges.keras2.index"):  # programs, which end by it
        return
    tree = ast.parse(path.read_text())
    held = {"TYPE_CHECKING", "deferred()", "import_whole"}

    def late(node, inside, is_held):
        for child in ast.iter_child_nodes(node):
            conditions = [ast.unparse(item.context_expr) for item in getattr(child, "items", [])]
            conditions += [ast.unparse(child.test)] if isinstance(child, ast.If) else []
            conditions += [ast.unparse(each) for each in getattr(child, "decorator_list", [])]
            if isinstance(child, ast.Import | ast.ImportFrom) and inside and not is_held:
                names = [child.module] if isinstance(child, ast.ImportFrom) else [alias.name for alias in child.names]
                yield from (name for name in names if name.partition(".")[0] not in sys.stdlib_module_names)
            is_function = isinstance(child, ast.FunctionDef | ast.Lambda)
            yield from late(child, inside or is_function, is_held or bool(held & set(conditions)))

    assert list(late(tree, False, False)) == []


def test_a_program_without_metadata_can_be_told_of(tmp_path):
    """As a frozen one."""
    code = """
import importlib.metadata
def version(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = version
import lcnumba
from lcnumba.tools import bench, info
print(lcnumba.__version__, info.versions(["numpy"]), bench.environment()["lcnumba"])
"""
    assert run(code, tmp_path).stdout == "unknown {} unknown\n"
