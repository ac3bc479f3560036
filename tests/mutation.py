"""Mutation testing: change the library in one place at a time, and check that a test fails.

    python tests/mutation.py                                          # all modules of the table
    python tests/mutation.py --module layers.dense --module optimizers
    python tests/mutation.py --module layers.dense --sample 0.25 --seed 1  # a quarter of the changes
    python tests/mutation.py --module connectivity.geometry --again   # the survivors again
    python tests/mutation.py --list                                   # print the known results only

Mutated are comparisons, arithmetic, numbers, truth values, conditions, bounds of slices and returned values; statements
with a side effect are removed. Not mutated are docstrings, annotations, decorators, strings, messages, and zip's
`strict`. A mutant is tested by the tests that run its line, those of its own file first, within --budget seconds; it is
killed if one fails, if the interpreter crashes, or if they take much longer than without it. Kernels run as plain
Python. Results are cached in a file outside the repository while the source is unchanged; runs of different modules can
run concurrently.

mutmut forks a process in which Numba's threads may run, which GNU OpenMP does not survive, and cosmic-ray edits the
files in place and starts an interpreter for each mutant, which takes longer than most tests; hence this driver.
"""

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path

import hypothesis
import numba
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRATCH = Path(tempfile.gettempdir()) / "lcnumba-mutation"
MEMORY = 12 << 30  # bytes of address space of a child, so that a wrong size is an error

# The tests of each module, besides the examples in its docstrings.
TESTS = {
    "connectivity.geometry": "connectivity/geometry layers/beyond_keras implementations/implementations",
    "connectivity.sharing": "connectivity/sharing connectivity/geometry layers/beyond_keras",
    "connectivity.topology": "connectivity/topology kernels/directed layers/locally_directed",
    "bridges.layouts": "bridges/layouts",
    "bridges.keras2.layouts": "bridges/keras2/layouts bridges/keras2/models bridges/keras2/parity runtime/memory",
    "layers.locally_connected": (
        "layers/locally_connected layers/beyond_keras kernels/update layers/regularization implementations/cost "
        "initializers bridges/keras2/parity utils/keras_config runtime/memory"
    ),
    "layers.locally_connected_transpose": "layers/locally_connected_transpose",
    "layers.locally_directed": "layers/locally_directed kernels/directed implementations/cost",
    "layers.convolution": "layers/convolution bridges/keras2/companions",
    "layers.windowed": (
        "layers/beyond_keras layers/locally_connected layers/locally_connected_transpose layers/convolution"
    ),
    "layers.pooling": "layers/pooling bridges/keras2/companions",
    "layers.batch_normalization": "layers/batch_normalization bridges/keras2/companions",
    "layers.shapes": "layers/shapes bridges/keras2/companions",
    "layers.advanced_activations": "layers/advanced_activations bridges/keras2/companions",
    "optimizers": "optimizers kernels/update layers/regularization bridges/keras2/parity runtime/memory",
    "constraints": "layers/regularization layers/beyond_keras layers/locally_connected bridges/keras2/parity",
    "regularizers": "layers/regularization layers/parameters layers/locally_connected bridges/keras2/parity",
    "layers.parameters": (
        "layers/locally_connected layers/regularization layers/parameters kernels/update layers/beyond_keras "
        "runtime/memory formats/checkpoint utils/arrays training/loop"
    ),
    "layers.base": (
        "layers/locally_connected layers/beyond_keras layers/regularization layers/parameters runtime/memory "
        "bridges/keras2/own_layers models/sequential layers/dense formats/checkpoint"
    ),
    "layers.backward": "layers/locally_connected layers/regularization kernels/update utils/arrays layers/parameters",
    "runtime.memory": "runtime/memory",
    "runtime.locks": "runtime/locks layers/locally_connected runtime/signals",
    "utils.validation": (
        "layers/locally_connected connectivity/geometry optimizers layers/regularization utils/arrays "
        "layers/beyond_keras layers/dense implementations/cost models/sequential"
    ),
    "utils.arrays": "utils/arrays layers/locally_connected layers/regularization training/data",
    "implementations.create": "implementations/implementations",
    "implementations.cache": "implementations/implementations layers/locally_connected",
    "implementations.dense": "implementations/implementations layers/beyond_keras kernels/tile runtime/memory",
    "implementations.loop": (
        "implementations/implementations kernels/tile kernels/update layers/beyond_keras runtime/memory "
        "layers/locally_connected"
    ),
    "implementations.directed": "kernels/directed layers/locally_directed",
    "implementations.masked": "layers/beyond_keras layers/locally_connected",
    "implementations.matrix": (
        "implementations/implementations layers/locally_connected kernels/update layers/beyond_keras"
    ),
    "implementations.scratch": "implementations/scratch implementations/implementations runtime/memory",
    "implementations.sparse": "implementations/implementations layers/beyond_keras runtime/memory",
    "kernels.update": "optimizers",
    "kernels.plain": "implementations/implementations",
}

SWAPS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,), ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,), ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}  # fmt: skip
NAMES = {a: b for pair in ("min max", "minimum maximum", "any all") for a, b in (pair.split(), pair.split()[::-1])}


def test_file(name):
    """Return the path of a test in the table: "layers/dense" is tests/layers/test_dense.py."""
    folder, _, last = name.rpartition("/")
    return f"tests/{folder}{'/' if folder else ''}test_{last}.py"


def skipped(node):
    """Return whether a node is not mutated."""
    if isinstance(node, ast.ClassDef):
        return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    if isinstance(node, ast.Assign):  # lists of names, and names of types
        name = ast.unparse(node.targets[0])
        return name == "__all__" or (node.col_offset == 0 and name != name.upper() and name[0].isupper())
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg == "strict")


def works_by_a_side_effect(node):
    """Return whether a statement has a side effect."""
    if isinstance(node, ast.Assign):
        return not all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets)
    if isinstance(node, ast.Raise):
        return "NotImplementedError" not in ast.unparse(node)
    return isinstance(node, ast.Break | ast.Continue | ast.Delete | ast.AugAssign) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    )


def variants(node, parent, field):
    """Yield the mutants of a node."""
    if isinstance(node, tuple(SWAPS)):
        yield from (other() for other in SWAPS[type(node)])
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield ast.Name(NAMES[node.id], ast.Load())
    elif isinstance(node, ast.Attribute) and node.attr in NAMES and isinstance(node.ctx, ast.Load):
        yield ast.Attribute(node.value, NAMES[node.attr], ast.Load())
    elif isinstance(node, ast.Return) and not (node.value is None or ast.unparse(node.value) == "None"):
        yield ast.Return(ast.Constant(None))
    elif works_by_a_side_effect(node):
        yield ast.Pass()
    if field in ("lower", "upper") and isinstance(parent, ast.Slice):
        yield None
    # A single comparison and `not` have been negated already.
    negated = isinstance(node, ast.UnaryOp) or (isinstance(node, ast.Compare) and len(node.ops) == 1)
    if (field == "ifs" or (field == "test" and not isinstance(parent, ast.Assert))) and not negated:
        yield ast.UnaryOp(ast.Not(), node)


def changes(node, statement=None, waits=False):
    """Yield a change (lines of its statement, whether it waits for a call, line, make, undo, text) for each below."""
    for field, value in list(ast.iter_fields(node)):
        if field in ("annotation", "returns", "decorator_list", "keywords" if isinstance(node, ast.ClassDef) else ""):
            continue
        if isinstance(node, ast.Raise) or (field == "target" and isinstance(node, ast.AnnAssign)):
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(0, value)]
        if isinstance(node, ast.Call) and field == "args" and ast.unparse(node.func) == "isinstance":
            del children[1:]  # types
        for at, child in children:
            if not isinstance(child, ast.AST) or skipped(child):
                continue
            own = child if isinstance(child, ast.stmt) else statement
            called = waits or (field == "body" and isinstance(node, ast.FunctionDef))
            holder = child if hasattr(child, "lineno") else node
            for new in variants(child, node, field):

                def put(new, field=field, value=value, at=at):
                    setattr(node, field, [*value[:at], new, *value[at + 1 :]] if isinstance(value, list) else new)

                text = ast.unparse(holder)
                put(new)
                text += f" -> {ast.unparse(new if holder is child and new is not None else node)}"
                put(child)
                body = getattr(own, "body", None)  # only the head of a compound statement
                end = max(own.lineno, body[0].lineno - 1) if body else own.end_lineno
                lines = set(range(own.lineno, end + 1))
                yield lines, called, holder.lineno, lambda p=put, n=new: p(n), lambda p=put, c=child: p(c), text
            yield from changes(child, own, called)


class Changed(SourceFileLoader):
    """Imports one module with its change."""

    def get_code(self, fullname):
        return self.code

    def find_spec(self, fullname, path=None, target=None):
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None


class Plugin:
    """Runs the named tests in order; or all, recording the time of each and the lines of `path` it runs."""

    def __init__(self, path, names=None, notes=None):
        self.path, self.names, self.notes = str(path), names, notes

    def pytest_sessionstart(self):
        """Use fewer examples without shrinking, in place of conftest's profile."""
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        few = hypothesis.settings(hypothesis.settings.default, max_examples=30, phases=phases, database=None)
        hypothesis.settings.register_profile("mutation", few)
        hypothesis.settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items):
        if self.names is not None:
            found = {item.nodeid: item for item in items}
            # Some names hold values of what was changed.
            items[:] = [found[name] for name in self.names if name in found]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if self.notes is None:
            return (yield)
        begin, lines = time.perf_counter(), set()

        def each(frame, *_):
            lines.add(frame.f_lineno)
            return each

        def trace(frame, *_):
            return each if frame.f_code.co_filename == self.path else None

        threading.settrace(trace)
        sys.settrace(trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            with self.notes.open("a") as file:
                file.write(json.dumps([item.nodeid, time.perf_counter() - begin, sorted(lines)]) + "\n")


class Module:
    """A module to change, and its tests."""

    def __init__(self, name):
        path = ROOT / "lcnumba" / name.replace(".", "/")
        self.name, self.path = name, path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]
        self.tree = ast.parse(self.path.read_bytes())
        self.changes = list(enumerate(changes(self.tree)))
        self.log = SCRATCH / f"{name}-{os.getpid()}.log"
        self.durations, self.lines = {}, {}

    def run(self, plugin, files, seconds):
        """Run tests on the current tree in a child process, and return how it ended."""
        code = compile(ast.fix_missing_locations(self.tree), str(self.path), "exec")
        child = os.fork()
        if not child:
            self.be_a_child(code, plugin, files)
        end, found = time.monotonic() + seconds, 0
        while not found and time.monotonic() < end:
            time.sleep(0.005)
            found, status = os.waitpid(child, os.WNOHANG)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and its children
        if not found:
            os.waitpid(child, 0)
            return "hung"
        code = os.waitstatus_to_exitcode(status)
        # 2: the module cannot be imported; 3 to 5: errors of pytest itself.
        ends = {0: "survived", 1: "failed", 2: "failed", 3: "unknown", 4: "unknown", 5: "unknown"}
        return ends.get(code, f"died ({code})")

    def be_a_child(self, code, plugin, files):
        """Run tests, and exit the process."""
        status = 70
        try:
            os.setsid()
            with self.log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
            numba.config.DISABLE_JIT = self.name.startswith("kernels.")
            loader = Changed(f"lcnumba.{self.name}", str(self.path))
            loader.code = code
            sys.meta_path.insert(0, loader)
            rest = ["-xqpno:cacheprovider", "-mnot slow", f"--basetemp={self.log.with_suffix('.tmp')}"]
            status = int(pytest.main([*files, *rest], plugins=[plugin]))
        finally:
            sys.stdout.flush()
            os._exit(status)

    def measure(self):
        """Record the time and lines of each test; an error if one fails without a change."""
        files = [test_file(file) for file in TESTS[self.name].split()]
        files.append(f"tests/test_architecture.py::test_examples_in_docstrings[lcnumba.{self.name}]")
        notes = self.log.with_suffix(".tests")
        notes.unlink(missing_ok=True)
        how = self.run(Plugin(self.path, notes=notes), files, math.inf)
        if how != "survived":
            sys.exit(f"the tests of {self.name} end without any change ({how}): see {self.log}")
        for name, took, lines in map(json.loads, notes.read_text().splitlines()):
            self.durations[name], self.lines[name] = took, lines

    def try_out(self, change, budget, limit):
        """Return how the tests end with a change, and their number."""
        statement, waits, _, make, undo, _ = change
        own = test_file(TESTS[self.name].split()[0])
        hits = {name for name, lines in self.lines.items() if not statement.isdisjoint(lines)}
        chosen, total = [], 0.0
        for name in sorted(self.lines, key=lambda name: (name not in hits, own not in name, self.durations[name])):
            if (name in hits or not waits) and (not chosen or total + self.durations[name] < budget):
                chosen.append(name)
                total += self.durations[name]
        if not chosen:
            return "survived", 0
        make()
        try:
            files = sorted({name if "[lcnumba." in name else name.partition("::")[0] for name in chosen})
            return self.run(Plugin(self.path, chosen), files, limit + 3 * total), len(chosen)
        finally:
            undo()


def main():
    """Parse the command line, test the mutants, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", action="append", choices=TESTS, help="may be repeated; by default all")
    parser.add_argument("--line", action="append", type=int, help="only mutants of this line; may be repeated")
    parser.add_argument("--sample", type=float, default=1, help="share of the mutants to test")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--budget", type=float, default=8, help="seconds of tests for a change")
    parser.add_argument("--limit", type=float, default=15, help="timeout in seconds, plus three times the normal time")
    parser.add_argument("--again", action="store_true", help="test survivors again")
    parser.add_argument("--list", action="store_true", help="only print known results")
    parser.add_argument("--results", type=Path, default=SCRATCH / "results.jsonl")
    args = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(SCRATCH / "compiled")
    # Compiles and imports once, so that child processes need not.
    for name in ("array_api_compat.numpy", "array_api_strict", "h5py", "hypothesis.strategies", "scipy.sparse"):
        importlib.import_module(name)
    numba.njit(lambda x: x + 1)(np.zeros(3))
    gc.freeze()
    known, total = {}, Counter()
    for line in args.results.read_text().splitlines() if args.results.exists() else ():
        note = json.loads(line)
        known[note["digest"], note["number"], note["text"]] = note["how"]
    for module in map(Module, args.module or TESTS):
        size, ends = len(module.changes), Counter()
        for number, change in sorted(random.Random(args.seed).sample(module.changes, round(args.sample * size))):
            line, text = change[2], change[-1]
            if args.line and line not in args.line:
                continue
            how = known.get((module.digest, number, text), "unknown")
            if not args.list and (how == "unknown" or (args.again and how == "survived")):
                if not module.lines:
                    module.measure()
                begin = time.monotonic()
                how, tests = module.try_out(change, args.budget, args.limit)
                note = {"module": module.name, "digest": module.digest, "number": number, "line": line, "text": text}
                note |= {"how": how, "tests": tests, "took": round(time.monotonic() - begin, 2)}
                with args.results.open("a") as file:
                    file.write(json.dumps(note) + "\n")
            if how == "survived":
                print(f"  {module.path.relative_to(ROOT)}:{line}: {text}", flush=True)
            ends[how if how in ("survived", "unknown") else "killed"] += 1
        share = ends["killed"] / max(1, ends["killed"] + ends["survived"])
        print(f"{module.name}: {dict(ends)} of {size} changes, {share:.1%} killed", flush=True)
        total += ends
    print(dict(total))


if __name__ == "__main__":
    main()
