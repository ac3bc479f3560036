import os
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.implementations import scratch


@pytest.mark.parametrize("shape", [(3,), (0, 5), (40, 7, 33), (1 << 16,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_arrays_are_aligned_to_cache_lines(shape, dtype):
    array = scratch.aligned(shape, np.dtype(dtype))
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.nbytes < scratch.SMALL_BYTES or array.ctypes.data % scratch.LINE_BYTES == 0


def test_parts_of_scratch_memory_are_disjoint_and_aligned():
    sizes = {"first": 3, "second": 64, "third": 0, "last": 1000}
    memory, places = scratch.scratch(sizes)
    assert places.keys() == sizes.keys()
    assert memory.nbytes <= sum(sizes.values()) + scratch.LINE_BYTES * (len(sizes) + 1)
    begin = memory.ctypes.data
    for name, place in places.items():
        assert place % scratch.LINE_BYTES == 0
        assert begin <= place <= place + sizes[name] <= begin + memory.nbytes
        assert all(place >= at + sizes[other] for other, at in places.items() if at < place)


def test_implementation_1_does_not_copy_the_weights():
    """Implementation 3, for comparison, builds another layout of them."""
    layer = lc.LocallyConnected2D(32, 3, input_shape=(40, 40, 8), rng=0)
    layer.build((None, 40, 40, 8))
    x = np.ones((1, 40, 40, 8), np.float32)
    sizes = []
    for mine in (layer, layer.with_implementation(3)):
        twin = mine.with_implementation(mine.implementation)  # imports and compiles before memory is traced
        twin.forward(x)[1].step(twin(x), lr=0.01)
        tracemalloc.start()
        try:
            y, backward = mine.forward(x)
            backward.step(y, lr=0.01)
            mine(x)
            sizes.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert sizes[0] < layer.kernel.nbytes / 2
    assert sizes[1] > layer.kernel.nbytes


TRAINING = """
    import os, sys
    import numpy as np
    import lcnumba as lc
    from lcnumba.kernels import rules

    if os.environ["NUMBA_THREADING_LAYER"] == "workqueue":
        rules.SERIAL_WORK = -1

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
    model = lc.Sequential([lc.LocallyConnected2D(8, 3, rng=0), lc.Flatten(),
                           lc.Dense(5, activation="softmax", rng=0)])
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
def test_memory_is_constant_over_thousands_of_steps(layer, tmp_path):
    """A leak of 1 kB per step is detected; with workqueue even the smallest kernels use threads."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(TRAINING)],
        cwd=tmp_path, env={**os.environ, "NUMBA_THREADING_LAYER": layer},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 2e6
