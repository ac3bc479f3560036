"""Compiled code on disk: used again, never stale, never a reason to fail."""

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import lcnumba

# Steps by the smallest kernel there is, threaded, and tells how often code was loaded and compiled.
STEP = """
    import logging
    import numpy as np
    from lcnumba.kernels import Rule, jit, update
    {before}
    param = np.ones(100_000, np.float32)
    update.run(Rule(1, (), (0.5,)), param, np.ones_like(param), 2)
    assert (param == 0.5).all()
    update.run(Rule(1, (), (0.5,)), param[:10], param[:10].copy())
    stats = [dispatcher.stats for dispatcher in update.whole.compiled]
    print(*(sum(part.values()) for s in stats for part in (s.cache_hits, s.cache_misses)))
"""


def step(folder, package=None, before="", **environment):
    """(hits, misses) of the serial and of the threaded kernel, in a process of its own."""
    path = {} if package is None else {"PYTHONPATH": str(package)}
    result = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(STEP).format(before=before)],
        cwd=folder, env={**os.environ, "NUMBA_CACHE_DIR": str(folder), **path, **environment},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    hits, misses, threaded_hits, threaded_misses = map(int, result.stdout.split())
    return (hits, misses), (threaded_hits, threaded_misses)


COMPILED = ((0, 1), (0, 1))
LOADED = ((1, 0), (1, 0))


def files(folder, suffix):
    return sorted(path for path in Path(folder).rglob(f"*{suffix}") if "whole" in path.name)


def test_a_second_process_loads_what_the_first_compiled(tmp_path):
    assert step(tmp_path) == COMPILED
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path, "")}
    assert len(files(tmp_path, ".nbc")) == len(files(tmp_path, ".nbi")) == 2
    assert step(tmp_path) == LOADED
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path, "")} == before


@pytest.mark.slow
def test_a_change_of_any_kernel_file_is_noticed(tmp_path):
    """Numba itself would see a change of the kernel's own file only."""
    package, cache = tmp_path / "package", tmp_path / "cache"
    cache.mkdir()
    shutil.copytree(Path(lcnumba.__file__).parent, package / "lcnumba", ignore=shutil.ignore_patterns("__pycache__"))
    assert step(cache, package) == COMPILED
    assert step(cache, package) == LOADED
    with (package / "lcnumba/kernels/tile.py").open("a") as file:
        file.write("\n# a change\n")
    assert step(cache, package) == COMPILED
    assert step(cache, package) == LOADED


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_files_are_replaced(suffix, tmp_path):
    """Machine code with a flipped bit could kill the process; a checksum keeps it from being run."""
    step(tmp_path)
    for path in files(tmp_path, suffix):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert step(tmp_path) == COMPILED
    for number, path in enumerate(files(tmp_path, suffix)):
        path.write_bytes(path.read_bytes()[: 10 * number])
    assert step(tmp_path) == COMPILED
    assert step(tmp_path) == LOADED


def test_what_another_version_of_numba_wrote_is_not_unpickled(tmp_path):
    """It may refer to modules that are no more."""
    step(tmp_path)
    for path in files(tmp_path, ".nbi"):
        foreign = b"cnumba.core.types.no_such_module\nInteger\n."
        path.write_bytes(hashlib.sha256(foreign).digest() + foreign)
    assert step(tmp_path) == COMPILED


def test_code_saved_under_a_name_that_another_process_chose_too_is_not_run(tmp_path):
    step(tmp_path)
    first, second = files(tmp_path, ".nbc")
    first.write_bytes(second.read_bytes())
    assert sorted(step(tmp_path)) == sorted([COMPILED[0], LOADED[0]])


def test_it_works_where_nothing_can_be_written(tmp_path):
    refuse = "import numba.core.caching as c; c._CacheLocator.ensure_cache_path = lambda self: 1 / 0"
    refuse = refuse.replace("1 / 0", "(_ for _ in ()).throw(PermissionError)")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    code = f"""
        {refuse}
        import numpy as np, lcnumba as lc
        print(lc.LocallyConnected2D(1, 3, kernel_initializer="ones")(np.ones((1, 3, 3, 1))).item())
    """
    result = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "9.0"
    assert not files(tmp_path, "")


def test_a_disk_that_fills_up_costs_the_cache_alone(tmp_path):
    full = "jit._CheckedFile._open_for_write = lambda self, path: (_ for _ in ()).throw(OSError(28, path))"
    assert step(tmp_path, before=full) == COMPILED
    assert not files(tmp_path, ".nbc")
