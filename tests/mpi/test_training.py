"""Trainings on 1 to 4 ranks give the bytes of one process: weights, optimizer states, history, predictions."""

import json
import shutil

import pytest
from cases import cases
from launcher import need_mpi, run

need_mpi()

RANKS = (1, 2, 3, 4)


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """What `cases.py` prints, by number of ranks; run once each."""
    found = {}

    def report(ranks):
        if ranks not in found:
            folder = tmp_path_factory.mktemp(f"ranks{ranks}")
            flags = ["--mpi"] if ranks else []
            found[ranks] = json.loads(run("cases.py", folder, *flags, ranks=ranks, seconds=300).stdout.splitlines()[-1])
            shutil.rmtree(folder)
        return found[ranks]

    return report


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", [*cases(), "resumed"])
def test_any_number_of_ranks_gives_the_bytes_of_one_process(reports, case, ranks):
    found = reports(ranks)
    assert found["ranks"] == ranks, "the launcher started as many processes that know of each other"
    assert found["digests"][case] == reports(0)["digests"][case]


def test_another_seed_gives_other_bytes(reports):
    """So that equal digests mean something."""
    digests = reports(0)["digests"]
    assert digests["control"] != digests["uneven"]
    assert len(set(digests.values())) == len(digests)
