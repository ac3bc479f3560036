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
    for number, (array, shape) in enumerate(zip(made, shapes, strict=True)):
        assert array.shape == shape
        assert array.ctypes.data % memory.LINE_BYTES == 0
        array[...] = number
    for number, array in enumerate(made):
        assert (array == number).all()
