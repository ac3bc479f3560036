"""The disk cache of compiled code: reused, never stale, never raises."""

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import lcnumba

# Runs the smallest kernel with one and two threads, and prints the cache hits and misses of it and of the driver.
STEP = """
    import logging
    import numpy as np
    from lcnumba.kernels import disk_cache, jit, update
    from lcnumba.kernels.rules import Rule, SGDScalars
    {before}
    param = np.ones(100_000, np.float32)
    update.run(Rule(SGDScalars(0.5)), param, np.ones_like(param), 2)
    assert (param == 0.5).all()
    update.run(Rule(SGDScalars(0.5)), param[:10], param[:10].copy())
    stats = [update.whole().compiled.stats, jit._drive.stats]
    print(*(sum(part.values()) for s in stats for part in (s.cache_hits, s.cache_misses)))
"""


def step(folder, package=None, before="", **environment):
    """(hits, misses) of the kernel and of what runs it on threads, in a separate process."""
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
    return sorted(
        path for path in Path(folder).rglob(f"*{suffix}") if "update_whole" in path.name or "_run_workers" in path.name
    )


def test_a_second_process_loads_the_code_of_the_first(tmp_path):
    assert step(tmp_path) == COMPILED
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path, "")}
    assert len(files(tmp_path, ".nbc")) == len(files(tmp_path, ".nbi")) == 2
    assert step(tmp_path) == LOADED
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path, "")} == before


@pytest.mark.slow
def test_a_change_of_any_kernel_file_invalidates_the_cache(tmp_path):
    """Numba's own stamp covers only the file of the kernel."""
    package, cache = tmp_path / "package", tmp_path / "cache"
    cache.mkdir()
    shutil.copytree(Path(lcnumba.__file__).parent, package / "lcnumba", ignore=shutil.ignore_patterns("__pycache__"))
    assert step(cache, package) == COMPILED
    assert step(cache, package) == LOADED
    with (package / "lcnumba/kernels/tile.py").open("a") as file:
        file.write("\nCHANGE = 1\n")
    assert step(cache, package) == COMPILED
    assert step(cache, package) == LOADED


def stamp(place, cwd):
    """The stamp of the library imported from `place`, after a check of a result."""
    code = """
        import lcnumba as lc
        from lcnumba.kernels import disk_cache
        layer = lc.LocallyConnected2D(1, 3, kernel_initializer="ones")
        print(disk_cache._stamp().hex(), layer([[[[1.0]] * 3] * 3]).item(), lc.__file__)
    """
    found = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)], cwd=cwd, capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": str(place), "NUMBA_CACHE_DIR": str(cwd)}, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    digest, answer, file = found.stdout.split()
    assert file.startswith(str(place))
    assert answer == "9.0"
    return digest


def test_the_stamp_depends_on_the_code_but_not_on_its_location(tmp_path):
    """Source files, a zip, and bytecode as in a frozen program have the same stamp; another formula has another."""
    source, other, bytecode = (tmp_path / name for name in ("source", "other", "bytecode"))
    for folder in (source, other, bytecode):
        shutil.copytree(Path(lcnumba.__file__).parent, folder / "lcnumba", ignore=shutil.ignore_patterns("__pycache__"))
    update = other / "lcnumba/kernels/update.py"
    formula = "p[e] -= lr * total_gradient(p[e], grad[e], l1, l2)"
    assert formula in update.read_text()
    update.write_text(update.read_text().replace(formula, f"{formula} * 2"))
    (tmp_path / "zips").mkdir()
    zips = [shutil.make_archive(tmp_path / "zips" / folder.name, "zip", folder) for folder in (source, other)]
    assert compileall.compile_dir(bytecode, quiet=2, legacy=True)
    for path in list(bytecode.rglob("*.py")):
        path.unlink()
    this, another = stamp(source, tmp_path), stamp(other, tmp_path)
    assert this != another
    assert [stamp(place, tmp_path) for place in (*zips, bytecode)] == [this, another, this]


def test_code_is_not_cached_if_the_kernels_cannot_be_read(tmp_path):
    hide = """
        import pkgutil
        from lcnumba.kernels import disk_cache, jit
        disk_cache._stamp.cache_clear()
        pkgutil.iter_modules = lambda path: iter(())
        assert jit.compiled(lambda: None).stats.cache_path is None
        disk_cache._stamp()
    """
    result = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(hide)],
        cwd=tmp_path, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stderr.splitlines()[-1] == "RuntimeError: cannot list the modules of lcnumba.kernels"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_corrupted_files_are_replaced(suffix, tmp_path):
    """Machine code with a flipped bit could crash the process; the checksum prevents its use."""
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


def test_files_of_another_version_of_numba_are_not_unpickled(tmp_path):
    """They may refer to modules that no longer exist."""
    step(tmp_path)
    for path in files(tmp_path, ".nbi"):
        foreign = b"cnumba.core.types.no_such_module\nInteger\n."
        path.write_bytes(hashlib.sha256(foreign).digest() + foreign)
    assert step(tmp_path) == COMPILED


def test_code_saved_under_the_file_name_of_another_key_is_not_run(tmp_path):
    step(tmp_path)
    first, second = files(tmp_path, ".nbc")
    first.write_bytes(second.read_bytes())
    assert sorted(step(tmp_path)) == sorted([COMPILED[0], LOADED[0]])


def test_kernels_run_without_a_writable_folder(tmp_path):
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


def test_kernels_run_if_the_disk_is_full(tmp_path):
    full = "disk_cache._CheckedFile._open_for_write = lambda self, path: (_ for _ in ()).throw(OSError(28, path))"
    assert step(tmp_path, before=full) == COMPILED
    assert not files(tmp_path, ".nbc")
