"""Numba kernels: loops over contiguous arrays, without validation.

A kernel takes C-contiguous arrays and scalars and writes to preallocated arrays. It allocates nothing, raises
nothing and takes no strings. Input arrays are passed as read-only views (`lcnumba.utils.arrays.read_only`), so that
one specialisation per dtype is enough. The work is split into tasks by shapes alone, each output element is
written by exactly one task, and no sum is split among tasks: results depend neither on which worker computes
a task nor on the number of threads. Below a fixed amount of work a kernel runs in the calling thread.

Dimensions, in every file of this folder::

    N  batch                       P  output positions (LO * OW)
    LI input lines   W  columns    LO output lines   OW output columns
    C  channels                    F  filters
    A  tap lines     KW taps       K  window entries (A * KW * C)

Backward mirrors forward: x, kernel, bias, y / dx, dkernel, dbias, dy.
"""

from lcnumba.runtime import forks

forks.guard()  # nearly every file here imports Numba or llvmlite
