import signal

import numpy as np
import pytest
from hypothesis import settings

# Compiling a kernel may take seconds inside the first example of a test.
settings.register_profile("lcnumba", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("lcnumba")


# A shell that starts the tests in the background lets them ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)
