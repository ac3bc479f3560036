"""The results and output of the benchmark, not its times."""

import json

import numpy as np
import pytest

from lcnumba import __main__ as command_line
from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.loop import Loops
from lcnumba.tools import bench


@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_are_complete(implementation, dtype, capsys, tmp_path):
    path = tmp_path / "figures.json"
    rows = bench.run([bench.WORKLOADS["digits"]], [implementation], dtype, seconds=0, json_path=str(path))
    assert [row["operation"] for row in rows] == ["forward", "backward", "step"]
    for row in rows:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["repeats"] == 5
    # Counts existing connections: 36 positions, 9 elements of a window, 8 filters, 128 samples.
    forward, _, step = rows
    assert forward["gflops"] * forward["median"] * 1e9 == pytest.approx(2 * 128 * 36 * 9 * 8)
    assert step["gflops"] * step["median"] * 1e9 == pytest.approx(3 * 2 * 128 * 36 * 9 * 8)
    written = json.loads(path.read_text())
    assert written["rows"] == rows
    assert {"numba", "numpy", "machine", "threads"} <= set(written["environment"])
    assert capsys.readouterr().out.count("digits") == 3


def test_clipped_connections_do_not_count():
    own = bench.Workload("own", "", 2, (4, 4, 1), 3, (3, 3), padding="same")
    forward = bench.measure(own, seconds=0)[0]
    connections = Geometry((4, 4), 1, 3, 3, padding="same").connections
    assert connections < 16 * 9
    assert forward.gflops * forward.median * 1e9 == pytest.approx(2 * 2 * connections * 3)


def test_wrong_results_are_not_timed(monkeypatch):
    real = Loops.gradients
    monkeypatch.setattr(Loops, "gradients", lambda *a, **s: tuple(np.abs(part) for part in real(*a, **s)))
    with pytest.raises(ArithmeticError, match="implementation 1 gives wrong results on digits"):
        bench.measure(bench.WORKLOADS["digits"], seconds=0)


def test_every_workload_is_a_layer():
    for workload in bench.WORKLOADS.values():
        *size, channels = workload.input_size
        assert Geometry(
            tuple(size), channels, workload.filters, workload.kernel_size, workload.strides, padding=workload.padding
        ).connections


def test_a_custom_size(capsys):
    size = ["--input", "6", "5", "2", "--filters", "3", "--kernel", "2", "3", "--batch", "4", "--strides", "1", "2"]
    assert command_line.main(["bench", *size, "--padding", "same", "--seconds", "0", "--implementation", "1", "3"]) == 0
    assert capsys.readouterr().out.count("own") == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --workload NAME or --input H W C"),
        (["--workload", "digits", "--input", "4", "4", "1"], "give either"),
        (["--workload", "nope"], "invalid choice: 'nope'"),
        (["--input", "2", "2", "1"], r"kernel_size=(3, 3) does not fit input (2, 2)"),
        (["--input", "0", "2", "1"], "'0' is not an integer of at least 1"),
        (["--workload", "digits", "--threads", "100000"], "number of threads must be between"),
        (["--workload", "digits", "--seconds", "0", "--json", "/dev/null/x"], "Not a directory"),
    ],
)
def test_invalid_arguments_are_errors_with_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        command_line.main(["bench", *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
