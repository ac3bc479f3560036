"""Shared by the peers that copy windows: the sum of windows back to inputs."""

from typing import Any

from bench.case import Case

__all__ = ["fold"]


def fold(case: Case, dpatches: Any, dx: Any) -> None:
    """Add windows (N, OH, OW, KH, KW, C) in place to a padded input gradient (N, H, W, C).

    Windows overlap, so one addition handles either one tap of all windows or all taps of one window, whichever
    are fewer.
    """
    rows, columns = case.strides
    OH, OW = case.output_size
    KH, KW = case.kernel_size
    if OH * OW < KH * KW:
        for o in range(OH):
            for p in range(OW):
                dx[:, o * rows : o * rows + KH, p * columns : p * columns + KW] += dpatches[:, o, p]
        return
    for i in range(KH):
        for j in range(KW):
            last_row, last_column = i + (OH - 1) * rows, j + (OW - 1) * columns
            dx[:, i : last_row + 1 : rows, j : last_column + 1 : columns] += dpatches[:, :, :, i, j]
