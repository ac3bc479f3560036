"""Trainings on 1 to 4 ranks give the bytes of one process: weights, optimizer states, history, predictions."""

import json
import shutil

import pytest
from cases import cases
from launcher import need_mpi, run

need_mpi()

# Ranks, and groups of them that compute different batches.
RANKS = [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (4, 2)]


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """What `cases.py` prints, by numbers of ranks and groups; run once each. With 0 ranks in one process."""
    found = {}

    def report(ranks, groups):
        if (ranks, groups) not in found:
            folder = tmp_path_factory.mktemp(f"ranks{ranks}")
            flags = ["--groups", groups, *(["--mpi"] if ranks else [])]
            printed = run("cases.py", folder, *flags, ranks=ranks, seconds=300).stdout
            found[ranks, groups] = json.loads(printed.splitlines()[-1])
            shutil.rmtree(folder)
        return found[ranks, groups]

    return report


@pytest.mark.parametrize(("ranks", "groups"), RANKS)
@pytest.mark.parametrize("case", [*cases(), "resumed"])
def test_any_number_of_ranks_gives_the_bytes_of_one_process(reports, case, ranks, groups):
    """With several groups those of one process that accumulates as many batches."""
    found = reports(ranks, groups)
    assert found["ranks"] == ranks, "the launcher started as many processes that know of each other"
    assert found["digests"][case] == reports(0, groups)["digests"][case]


def test_another_seed_gives_other_bytes(reports):
    """So that equal digests mean something."""
    digests = reports(0, 1)["digests"]
    assert reports(0, 2)["digests"]["uneven"] != digests["uneven"]
    assert digests["control"] != digests["uneven"]
    assert len(set(digests.values())) == len(digests)
