"""Common types for annotations."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Mask", "Shape"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
# None where the size is not known: of the batch.
Shape = tuple[int | None, ...]
