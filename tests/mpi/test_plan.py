"""What `mpi-plan` says, against messages that are counted."""

import json

import pytest
from launcher import HERE, has_mpi, run

import lcnumba as lc
from lcnumba.__main__ import main
from lcnumba.connectivity.geometry import Geometry
from lcnumba.mpi.plan import plan
from lcnumba.mpi.stripes import LayerStripes

# The layers of counts.py.
GEOMETRIES = {
    "valid": Geometry((12, 7), 3, 4, 3),
    "same": Geometry((12, 7), 3, 4, 5, padding="same"),
    "circular": Geometry((12, 7), 3, 4, 3, padding="same", padding_mode="circular"),
    "strides": Geometry((25, 7), 3, 4, 3, strides=2),
    "no overlap": Geometry((24, 7), 3, 4, 2, strides=2),
    "3d": Geometry((9, 4, 5), 2, 3, 3),
    "1d": Geometry((130,), 2, 3, 5),
}
BATCH, ITEM = 5, 4


@pytest.mark.skipif(not has_mpi(), reason="needs mpi4py and mpiexec; make test-mpi has them")
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_counted_bytes_equal_the_formula(ranks):
    found = json.loads(run("counts.py", ranks=ranks).stdout.splitlines()[-1])
    assert found["ranks"] == ranks
    for name, geometry in GEOMETRIES.items():
        stripes = LayerStripes(geometry, ranks, owns_input=ranks > 1)
        line = geometry.inputs // geometry.input_size[0] * BATCH * ITEM
        out = geometry.positions // geometry.output_size[0] * geometry.filters * BATCH * ITEM
        for rank, (predicted, trained) in enumerate(found["sent"][name]):
            assert trained == line * stripes.lines_sent_by(rank)
            halo = sum(map(len, stripes.halo(rank)[0].values()))
            first, last = stripes.output_ranges[rank]
            assert predicted == line * halo + out * (last - first) * (ranks - 1)
        if ranks > 1:
            planned = plan(geometry, ranks, BATCH)
            assert planned.sent == sum(trained for _, trained in found["sent"][name])
            assert planned.most_sent == max(trained for _, trained in found["sent"][name])


def test_memory_and_times_of_the_model():
    geometry = Geometry((30, 30), 64, 32, 3)
    found = plan(geometry, 2, 32, optimizer="adam", alpha=1e-3, beta=1e6)
    assert found.lines == (14, 14)
    weights = 14 * 28 * (9 * 64 * 32 + 32)
    numbers = 3 * weights + 32 * (2 * 16 * 30 * 64 + 2 * 14 * 28 * 32)
    assert found.memory == 4 * numbers
    line = 30 * 64 * 32 * 4
    # The first rank sends line 14 of x, and dx of lines 14 and 15; the second line 15 of x, and dx of line 14 back.
    assert (found.sent, found.most_sent, found.messages) == (5 * line, 3 * line, 2)
    assert found.seconds == pytest.approx(2 * 1e-3 + 3 * line / 1e6)
    whole = 28 * 28 * (9 * 64 * 32 + 32) * 4
    assert found.sent_parallel == 2 * whole
    assert found.seconds_parallel == pytest.approx(2 * (1e-3 + whole / 2 / 1e6))
    assert plan(geometry, 1, 32).sent == 0


def test_the_command(capsys):
    assert main(["mpi-plan", "--workload", "seed2", "snps_dense", "--ranks", "2", "40"]) == 0
    printed = capsys.readouterr().out
    assert "14,450,688 weights" in printed
    assert "28 output lines are too few for 40 ranks" in printed
    assert "times are a model" in printed
    assert main(["mpi-plan", "--input", "18", "36", "4", "--padding", "same", "--circular", "--ranks", "3"]) == 0
    capsys.readouterr()
    for more in (["500", "4", "--kernel", "5"], ["9", "8", "7", "4"], ["9", "8", "7", "4", "--kernel", "1", "2", "3"]):
        assert main(["mpi-plan", "--ranks", "2", "--input", *more]) == 0
    assert "window (5,)" in (printed := capsys.readouterr().out)
    assert "window (3, 3, 3)" in printed
    assert "window (1, 2, 3)" in printed
    for wrong in (["--alpha", "0"], ["--kernel", "50", "3"], ["--workload", "seed2"]):
        with pytest.raises(SystemExit):
            main(["mpi-plan", "--input", "18", "36", "4", *wrong])


@pytest.mark.skipif(not has_mpi(), reason="needs mpi4py and mpiexec; make test-mpi has them")
def test_the_example_gives_the_same_on_any_number_of_ranks(tmp_path):
    example = HERE.parents[1] / "docs" / "gallery" / "global_field.py"
    if not example.exists():
        pytest.skip("docs/ is in the checkout only")
    printed = set()
    for ranks in (1, 3):
        (tmp_path / str(ranks)).mkdir()
        size = ["--size", "18", "24", "--samples", "32", "--epochs", "2", "--folder", str(tmp_path / str(ranks))]
        printed.add(run(example, *size, ranks=ranks).stdout.splitlines()[-1])
    assert len(printed) == 1
    assert lc.load(tmp_path / "3" / "run.npz").count_params() == 2 * 18 * 24 * (36 * 4 + 4) - 2 * 2 * 24 * 12 * 4
