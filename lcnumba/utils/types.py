"""Types that annotations everywhere use."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Mask", "Shape"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
# A size an axis, None where it is not known: that of the batch.
Shape = tuple[int | None, ...]
