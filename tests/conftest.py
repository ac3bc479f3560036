import signal

import numpy as np
import pytest
from hypothesis import settings

# No deadline: compiling a kernel may take seconds in the first example of a test.
settings.register_profile("lcnumba", deadline=None, derandomize=True, max_examples=60, stateful_step_count=30)
# For long runs: pytest --hypothesis-profile=deep tests/test_fuzz.py
settings.register_profile("deep", deadline=None, max_examples=2000, print_blob=True)


def pytest_configure(config):
    """Load the quick profile unless the command line selects another."""
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("lcnumba")


# A shell that starts the tests in the background makes them ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)
