"""The benchmarks' results, limits and tables, but not their times."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lcnumba
from lcnumba.connectivity.geometry import Geometry
from lcnumba.kernels import vectors
from lcnumba.tools.bench import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("bench/ is in the checkout only", allow_module_level=True)
sys.path.append(str(ROOT))  # at the end: the installed lcnumba comes before the checkout's

from bench import (  # noqa: E402
    answers,
    charts,
    compare,
    environment,
    first_calls,
    genotypes,
    launch,
    measure,
    memory,
    overhead,
    page,
    peers,
    selection,
    startup,
    stress,
    tables,
    training,
)
from bench.case import Case  # noqa: E402
from bench.data import make  # noqa: E402
from bench.peers import numpy_peer, own  # noqa: E402
from bench.process import Failure, Process, settings, vector_limit  # noqa: E402
from bench.results import kept, path_of, save  # noqa: E402
from bench.roofline import Work, geometry, roofline, work  # noqa: E402
from bench.rounds import quartiles  # noqa: E402

TINY = Case("tiny", 2, (5, 4, 2), 3, (3, 2), (2, 1), "same", "float32")

# Peers that fail in different ways.
FAKES = {
    "missing": "def make(case, data, threads):\n    import no_such_framework\n",
    "raises": "def make(case, data, threads):\n    print('chatter')\n    raise ValueError('no such thing\\nmore')\n",
    "dies": "import os, sys\ndef make(case, data, threads):\n    print('the end', file=sys.stderr)\n    os._exit(3)\n",
    "wrong": (
        "from bench.peers import numpy_peer\n"
        "def make(case, data, threads):\n"
        "    right = numpy_peer.make(case, data, threads)\n"
        "    return right._replace(step=lambda: (right.step()[0], 2 * right.step()[1]))\n"
    ),
    "hungry": (
        "import time\nimport numpy as np\n"
        "def make(case, data, threads):\n"
        "    blocks = [np.ones(1 << 22) for _ in range(40)]\n"
        "    time.sleep(60)\n"
    ),
    "where": "import importlib\ndef file(name):\n    return importlib.import_module(name).__file__\n",
    "slow": "import time\ndef make(case, data, threads):\n    time.sleep(60)\n",
}


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    """Add the fake peers to the import path of workers, and to the table."""
    folder = tmp_path_factory.mktemp("peers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        for name, source in FAKES.items():
            (folder / f"fake_{name}.py").write_text(source)
            patch.setitem(peers.PEERS, name, peers.Peer(f"Fake {name}", f"fake_{name}"))
        patch.setitem(peers.PEERS, "vast", peers.Peer("Vast", "fake_slow", needs=lambda *_: 10**12))
        yield


@pytest.fixture(scope="module")
def rows(fakes):
    """All rows of one comparison, by peer and operation."""
    how = measure.Settings(threads=1, seconds=0, memory_limit=None, build_limit=120)
    names = ["numpy", "missing", "raises", "wrong"]
    with Process(1) as machine:
        return {(row["peer"], row["operation"]): row for row in measure.measure(TINY, names, how, machine)}


# --- the case


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kernel_size", [(1, 1), (2, 3), (3, 2), (4, 4)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3), (3, 1)])
def test_case_index_equals_that_of_the_geometry(padding, kernel_size, strides):
    case = Case("any", 1, (6, 7, 2), 3, kernel_size, strides, padding, "float32")
    geometry = Geometry((6, 7), 2, 3, kernel_size, strides, padding=padding)
    assert case.output_size == geometry.output_size
    assert np.array_equal(case.input_index(), geometry.input_index)


OTHERS = [
    Workload("line", "", 3, (11, 2), 3, (4,), (3,)),
    Workload("same line", "", 3, (11, 2), 3, (4,), (2,), "same"),
    Workload("ring", "", 3, (7, 2), 3, (3,), (1,), "same", "circular"),
    Workload("globe", "", 3, (5, 6, 2), 3, (3, 4), (1, 1), "same", ("zeros", "circular")),
    Workload("torus", "", 3, (5, 6, 2), 3, (3, 2), (2, 1), "same", "circular"),
]


@pytest.mark.parametrize("workload", OTHERS, ids=lambda w: w.name)
def test_one_dimensional_and_circular_cases(workload):
    """The index is that of the geometry, and NumPy's results, with circular padding of its own, are ours."""
    case = Case.of(workload, "float64")
    assert np.array_equal(case.input_index(), geometry(case).input_index)
    values = make(case)
    ours = own.make(case, values, 1, implementation=1)
    theirs = numpy_peer.make(case, values, 1)
    np.testing.assert_allclose(ours.forward(), theirs.forward(), rtol=1e-12, atol=1e-12)
    for found, expected in zip((*ours.step(), *ours.weights()), (*theirs.step(), *theirs.weights()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WORKLOADS)
def test_case_json_round_trip(name):
    case = Case.of(WORKLOADS[name], "float64")
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


# --- the roofline


def test_work_of_a_valid_layer_by_hand():
    # 2 x 2 positions, windows of 4 inputs, 3 filters, 5 samples, 4 bytes per element
    case = Case("hand", 5, (3, 3, 1), 3, (2, 2), (1, 1), "valid", "float32")
    W, X, Y, b = 4 * 48, 4 * 45, 4 * 60, 4 * 12
    assert work(case, "forward") == Work(2 * 5 * 16 * 3, W + X + b, 2 * Y, W + X + Y + b)
    assert work(case, "step") == Work(6 * 5 * 16 * 3, W + 2 * X + 2 * Y, 2 * W + 2 * (X + Y), W + 2 * X + 2 * Y + b)


def test_work_counts_existing_connections_only():
    # 3 x 3 windows of a 2 x 2 input: each of the four positions sees all four inputs
    case = Case("hand", 1, (2, 2, 1), 1, (3, 3), (1, 1), "same", "float64")
    assert work(case, "forward").flop == 2 * 16
    assert work(case, "forward").read == 8 * (16 + 4 + 4)


def test_roofline_is_the_larger_bound():
    limits = {"read": 100.0, "update": 50.0, "products": 10.0}
    by_memory = roofline(Work(flop=10, read=200, written=100, footprint=0), limits, seconds=8.0)
    assert (by_memory["roof"], by_memory["bound"], by_memory["efficiency"]) == (4.0, "memory", 0.5)
    assert (by_memory["gflops"], by_memory["gbs"]) == (10 / 8 / 1e9, 300 / 8 / 1e9)
    by_arithmetic = roofline(Work(flop=50, read=200, written=100, footprint=0), limits, seconds=5.0)
    assert (by_arithmetic["roof"], by_arithmetic["bound"], by_arithmetic["efficiency"]) == (5.0, "arithmetic", 1.0)


def test_quartiles():
    assert quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3.0, "low": 2.0, "high": 4.0, "repeats": 5}


# --- selection of peers, and their memory requirements


def test_selection():
    assert "keras3" in selection.chosen("seed1", None, False)
    assert "keras3" not in selection.chosen("seed2", None, False)
    assert "keras3" in selection.chosen("seed2", None, True)
    assert selection.chosen("seed2", ["keras3", "own1"], False) == ["keras3"]
    assert selection.chosen("seed2", ["none"], False) == []


@pytest.mark.parametrize(
    ("peer", "workload", "operation", "gigabytes"),
    [
        ("keras1", "seed2_large", "step", 46),
        ("keras1", "seed2_large", "forward", 0),
        ("keras2", "deepface_l4", "forward", 25),
        ("torch", "seed2", "forward", 0.058),
    ],
)
def test_needs(peer, workload, operation, gigabytes):
    needs = peers.PEERS[peer].needs(Case.of(WORKLOADS[workload], "float32"), operation)
    assert needs / 1e9 == pytest.approx(gigabytes, rel=0.02)


# --- workers


def test_one_row_per_peer_and_operation(rows):
    assert set(rows) == {
        (name, op) for name in ("own1", "numpy", "missing", "raises", "wrong") for op in peers.OPERATIONS
    }


@pytest.mark.parametrize("name", ["own1", "numpy"])
@pytest.mark.parametrize("operation", peers.OPERATIONS)
def test_rows_with_times_are_complete(rows, name, operation):
    row = rows[name, operation]
    assert row["status"] == "ok"
    assert 0 < row["low"] <= row["median"] <= row["high"]
    assert row["repeats"] >= 3
    assert min(row["gflops"], row["gbs"], row["roof"], row["efficiency"], row["peak"], row["build"]) > 0
    assert min(row["limits"].values()) > 0
    assert row["bound"] in ("memory", "arithmetic")
    if name == "numpy":
        assert row["ratio"] > 0
        assert 0 <= row["difference"] < answers.TOLERANCE["float32"]


@pytest.mark.parametrize("operation", peers.OPERATIONS)
def test_failed_peers_have_a_reason_and_others_are_measured(rows, operation):
    assert rows["missing", operation]["status"] == "missing"
    assert rows["missing", operation]["reason"] == "not installed: No module named 'no_such_framework'"
    assert rows["raises", operation]["status"] == "error"
    assert rows["raises", operation]["reason"] == "ValueError: no such thing"


def test_wrong_results_are_not_timed(rows):
    assert rows["wrong", "forward"]["status"] == "ok"
    assert rows["wrong", "step"]["status"] == "wrong"
    assert "differs by" in rows["wrong", "step"]["reason"]
    assert "median" not in rows["wrong", "step"]


def load(worker, name, limit=60.0):
    about = {"case": TINY.to_json(), "module": peers.PEERS[name].module, "options": {}}
    return worker.ask("load", limit, **about, threads=1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is watched on Linux only")
def test_a_worker_over_the_memory_limit_is_killed(fakes):
    with (
        Process(1, memory_limit=300_000_000) as worker,
        pytest.raises(Failure, match=r"needs more than 0\.3 GB") as failure,
    ):
        load(worker, "hungry")
    assert failure.value.status == "memory"


def test_a_worker_over_the_time_limit_is_killed(fakes):
    with Process(1) as worker, pytest.raises(Failure, match=r"took more than 0\.2 s") as failure:
        load(worker, "slow", limit=0.2)
    assert failure.value.status == "time"


def test_failure_of_a_dead_worker_has_its_last_line_of_stderr(fakes):
    with Process(1) as worker:
        for _ in range(2):  # the second request fails in the same way
            with pytest.raises(Failure, match="died with code 3: the end") as failure:
                load(worker, "dies")
            assert failure.value.status == "error"


def test_a_peer_over_the_memory_limit_is_not_started(fakes):
    how = measure.Settings(threads=1, seconds=0, memory_limit=10**11, build_limit=1)
    with Process(1) as ours:
        found = list(measure.against(ours, "vast", TINY, "nowhere", how))
    assert [(row["status"], row["reason"], times) for row, times in found] == [
        ("memory", "needs at least 1000.0 GB", [])
    ] * 2


def test_a_worker_imports_the_same_lcnumba_and_has_its_threads(fakes):
    with Process(3) as worker:
        where = worker.ask("run", module="fake_where", function="file", arguments={"name": "lcnumba"})
        number = worker.ask("run", module="os", function="getenv", arguments={"key": "NUMBA_NUM_THREADS"})
    assert where["value"] == lcnumba.__file__
    assert number["value"] == "3"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="requires /proc")
def test_peak_memory_of_a_worker_excludes_its_parent():
    ours = np.ones(50_000_000)
    with Process(1) as worker:
        assert worker.ask("run", module="os", function="getpid", arguments={})["peak"] < ours.nbytes / 2


def test_settings_limit_the_threads_of_all_libraries():
    given = settings(3)
    assert {given[name] for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"3"}
    assert "multi_thread_eigen=false" in settings(1)["XLA_FLAGS"]


def test_peers_are_limited_to_the_vectors_of_the_target(monkeypatch):
    assert vector_limit(2) == {}
    monkeypatch.setattr(vectors, "target", lambda: "haswell +avx2,+fma")
    monkeypatch.setattr(vectors, "vector_bytes", lambda: 32)
    assert vector_limit(1)["OPENBLAS_CORETYPE"] == "Haswell"
    assert vector_limit(1)["XLA_FLAGS"].split() == ["--xla_cpu_multi_thread_eigen=false", "--xla_cpu_max_isa=AVX2"]
    monkeypatch.setattr(vectors, "vector_bytes", lambda: 16)
    assert vector_limit(2) == {}


# --- results


def test_difference_is_relative_to_the_largest_element(monkeypatch):
    monkeypatch.setattr(answers, "_CHUNK", 2)
    expected = np.array([[1.0, -4.0], [2.0, 0.0], [0.0, 1.0]])
    given = expected.copy()
    given[2, 1] += 0.5
    assert answers.difference(expected, given) == 0.125
    given[0, 0] = np.nan
    assert np.isnan(answers.difference(expected, given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([1.0, np.nan]), "y differs by nan"),
        (np.array([1.0, 2.1]), "y differs by 0.05"),
        (np.ones(3), r"y is float64\(3,\), expected float64\(2,\)"),
        (np.ones(2, "f4"), r"y is float32\(2,\)"),
        (None, "y is missing"),
    ],
)
def test_wrong_results_are_detected(given, message, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    np.save(ours / "y.npy", np.array([1.0, 2.0]))
    if given is not None:
        np.save(theirs / "y.npy", given)
    with pytest.raises(Failure, match=message):
        answers.check(str(ours), str(theirs), "float64")
    np.save(theirs / "y.npy", np.array([1.0, 2.0]))
    assert answers.check(str(ours), str(theirs), "float64") == 0


# --- tables


def figure(peer, operation, **more):
    row = {"workload": "seed1", "dtype": "float32", "peer": peer, "operation": operation, "status": "ok"}
    limits = {"read": 7e10, "update": 3e10, "products": 2e11}
    times = {
        "median": 0.00125,
        "low": 0.001,
        "high": 0.0015,
        "repeats": 30,
        "build": 1.5,
        "peak": 2e8,
        "limits": limits,
    }
    reached = {"gflops": 99.5, "gbs": 12.0, "roof": 0.001, "bound": "arithmetic", "efficiency": 0.8, "disturbance": 0.0}
    return row | times | reached | more


@pytest.fixture
def results():
    failed = {
        "workload": "seed1",
        "dtype": "float32",
        "peer": "keras2",
        "status": "memory",
        "reason": "needs at least 9 GB",
    }
    return {
        "environment": {
            "date": "2026-01-02 03:04 UTC", "command": "python -m bench.compare", "cpu": "Some CPU", "cores": 2,
            "threads": 2, "memory_gb": 20.0, "system": "Linux", "versions": {"python": "3.11", "numpy": "2.0"},
        },
        "rows": [
            figure("torch", "forward", ratio=0.75), figure("torch", "step", ratio=12.34, disturbance=0.5),
            failed | {"peer": "jax", "operation": "step", "status": "missing", "reason": "not installed"},
            failed | {"operation": "forward"}, failed | {"operation": "step"},
            figure("own1", "forward"), figure("own1", "step"),
        ],
        "minutes": 12.3,
        "tile": {"float32": 2.7e11},
        "startup": [
            {"peer": "own1", "cache": "cold", "seconds": 4.0, "import": 0.03, "peak": 2e8},
            {"peer": "jax", "cache": "", "reason": "not installed: No module named 'jax'"},
        ],
        "memory": [
            {"workload": "seed1", "dtype": "float32", "parameters": 6.5e6, "activations": 1e7, "extra": 1e5},
            {"workload": "yolo_local", "dtype": "float32", "reason": "died"},
        ],
        "overhead": [
            {"workload": "digits", "dtype": "float32", "forward": [7e-5, 4e-5], "step": [3e-4, 1.6e-4]},
            {"workload": "bindsnet", "dtype": "float32", "reason": "died"},
        ],
    }  # fmt: skip


def of_layers(results):
    """Results with steps of three layers: the peers' times relative to lcnumba's."""
    ratios = {
        "torch": {"digits": 2.0, "seed1": 0.75, "seed2": 3.0},
        "keras1": {"digits": 40.0, "seed1": 20.0},
        "keras2": {"digits": 30.0, "seed1": 50.0},
    }
    rows = [
        figure(peer, "step", workload=workload, ratio=value)
        for peer, of in ratios.items()
        for workload, value in of.items()
    ]
    rows += [figure("torch", "forward", ratio=0.1), figure("torch", "step", dtype="float64", ratio=0.1)]
    rows += [figure("own1", operation, workload=name) for name in ratios["torch"] for operation in ("forward", "step")]
    return results | {"rows": rows, "environment": results["environment"] | {"vector_bits": 512}}


def test_summary(results):
    text = tables.summary(of_layers(results))
    assert "(docs/figures/benchmark-times.svg)" in text
    assert "PyTorch 2.00 (0.750 to 3.00); Keras' own 25.0 (20.0 to 30.0, 2 layers)." in text
    assert "Some CPU, vectors of 512 bits, 2 threads, 2026-01-02" in text
    assert "NumPy" not in text.split("\n\n")[1], "what was not measured is not listed"


def test_overview(results):
    made = of_layers(results)
    for row in made["rows"]:
        if row["peer"] == "own1" and row["operation"] == "step":
            row |= {"digits": {"median": 9e-4}, "seed1": {"efficiency": 0.2}}.get(row["workload"], {})
    made["environment"]["cpu"] = "Some CPU"
    head, _, row, _, _, _, _, _, faster = tables.overview([made]).split("\n")
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (head, row)), strict=True))
    assert cells["CPU, vectors"] == "Some CPU, 512 bits, 2 threads"
    assert cells["PyTorch"] == "2.00 (0.750 to 3.00)"
    assert cells["NumPy"] == "-", "it was not measured"
    assert faster == (
        "- Some CPU, 512 bits, 2 threads: `seed1` step, PyTorch baddbmm 0.750; `seed1` forward, PyTorch baddbmm 0.100; "
        "`seed1` step, PyTorch baddbmm 0.100"
    )
    assert cells["step, of the roofline"] == "50% (`seed1` 20%)", "of layers that take more than a millisecond"


def test_charts(results, tmp_path):
    runs = [of_layers(results)]
    slower = of_layers(results)
    slower["environment"] |= {"cpu": "Other CPU", "vector_bits": 256}
    runs.append(slower)
    figure = charts.times(runs)
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == (
        "Some CPU, vectors of 512 bits, 2 threads",
        "Other CPU, vectors of 256 bits, 2 threads",
    )
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in left.lines[1:]}
    assert drawn["PyTorch"] == ([2.0, 0.75, 3.0], [0, 1, 2])
    assert drawn["Keras' own"] == ([30.0, 20.0], [0, 1])
    assert [text.get_text() for text in left.get_yticklabels()] == ["digits", "seed1", "seed2"]
    slower["rows"] = [row for row in slower["rows"] if row["workload"] != "seed1"]
    right = charts.times(runs).axes[1]
    drawn = {line.get_label(): list(line.get_ydata()) for line in right.lines[1:]}
    assert drawn["PyTorch"] == [0, 2], "rows are those of the labels, which all panels share"
    forward, step = charts.roofline(runs).axes[0].lines[2:]
    assert (forward.get_label(), step.get_label()) == ("forward", "step")
    np.testing.assert_allclose(step.get_xydata(), [[99.5 / 12, 99.5]] * 3)
    paths = charts.write(runs, tmp_path)
    first = [path.read_bytes() for path in paths]
    assert [path.name for path in paths] == [f"benchmark-{name}.svg" for name in ("times", "times-all", "roofline")]
    assert [path.read_bytes() for path in charts.write(runs, tmp_path)] == first


def test_results_are_kept_by_cpu_and_vectors(results, tmp_path):
    def run(cpu, bits, date):
        about = {"cpu": cpu, "vector_bits": bits, "date": date}
        return of_layers(results) | {"environment": results["environment"] | about}

    runs = [
        run("Intel(R) Xeon(R) Processor", 512, "2026-01-05 00:00 UTC"),
        run("Intel(R) Xeon(R) Processor", 256, "2026-01-07 00:00 UTC"),
        run("AMD EPYC", 256, "2026-01-06 00:00 UTC"),
        run("AMD EPYC", 512, "2026-01-01 00:00 UTC"),
        run("AMD EPYC", 512, "2026-01-06 00:00 UTC"),  # replaces the one before
    ]
    for made in runs:
        save(made, path_of(made, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{cpu}-{bits}-bits-2-threads.json" for cpu in ("amd-epyc", "intel-xeon-processor") for bits in (256, 512)
    }
    found = kept(tmp_path)
    order = [(made["environment"]["cpu"][:3], made["environment"]["vector_bits"]) for made in found]
    assert order == [("Int", 512), ("Int", 256), ("AMD", 512), ("AMD", 256)]
    assert found[2]["environment"]["date"] == "2026-01-06 00:00 UTC"
    assert page.document(found) == page.document([runs[0], runs[1], runs[4], runs[2]])
    assert kept(tmp_path / "none") == []


def test_pages_show_the_results_that_are_kept(tmp_path):
    """They, and the charts if this version of matplotlib has made them, are what ``python -m bench.tables`` writes."""
    if not (ROOT / "README.md").exists():
        pytest.skip("the README is in the checkout only")
    runs = kept()
    assert runs
    pages = [Path(name) for name in ("README.md", "docs/performance.md", "docs/benchmarks.md")]
    (tmp_path / "docs").mkdir()
    for name in pages:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    tables.write(runs, str(tmp_path))
    for name in pages:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name
    for drawn in (tmp_path / "docs" / "figures").iterdir():
        given = (ROOT / "docs" / "figures" / drawn.name).read_text()
        if f"Matplotlib v{charts.matplotlib.__version__}," in given:
            assert drawn.read_text() == given, drawn.name
    assert {f"{run['environment']['vector_bits']}" for run in runs} >= {"256", "512"}
    assert all(path_of(run).is_file() for run in runs)


@pytest.mark.parametrize(("status", "names"), [("ok", ["kept.json"]), ("wrong", [])])
def test_a_failed_run_is_not_kept(status, names, results, monkeypatch, tmp_path):
    made = [row | {"status": status, "reason": "other"} if row["peer"] == "torch" else row for row in results["rows"]]
    monkeypatch.setattr(compare, "measure", lambda *_: made)
    monkeypatch.setattr(compare, "run", lambda *_, **__: 2.7e11)
    monkeypatch.setattr(startup, "measure", lambda *_: results["startup"])
    monkeypatch.setattr(memory, "measure", lambda *_: results["memory"][0])
    monkeypatch.setattr(overhead, "measure", lambda *_: results["overhead"][0])
    monkeypatch.setattr(compare, "path_of", lambda _: tmp_path / "kept.json")
    assert compare.main(["--keep"]) == (status == "wrong")
    assert [path.name for path in tmp_path.iterdir()] == names


@pytest.mark.parametrize("part", [["--workload", "digits"], ["--seconds", "0.1"], ["--share"]])
def test_a_part_of_a_run_is_not_kept(part, capsys):
    with pytest.raises(SystemExit):
        compare.main(["--keep", *part])
    assert f"it is for whole runs; leave out {part[0]}\n" in capsys.readouterr().err


def test_document_contains_all_results(results):
    text = page.document([results])
    for part in (
        "| `seed1` | 1.25 | **0.75** | out of memory |",
        "in 1 of 2 comparisons: seed1 forward (PyTorch baddbmm)",
        "| `seed1` | step | 1.25 | 99.5 | 12.0 | 1.00 | arithmetic | 80% | 70.0 | 30.0 | 200 |",
        "on data in L1: 270 GFLOP/s",
        "| `seed1` | step | PyTorch baddbmm | 1.25 | 1.00 - 1.50 | 30 | 99.5 | 200 | 1.5 | **50%** |",
        "in 1 of 4 rows, in bold",
        "| `seed1` | float32 | forward | tf_keras 2 | needs at least 9 GB |",
        "Not installed: JAX conv_local.",
        "| lcnumba | cold | 4.00 | 0.03 | 200 |",
        "| JAX conv_local | - | not installed: No module named 'jax' |",
        "| `seed1` | 6.5 | 10.0 | 0.1 |",
        "| `yolo_local` | died |",
        "| `digits` | layer(x) | 70 | 40 | 30 |",
        "| `bindsnet` | died |",
        "Some CPU, 2 cores, 20.0 GB",
        "python 3.11, numpy 2.0",
        "on 2026-01-02 03:04 UTC, in 12 minutes.",
    ):
        assert part in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.strip().splitlines()}) == 1


def test_document_of_several_runs(results):
    about = results["environment"] | {"cpu": "Other CPU", "vector_bits": 256, "target": "haswell"}
    text = page.document([results, results | {"environment": about}])
    heads = [line for line in text.splitlines() if line.startswith(("# ", "## "))]
    assert heads == [
        "# Benchmarks", "## The layers", "## Some CPU, vectors of unknown length", "## Other CPU, vectors of 256 bits",
    ]  # fmt: skip
    assert text.count("### Roofline") == 2
    assert "2 threads (target haswell)." in text


def test_automatic_choice_and_times_of_all_implementations(results):
    assert "auto" not in page.document([results]), "with one implementation there is no choice"
    results["rows"].append(figure("own3", "step", median=0.001, ratio=0.8))
    results["auto"] = {"seed1": 1}
    assert "| `seed1` | 1 | 1.25 | - | 1.00 | 1.25 |" in page.document([results])


def test_tables_without_peers_or_successful_rows(results):
    results["rows"] = [row for row in results["rows"] if row["peer"] == "own1"]
    assert "relative to lcnumba" not in page.document([results])
    results["rows"] = [row | {"status": "error", "reason": "broken"} for row in results["rows"]]
    assert "| `seed1` | float32 | step | lcnumba | broken |" in page.document([results])


def test_progress_lines(results):
    lines = [tables.line(row) for row in results["rows"]]
    assert lines[0].endswith("0.75 x lcnumba")
    assert lines[1].endswith("DISTURBED: other load 50%")
    assert lines[3].endswith("memory: needs at least 9 GB")
    assert lines[5].endswith("80% of arithmetic roofline")


def test_write_is_idempotent(results, tmp_path):
    results = of_layers(results)
    pages = [tmp_path / name for name in ("README.md", "docs/performance.md", "docs/benchmarks.md")]
    (tmp_path / "docs").mkdir()
    for path in pages[:2]:
        path.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write([results], str(tmp_path))
    first = [path.read_text() for path in pages]
    assert first[0] == f"before\n{tables.BEGIN}\n{tables.summary(results)}\n{tables.END}\nafter\n"
    assert first[1] == f"before\n{tables.BEGIN}\n{tables.overview([results])}\n{tables.END}\nafter\n"
    tables.write([results], str(tmp_path))
    assert [path.read_text() for path in pages] == first


@pytest.mark.parametrize(
    "text", ["none", tables.BEGIN, f"{tables.END}\n{tables.BEGIN}", f"{tables.BEGIN}\n{tables.BEGIN}\n{tables.END}"]
)
def test_insert_requires_both_markers(text):
    with pytest.raises(ValueError, match="must contain the lines <!-- benchmark table: begin -->"):
        tables.insert(text, "table")


# --- the command line


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("wrong", 1)])
def test_command_line(status, code, results, monkeypatch, tmp_path, capsys):
    """Everything except the measurement."""
    made = [row | {"status": status, "reason": "other"} if row["peer"] == "torch" else row for row in results["rows"]]
    asked = []
    monkeypatch.setattr(compare, "measure", lambda case, names, how, _: asked.append((case, names, how)) or made)
    monkeypatch.setattr(compare, "run", lambda *_, **__: 2.7e11)
    monkeypatch.setattr(startup, "measure", lambda *_: results["startup"])
    monkeypatch.setattr(memory, "measure", lambda *_: results["memory"][0])
    monkeypatch.setattr(overhead, "measure", lambda *_: results["overhead"][0])
    path = tmp_path / "figures.json"
    arguments = ["--workload", "seed1", "--peers", "torch", "--memory-limit", "2", "--json", str(path)]
    assert compare.main([*arguments, "--threads", "1"]) == code
    [(case, names, how)] = asked
    assert (case.name, case.dtype, names) == ("seed1", "float32", ["torch"])
    assert how == measure.Settings(1, 0.4, 2_000_000_000, 300.0)
    written = json.loads(path.read_text())
    assert written["rows"] == made
    assert page.document([written])
    assert len(capsys.readouterr().out.splitlines()) == len(made)


def test_environment():
    about = environment.describe(2, ["--all"])
    assert about["command"] == "python -m bench.compare --all"
    assert about["threads"] == 2
    assert {"python", "lcnumba", "numba", "numpy"} <= set(about["versions"])


# The scratch memory of the larger one is not kept with its launches.
@pytest.mark.parametrize("batch", [2, 2000])
def test_overhead_of_calls(batch):
    times = overhead.calls(replace(TINY, batch=batch).to_json(), rounds=3)
    assert set(times) == {"forward", "step"}
    assert all(len(pair) == 2 for pair in times.values())
    with overhead._recorded() as launches:
        layer = lcnumba.LocallyConnected2D(2, 3)
        y, backward = layer.forward(np.ones((1, 5, 5, 1), np.float32))
        backward.step(y, 0.1)
    kernels = [launch._kernel.compiled.py_func.__name__.partition("_4")[0] for launch, *_ in launches]
    assert kernels == ["forward", "backward_bias", "backward", "update_whole"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="requires /proc")
def test_memory_of_a_step():
    row = memory.measure(TINY, 1)
    assert row["parameters"] == 4 * (12 * 12 * 3 + 12 * 3)
    assert row["activations"] == 4 * 2 * (2 * 40 + 2 * 36)
    assert row["extra"] >= 0


@pytest.mark.slow
def test_training_compares_equal_losses(tmp_path, monkeypatch):
    """lcnumba against itself, in separate processes."""
    monkeypatch.setattr(training, "PEERS", {"lcnumba": None, "twin": None, "missing": 1})
    rows = training.compare(2, 1)
    assert [len(row["times"]) for row in rows[:2]] == [2, 2]
    assert rows[0]["loss"] == rows[1]["loss"]
    assert "not installed" in rows[2].get("reason", "not installed")
    shares = training.profile(8)
    assert 0.3 < shares["compiled"] < 1, "kernels are called by another name"


def test_a_table_of_first_calls(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(first_calls, "seconds", lambda program, cache: asked.append((program, cache)) or len(asked))
    assert first_calls.main(["--rounds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| process | empty cache, s | warm cache, s |"
    assert len(lines) == 2 + len(first_calls.PROGRAMS) + 1
    assert len({cache for _, cache in asked}) == 1 + 2 * len(first_calls.PROGRAMS), "each cold process has a cache"


def test_programs_of_first_calls(tmp_path):
    """Each runs; the first one in a process of its own, with the cache that is asked for."""
    first, *others = first_calls.PROGRAMS
    assert first_calls.seconds(first, str(tmp_path)) > 0
    assert list(tmp_path.rglob("*.nbi"))
    for name in others:
        exec(first_calls.PROGRAMS[name], {})  # noqa: S102 - its own text


def test_tables_of_threading_layers(capsys, monkeypatch):
    monkeypatch.setattr(launch, "_measured", lambda layer: {"forward": [1.0, 2, 3], "step": [10.0, 20, 30]})
    monkeypatch.setattr(launch, "installed", lambda layer: layer != "tbb")
    monkeypatch.setattr(launch, "usable_processors", lambda: 0)
    assert launch.main(["--turns", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| Numba's, omp | 2 (")
    assert lines[3].startswith("| Python's (for workqueue) | 2 (")
    assert len(lines) == 4


@pytest.fixture
def stressed():
    return stress.Stress()


def test_stress_detects_wrong_results(stressed, monkeypatch):
    problem = stressed.problems[0]
    assert problem.answers()
    assert problem.trains()
    assert stressed.look(0)
    assert stressed.own(0)
    for turn in range(9):
        assert stressed.change(turn)
        assert stressed.look(turn)
    for turn, layer in enumerate(stressed.shared):
        layer.set_weights([np.eye(27, 32, dtype=np.float32)[None].repeat(196, 0)])
        assert not stressed.look(turn)
    for wrong in ("y", "dx"):
        with monkeypatch.context() as context:
            context.setattr(problem, wrong, getattr(problem, wrong) + 1)
            assert not problem.answers()
    monkeypatch.setattr(problem, "trained", problem.trained[::-1])
    assert not problem.trains()
    if hasattr(os, "fork"):
        assert not stressed.fork(0)
        assert stressed.fork(1)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_stress_for_seconds(layer):
    command = [sys.executable, "-m", "bench.stress", "--minutes", "0.1", "--layers", layer]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{layer}: passed" in result.stdout
    assert result.stdout.count(" 0 wrong") == 7
    assert " 0 done" not in result.stdout


@pytest.mark.parametrize("kind", ["frequencies", "liability"])
def test_genotypes(kind, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    X, y = genotypes.simulate(0, samples=500, snps=60, causal=20, kind=kind, shift=0.3)
    assert (X.shape, X.dtype, int(y.sum())) == ((500, 60), np.dtype(np.int8), 100)
    assert set(np.unique(X)) == {0, 1, 2}
    higher = X[y == 1].mean(0) - X[y == 0].mean(0) > 0.3  # sum of two alleles; the standard error is 0.07
    assert kind == "liability" or higher.sum() == 20
    neighbours = np.mean([np.corrcoef(X[:, at], X[:, at + 1])[0, 1] for at in range(59)])
    assert (neighbours > 0.3) == (kind == "liability")
    options = "--samples 60 --snps 40 --causal 10 --window 4 --passes 2 --seeds 0 1 --rows 0 1 --kind"
    monkeypatch.setattr(sys, "argv", ["genotypes", *options.split(), kind])
    assert genotypes.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| LogisticRegression", "| defaults"]
    assert all(0 <= float(area) <= 1 for line in lines[2:] for area in line.split(" | ")[1:3])
