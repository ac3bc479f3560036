"""The output of ``python -m lcnumba info``."""

import os
import subprocess
import sys

import pytest

from lcnumba import __main__ as command_line
from lcnumba.kernels import vectors
from lcnumba.kernels.disk_cache import is_usable
from lcnumba.runtime import memory, threads
from lcnumba.tools import info


@pytest.fixture(autouse=True)
def safe_threads(monkeypatch):
    """Make the output independent of the threading layer of this process."""
    monkeypatch.setattr(threads, "threading_layer", lambda: "omp")
    monkeypatch.setattr(threads, "numba_is_safe", lambda: True)


def warnings():
    return " | ".join(info.collect().warnings)


def test_the_configuration_is_printed(capsys, monkeypatch):
    monkeypatch.setenv("NUMBA_FANCY", "1")
    assert command_line.main(["info"]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "warning" not in line)
    assert set(facts) >= {"numba", "llvmlite", "numpy", "scipy", "array-api-compat", "Python", "threads", "memory"}
    assert facts["answers"] == "right"
    assert f"{8 * vectors.vector_bytes()} bits" in facts["vectors"]
    assert "NUMBA_FANCY=1" in facts["settings"]


def test_wrong_answers_are_a_failure(capsys, monkeypatch):
    monkeypatch.setattr("lcnumba.testing.adjoint_sums", lambda *_: (1.0, 1.0, 2.0))
    assert command_line.main(["info"]) == 1
    assert "do not use this installation" in capsys.readouterr().out


def test_answers_are_compared_with_the_definition(monkeypatch):
    assert info._answers_are_right()
    monkeypatch.setattr("lcnumba.testing.reference.forward", lambda *_, **__: 0)
    assert not info._answers_are_right()


def test_an_error_of_the_threads_is_a_warning(capsys, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Numba cannot load the threading layer 'tbb', ...")

    monkeypatch.setattr(info, "_answers_are_right", refuse)
    assert command_line.main(["info"]) == 1
    out = capsys.readouterr().out
    assert "warning: Numba cannot load the threading layer 'tbb', ..." in out
    assert "WRONG" not in out
    assert "do not use" not in out


def test_a_disabled_jit_is_a_warning(tmp_path):
    command = [sys.executable, "-P", "-m", "lcnumba", "info"]
    environ = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    found = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=240, check=True)
    assert [line for line in found.stdout.splitlines() if line.startswith("warning")] == [
        "warning: NUMBA_DISABLE_JIT is set: kernels are interpreted, which is thousands of times slower; unset it"
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.setattr("numba.config.DISABLE_JIT", 1), "unset it"),
        (lambda m: m.setattr("numba.config.BOUNDSCHECK", 1), "NUMBA_BOUNDSCHECK is set"),
        (lambda m: m.setattr(vectors, "TILED", False), "LCNUMBA_TILE=0 is set"),
        (lambda m: m.setattr(threads, "threading_layer", lambda: "workqueue"), "lcnumba[threads]"),
        (lambda m: m.setattr(threads, "threading_layer", lambda: "none"), "no threads can be started"),
        (lambda m: m.setattr(threads, "numba_is_safe", lambda: False), "kernels run on Python threads, which start"),
        (lambda m: m.setattr(threads, "count", lambda: 10_000), "10000 threads share"),
        (lambda m: m.setattr(info, "cache_folder", lambda: None), "set NUMBA_CACHE_DIR to a folder of yours"),
    ],
)
def test_problems_are_warnings(change, words, monkeypatch):
    monkeypatch.setattr(info, "_answers_are_right", lambda: True)
    assert words not in warnings()
    change(monkeypatch)
    assert words in warnings()


def test_the_cache_folder(tmp_path, monkeypatch):
    info._answers_are_right()  # compiles
    monkeypatch.setattr(info, "_answers_are_right", lambda: True)
    folder = info.cache_folder()
    good = next(file for file in folder.glob("*.nbi") if is_usable(file))
    monkeypatch.setattr(info, "cache_folder", lambda: tmp_path)
    content = good.read_bytes()
    (tmp_path / "a.nbi").write_bytes(content)
    (tmp_path / "b.nbc").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "c.py").touch()
    (tmp_path / "d.nbi").symlink_to(tmp_path / "nowhere")  # as if another process had just replaced it
    found = info.collect()
    assert "1 files, 1 damaged or of other versions" in found.facts["compiled code"]
    assert str(tmp_path) not in " ".join(found.warnings)
    tmp_path.chmod(0o777)
    assert f"{tmp_path} is world-writable" in warnings()
    tmp_path.chmod(0o700)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert f"{tmp_path} is not writable" in warnings()


def test_quotas_are_printed(monkeypatch):
    monkeypatch.setattr(memory, "processors", lambda: 1.5)
    assert info._processors().endswith(", limited to 1.5 by control groups")
    monkeypatch.setattr(memory, "available", lambda: None)
    assert info._memory() == "unknown"
