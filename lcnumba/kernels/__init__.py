"""Numba kernels: bare loops over contiguous arrays, without a word of validation.

The contract: a kernel takes C-contiguous arrays and integers, writes into arrays it is given,
allocates nothing, raises nothing, and knows no strings and no modes. Arrays that are only read
come as read-only views (`lcnumba.arrays.frozen`), so that one compiled specialisation a dtype is
enough. Every output element is written by exactly one task, tasks are cut from shapes alone, and
no sum is divided among tasks: results do not depend on the number of threads. Below a fixed amount
of work (`SERIAL_WORK` multiplications and additions) a kernel runs in the calling thread.

Dimensions, in every file of this folder::

    N  batch                       P  output positions (LO * OW)
    LI input lines   W  columns    LO output lines   OW output columns
    C  channels                    F  filters
    A  tap lines     KW taps       K  window entries (A * KW * C)

Backward mirrors forward: x, kernel, bias, y / dx, dkernel, dbias, dy.
"""

SERIAL_WORK = 1 << 20
