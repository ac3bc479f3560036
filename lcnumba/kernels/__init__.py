"""Numba kernels: loops over contiguous arrays, without validation.

A kernel takes the address of a record (`records.py`), which holds the addresses of C-contiguous arrays, their sizes and
scalars, and writes to preallocated arrays. It allocates nothing and raises nothing. All kernels have one signature, and
one function runs them on threads. The work is split into tasks by shapes alone, each output element is
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
