import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from lcnumba.implementations import memory


@pytest.mark.parametrize("shape", [(3,), (0, 5), (40, 7, 33), (1 << 16,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_aligned_arrays_are_ordinary_and_the_large_ones_begin_with_a_cache_line(shape, dtype):
    array = memory.aligned(shape, np.dtype(dtype))
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.nbytes < memory.SMALL_BYTES or array.ctypes.data % memory.LINE_BYTES == 0


def test_scratch_arrays_lie_apart_and_begin_with_a_cache_line():
    shapes = [(3,), (0, 5), (40, 7, 3), (2, 2)]
    made = memory.scratch(np.dtype(np.float64), *shapes)
    assert made[0].base.nbytes <= sum(array.nbytes for array in made) + memory.LINE_BYTES * (len(made) + 1)
    for number, (array, shape) in enumerate(zip(made, shapes, strict=True)):
        assert array.shape == shape
        assert array.ctypes.data % memory.LINE_BYTES == 0
        array[...] = number
    for number, array in enumerate(made):
        assert (array == number).all()


TRAINING = """
    import os, sys
    import numpy as np
    import lcnumba as lc

    def resident():
        "Bytes of memory that no file stands behind."
        with open("/proc/self/status") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

    def step():
        for layer in layers:
            y, backward = layer.forward(x)
            dx, grads = backward(y)
            layer.step(grads, lr=1e-3)
            layer.forward(x)[1].step(y, lr=1e-3)
            layer(x)
        model.train_on_batch(x, labels)

    x = np.random.default_rng(0).standard_normal((4, 12, 12, 3), np.float32)
    labels = np.zeros(4, int)
    settings = {"activation": "relu", "optimizer": "adam", "n_threads": 2, "rng": 0}
    layers = [lc.LocallyConnected2D(8, 3, input_shape=x.shape[1:], implementation=i, **settings) for i in (1, 2, 3)]
    model = lc.Sequential([lc.LocallyConnected2D(8, 3, rng=0), lc.Flatten(), lc.Dense(5, rng=0)])
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    for _ in range(100):
        step()
    before = resident()
    for _ in range(2000):
        step()
    print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the size")
@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_thousands_of_steps_take_no_more_memory(layer, tmp_path):
    """The smallest array of a step is 5 kB (labels aside), and 2,000 of them are five times what is allowed."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(TRAINING)],
        cwd=tmp_path, env={**os.environ, "NUMBA_THREADING_LAYER": layer},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 2e6
