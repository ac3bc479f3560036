import math

import numpy as np
import pytest

from lcnumba.schedules import CosineDecay, ExponentialDecay, StepDecay


def test_cosine_decay():
    schedule = CosineDecay(0.5, steps=100, warmup=9, final=0.1)
    assert [schedule(step) for step in (0, 8, 9)] == pytest.approx([0.05, 0.45, 0.5])
    assert schedule(59) == pytest.approx(0.3), "half of the way"
    assert schedule(34) == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule(109) == schedule(10**9) == pytest.approx(0.1)
    rates = [schedule(step) for step in range(9, 120)]
    assert rates == sorted(rates, reverse=True)


def test_step_decay():
    schedule = StepDecay(0.5, every=10)
    assert [schedule(step) for step in (0, 9, 10, 19, 20)] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineDecay(-1.0, 5), "lr must be at least 0 .*, got -1.0"),
        (lambda: CosineDecay(1.0, 0), "steps=0"),
        (lambda: CosineDecay(1.0, 5, warmup=-1), "warmup=-1"),
        (lambda: CosineDecay(1.0, 5, final=2.0), r"final must be in \[0, lr=1.0\], got 2.0"),
        (lambda: StepDecay(1.0, 0), "every=0"),
        (lambda: StepDecay(1.0, 1, factor=0), "factor must be > 0, got 0"),
        (lambda: StepDecay(math.nan, 1), "lr must be finite, got nan"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_of_other_number_types_are_pythons_numbers():
    """A power of an integer would have as many digits as there are steps, and int8 does not hold the steps."""
    assert StepDecay(1.0, every=1, factor=10)(10**9) == math.inf
    assert StepDecay(1, np.int8(5), factor=np.float32(0.5))(10**9) == 0
    assert CosineDecay(np.float32(0.5), np.int8(100), warmup=np.int8(3))(10**9) == 0
    with pytest.raises(TypeError, match=r"final=.* is a timedelta64"):
        CosineDecay(1.0, 5, final=np.timedelta64(0, "s"))


def test_exponential_decay_is_that_of_keras():
    smooth, stairs = ExponentialDecay(0.1, 10, 0.5), ExponentialDecay(0.1, 10, 0.5, staircase=True)
    for step in (0, 1, 5, 10, 25):
        assert smooth(step) == 0.1 * 0.5 ** (step / 10)
        assert stairs(step) == 0.1 * 0.5 ** (step // 10)
    assert ExponentialDecay(1, 1, 2.0)(10**6) == math.inf
    for settings, message in (((-1, 10, 0.5), "lr=-1"), ((1, 0, 0.5), "steps=0"),
                              ((1, 10, 0), "rate must be > 0, got 0"), ((1, 10, 0.5, 1), "staircase=1")):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=message):
            ExponentialDecay(*settings)
