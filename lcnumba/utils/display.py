"""What objects show in an interactive session: public names, and tables and curves as text or HTML."""

import html
import inspect
import math
from collections.abc import Sequence
from typing import Any

from lcnumba.utils.deprecation import Renamed, RenamedMethods

__all__ = ["PublicNames", "array_text", "html_table", "parameters_text", "sparkline"]

# Eighths of a block, from the lowest value of a curve to the highest.
_BLOCKS = "▁▂▃▄▅▆▇█"
# Characters of a curve; longer ones show every second value, or every third, ....
MOST_CHARACTERS = 60


class PublicNames(RenamedMethods):
    """Base of classes whose instances show public names alone in `dir` and tab completion, and no deprecated ones.

    Examples
    --------
    >>> import lcnumba as lc
    >>> "units" in dir(lc.Dense(3)), "_parameters" in dir(lc.Dense(3)), "prepare_step" in dir(lc.Dense(3))
    (True, False, False)
    """

    def __dir__(self) -> list[str]:
        """Public names, and Python's own."""
        names = (name for name in super().__dir__() if not name.startswith("_") or name.startswith("__"))
        return [name for name in names if not isinstance(inspect.getattr_static(self, name, None), Renamed)]


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table as HTML, its texts escaped.

    Examples
    --------
    >>> from lcnumba.utils.display import html_table
    >>> html_table(["Layer"], [["a < b"]], "one layer")
    '<table><caption>one layer</caption><tr><th>Layer</th></tr><tr><td>a &lt; b</td></tr></table>'
    """

    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}{row(head, 'th')}{body}</table>"


def sparkline(values: Sequence[float]) -> str:
    """Return a curve as a line of characters, with a space for each value that is not finite.

    Examples
    --------
    >>> from lcnumba.utils.display import sparkline
    >>> sparkline([8.0, 4.0, float("nan"), 2.0, 1.0])
    '█▄ ▂▁'
    """
    shown = values[:: -(-len(values) // MOST_CHARACTERS) or 1]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] if math.isfinite(value) else " " for value in shown)


def parameters_text(count: int) -> str:
    """Return a number of parameters as text.

    Examples
    --------
    >>> from lcnumba.utils.display import parameters_text
    >>> parameters_text(1), parameters_text(12345)
    ('1 parameter', '12,345 parameters')
    """
    return f"{count:,} parameter{'s' if count != 1 else ''}"


def array_text(array: Any) -> str:
    """Return dtype and shape of an array, and its largest magnitude if that can be had.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils.display import array_text
    >>> array_text(np.array([1.0, -3.0]))
    'float64 (2,), at most 3'
    """
    text = f"{getattr(array, 'dtype', type(array).__name__)} {tuple(getattr(array, 'shape', ()))}"
    try:
        largest = max(abs(float(array.min())), abs(float(array.max())))
    except (AttributeError, TypeError, ValueError):  # of no elements, or another kind of array
        return text
    return f"{text}, at most {largest:.3g}"
