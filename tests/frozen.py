"""Freeze a program that trains with the library, in the ways of PyInstaller, and see that it computes its own numbers.

``python tests/frozen.py`` freezes two programs as PyInstaller does by default, where no module is a file, and two whose
modules are files of bytecode. The second of each has a library with another formula of SGD. All share one folder of
compiled code, from which none may take what another one compiled. Takes minutes, and PyInstaller.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import lcnumba

PROGRAM = """
from pathlib import Path
import numpy as np
import lcnumba as lc

layer = lc.LocallyConnected2D(4, 3, kernel_initializer="ones", input_shape=(6, 6, 3))
y, backward = layer.forward(np.ones((2, 6, 6, 3), np.float32))
layer.step(backward(np.ones_like(y))[1], lr=0.5)  # by 0.5 times the sum over two samples
print(np.unique(y), np.unique(layer.kernel))
print(lc.__version__)
Path("model.h5").write_bytes(bytes.fromhex("894844460d0a1a0a") + bytes(512))  # begins as HDF5 does
try:
    lc.load_keras("model.h5")
except ValueError as error:  # it must not run this program once more
    print(error)
"""

# How modules are collected: by default within the program, or as files of bytecode.
HOOKS = {"default": "", "bytecode": "module_collection_mode = {'lcnumba': 'pyc'}\n"}

FORMULA = "p[e] -= lr * _regularized_gradient(p, grad, e, regularized, hyper)"
FORMULAS = {"this": FORMULA, "another": f"{FORMULA} * 2"}
WEIGHTS = {"this": "[0.]", "another": "[-1.]"}


def freeze(folder: Path, way: str, formula: str) -> Path:
    """Return the program, with all that it needs beside it."""
    place = folder / f"{way}-{formula}"
    copytree(Path(lcnumba.__file__).parent, place / "lcnumba", ignore=ignore_patterns("__pycache__"))
    kernel = place / "lcnumba/kernels/update.py"
    before = kernel.read_text()
    assert before.count(FORMULA) == 1
    kernel.write_text(before.replace(FORMULA, FORMULAS[formula]))
    (place / "hook-lcnumba.py").write_text(HOOKS[way])
    (place / "program.py").write_text(PROGRAM)
    subprocess.run(
        [
            sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=ERROR", "--paths", place,
            "--additional-hooks-dir", place, "--exclude-module", "matplotlib", "--exclude-module", "tkinter",
            "program.py",
        ],
        cwd=place, check=True,
    )  # fmt: skip
    return place / "dist/program/program"


def main() -> int:
    """Freeze and run all; print what they say, and return how many are wrong."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for way in HOOKS:
            for formula, weights in WEIGHTS.items():
                program = freeze(folder, way, formula)
                found = subprocess.run(
                    [program], cwd=folder, env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "compiled")},
                    capture_output=True, text=True, timeout=600, check=False,
                )  # fmt: skip
                lines = found.stdout.splitlines()
                right = (
                    found.returncode == 0 and len(lines) == 3 and lines[0] == f"[27.] {weights}"
                    and "a frozen program cannot start" in lines[2]
                )  # fmt: skip
                wrong += not right
                print(f"{way}, {formula} formula: {'right' if right else 'WRONG'}", *lines, sep="\n    ")
                if not right:
                    print(found.stderr)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
