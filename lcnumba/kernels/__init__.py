"""Numba kernels: bare loops over contiguous arrays, without a word of validation.

The contract: a kernel takes C-contiguous arrays and integers, writes into arrays it is given,
allocates nothing, raises nothing, and knows no strings. Arrays that are only read come as read-only
views (`lcnumba.utils.arrays.read_only`), so that one compiled specialisation a dtype is enough. A kernel's work
is cut into tasks by shapes alone, every output element is written by exactly one task, and no sum is
divided among tasks: results do not depend on who computes which task, nor on how many threads there
are. Below a fixed amount of work a kernel runs in the calling thread.

Dimensions, in every file of this folder::

    N  batch                       P  output positions (LO * OW)
    LI input lines   W  columns    LO output lines   OW output columns
    C  channels                    F  filters
    A  tap lines     KW taps       K  window entries (A * KW * C)

Backward mirrors forward: x, kernel, bias, y / dx, dkernel, dbias, dy.
"""

from lcnumba.runtime import forks

forks.guard()  # every file here imports Numba or llvmlite
