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
