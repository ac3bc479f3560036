import numpy as np
import pytest
from hypothesis import settings

# Compiling a kernel may take seconds inside the first example of a test.
settings.register_profile("lcnumba", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("lcnumba")


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)
