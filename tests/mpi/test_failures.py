"""What fails on one rank: the same error on all and unchanged weights, or the end of all and a file to resume from."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cases import digest
from launcher import HERE, MPIEXEC, environment, need_mpi, run

need_mpi()

ERRORS = {
    "reading": ("OSError", "the disk of rank 1 is gone"),
    "memory": ("MemoryError", ""),
    "loss": ("ArithmeticError", "the loss of one rank failed"),
    "callback": ("KeyError", "a callback failed"),
    "shape": ("ValueError", "ranks were given different data"),
    "different_data": ("ValueError", "ranks were given different data"),
    "different_batches": ("ValueError", "ranks have different batches"),
    "fewer_batches": ("ValueError", "ranks have different batches"),
    "unwritable": ("FileNotFoundError", "no such folder"),
    "unreadable": ("ValueError", "is not an lcnumba model file"),
    "damaged": ("ValueError", "weight_0 of the file is damaged"),
    "argument": ("ValueError", "batch_size=0 is too small"),
    "thin": ("ValueError", "at most 2"),
    "different_models": ("ValueError", "the weights of the model differ between ranks"),
    "schedule": ("LookupError", "no learning rate"),
    "slope": ("ValueError", "dy has shape (3,); give the shape of y, (24, 16, 6, 3)"),
    "number": ("TypeError", "must return a pair"),
    "labels_of_positions": ("TypeError", "class_weight needs one label a sample"),
    "different_evaluation": ("ValueError", "ranks were given different data"),
    "different_epochs": ("ValueError", "ranks were given different data"),
    "compile_in_callback": ("RuntimeError", "compile cannot be called by a callback"),
    "changes_one_rank": ("RuntimeError", "on this rank alone"),
    "evaluate_in_callback": ("RuntimeError", "give validation_data to fit"),
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The folder of what the ranks of one or two groups reported of all ways."""
    found = {}

    def folder(groups):
        if groups not in found:
            found[groups] = tmp_path_factory.mktemp("failed")
            environ = {"GROUPS": str(groups)}
            run("failures.py", found[groups], *ERRORS, ranks=RANKS[groups], environ=environ, seconds=240)
        return found[groups]

    return folder


RANKS = {1: 3, 2: 4}


@pytest.mark.parametrize("groups", RANKS)
@pytest.mark.parametrize("way", ERRORS)
def test_all_ranks_raise_the_same_and_weights_are_unchanged(failed, way, groups):
    ranks = RANKS[groups]
    reports = [json.loads((failed(groups) / f"{way}{rank}.json").read_text()) for rank in range(ranks)]
    kind, text = ERRORS[way]
    for report in reports:
        assert report["ranks"] == ranks
        assert (report["type"], report["text"]) == (kind, reports[0]["text"])
        assert text in report["text"]
        assert not report["changed"] or (way == "reading" and groups > 1), "in groups other batches were read before"
        if way != "changes_one_rank":
            assert report["loss"] == reports[0]["loss"]


@pytest.mark.parametrize("way", ["bug", "killed", "interrupted", "exits", "exits_in_loss"])
def test_the_end_of_one_rank_ends_all(tmp_path, way):
    began = time.monotonic()
    found = run("failures.py", tmp_path, way, ranks=3, check=False, seconds=60)
    assert found.returncode != 0
    assert "not reached" not in found.stderr
    assert time.monotonic() - began < 40, "ended by itself, not by the time limit of the test"


def start(folder, ranks, pace, epochs):
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py", str(HERE / "killed.py")]
    command += [str(folder), pace, str(epochs)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_and_resume(folder, kills, epochs):
    """Kill a random rank at random moments, and resume on other numbers of ranks; return each run's first step."""
    rng, begun = random.Random(kills), []
    while not (folder / "done").exists():
        ranks, kills_it = rng.choice([1, 2, 3, 4]), len(begun) < kills
        for file in (*folder.glob("pid*"), *folder.glob("begun")):
            file.unlink()
        process = start(folder, ranks, "slowly" if kills_it else "fast", epochs)
        try:
            while not (folder / "begun").exists() or not (folder / "begun").read_text():
                assert process.poll() is None, process.stderr.read().decode()
                time.sleep(0.01)
            begun.append(int((folder / "begun").read_text()))
            if kills_it:
                time.sleep(rng.random() * 0.3)
                os.kill(int((folder / f"pid{rng.randrange(ranks)}").read_text()), signal.SIGKILL)
                assert process.wait(10) != 0  # all processes end
            else:
                assert process.wait(120) == 0, process.stderr.read().decode()
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    return begun


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_training_resumes_to_the_same_bytes_on_any_number_of_ranks(tmp_path, kills):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    epochs = 2 + kills // 2
    whole = start(tmp_path / "whole", 2, "fast", epochs)
    assert whole.wait(120) == 0
    whole.stderr.close()
    begun = kill_and_resume(tmp_path / "killed", kills, epochs)
    assert len(begun) == kills + 1
    assert begun == sorted(set(begun)), "each run went on where the one before was killed"
    assert digest(tmp_path / "killed" / "run.npz") == digest(tmp_path / "whole" / "run.npz")
    assert not list((tmp_path / "killed").glob(".run.npz.*")), "files of killed writers were removed"


def test_a_file_is_an_ordinary_one(tmp_path):
    """One process reads what three have written, and goes on with the training."""
    import lcnumba as lc

    process = start(tmp_path, 3, "fast", 2)
    assert process.wait(120) == 0
    process.stderr.close()
    model = lc.load(tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz") as file:
        for number, weight in enumerate(model.get_weights()):
            np.testing.assert_array_equal(file[f"weight_{number}"], weight)
    x, y = np.ones((8, 24, 10, 2), np.float32), np.ones((8, 12, 5, 3), np.float32)
    model.compile("adam", "mse", ["mae"], lr=0.01, clip_norm=1.0)
    history = model.fit(x, y, epochs=3, batch_size=8, resume=tmp_path / "run.npz", progress=False)
    assert history.epoch == list(range(3))
