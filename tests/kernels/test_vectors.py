"""Vector lengths follow the CPU that Numba generates code for."""

import os
import platform
import subprocess
import sys

import pytest

from lcnumba.kernels import vectors

# By NUMBA_CPU_NAME and NUMBA_CPU_FEATURES: the bits of a vector, and the feature of the host that the code needs.
TARGETS = {
    ("generic", ""): (128, "sse2"),
    ("haswell", "+avx2,+fma"): (256, "avx2"),
}


def info(folder, **environment):
    """The lines of ``python -m lcnumba info`` as a dict."""
    command = [sys.executable, "-m", "lcnumba", "info"]
    done = subprocess.run(
        command, env={**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment}, capture_output=True, text=True,
        timeout=300, check=True,
    )  # fmt: skip
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 CPUs")
@pytest.mark.skipif(not vectors.TILED, reason="without vectors")
def test_targets_share_a_cache_folder(tmp_path):
    """Each has the vectors of its CPU, its results are right, and it finds its own code again."""
    usable = {name: bits for name, (bits, feature) in TARGETS.items() if feature in vectors.host_features()}
    assert usable
    sizes = []
    for _ in range(2):
        for (name, features), bits in usable.items():
            facts = info(tmp_path, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)
            assert facts["vectors"].startswith(f"{bits} bits, {bits // 32} float32 elements; register tile")
            assert facts["target"] == f"{name} {features}".strip()
            assert facts["answers"] == "right"
            sizes.append(sorted((file.name, file.stat().st_mtime_ns) for file in tmp_path.rglob("*.nb*")))
    assert sizes[len(usable) - 1] == sizes[-1], "the second round has compiled nothing"
    assert len({len(each) for each in sizes}) == len(usable), "each target has added files"


# Compares the kernels on register tiles with the plain ones, over all tails of batches and filters, on integers.
SHAPES = """
import numpy as np
from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.loop import Loops
from lcnumba.kernels import vectors
from lcnumba.kernels.rules import Rule, SGDScalars

def results(loops, x, kernel, bias, dy):
    updated, rule = kernel.copy(), Rule(SGDScalars(0.5))
    y = loops.apply(x, kernel, bias, relu=True)
    if not len(x):
        return [y, *loops.gradients(x, kernel, dy, y=y)]
    dx, dkernel = loops.gradients(x, kernel, dy, y=y)
    if vectors.TILED:
        fused_dx = loops.fused_update(x, updated, dy, rule, y=y)
    else:
        fused_dx, updated = dx, np.where(loops._geometry.exists[:, :, None], kernel - 0.5 * dkernel, kernel)
    return [y, dx, dkernel, fused_dx, updated]

rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    for filters in range(1, 141):
        channels = 1 + filters % 9
        loops = Loops(Geometry((3, 4), channels, filters, (2, 3), padding="same"))
        g = loops._geometry
        for batch in [(filters + 20) % 41] if filters > 3 else range(41):
            shapes = (batch, g.inputs), g.kernel_shape, (g.positions, filters), (batch, g.positions, filters)
            data = [rng.integers(-2, 3, shape).astype(dtype) for shape in shapes]
            vectors.TILED = True
            tiled = results(loops, *data)
            vectors.TILED = False
            for found, expected in zip(tiled, results(loops, *data), strict=True):
                assert found.dtype == expected.dtype and (found == expected).all(), (dtype, filters, batch)
print("equal", 8 * vectors.vector_bytes())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 CPUs")
@pytest.mark.skipif(not vectors.TILED, reason="without vectors")
@pytest.mark.parametrize(
    ("target", "bits"), [(("host", ""), 0), *((name, bits) for name, (bits, _) in TARGETS.items())]
)
def test_all_tails_of_batches_and_filters_equal_plain_kernels(target, bits, tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    if bits:
        if TARGETS[target][1] not in vectors.host_features():
            pytest.skip("this CPU cannot run code for the target")
        environment |= {"NUMBA_CPU_NAME": target[0], "NUMBA_CPU_FEATURES": target[1]}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SHAPES], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal", str(bits or 8 * vectors.vector_bytes())]
