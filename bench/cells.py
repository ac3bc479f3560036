"""Markdown formatting of values and tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from bench.disturbance import TOLERATED

__all__ = [
    "NONE", "Row", "by_workload", "cell", "disturbed", "dtypes", "ms", "own_cells", "ratio", "rounded", "table",
    "threads",
]  # fmt: skip

Row = dict[str, Any]

NONE = "-"


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table."""
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(text: str) -> str:
    """Return a text escaped for a table cell."""
    return text.replace("|", "\\|")


def rounded(number: float) -> str:
    """Format with three significant digits, without an exponent."""
    for limit, digits in ((1, 3), (10, 2), (100, 1)):
        if number < limit:
            return f"{number:.{digits}f}"
    return f"{number:.0f}"


def ms(seconds: float) -> str:
    """Format seconds as milliseconds."""
    return rounded(1e3 * seconds)


def ratio(row: Row | None) -> str:
    """Return a row's time relative to lcnumba, in bold if it is faster; or why there is none."""
    if row is None or row["status"] == "missing":
        return NONE
    if row["status"] != "ok":
        return {"memory": "out of memory", "time": "too slow"}.get(row["status"], row["status"])
    return f"**{row['ratio']:.2f}**" if row["ratio"] < 1 else rounded(row["ratio"])


def own_cells(of: dict[str, Row]) -> list[str]:
    """Return lcnumba's time in ms and share of the roofline, from a workload's rows by peer."""
    own = of.get("own1")
    if own is None or own["status"] != "ok":
        return ["failed", NONE]
    return [ms(own["median"]), f"{own['efficiency']:.0%}"]


def disturbed(row: Row) -> bool:
    """Return whether other processes disturbed a measurement."""
    return (row.get("disturbance") or 0) > TOLERATED


def threads(about: Row) -> str:
    """Return the number of threads of an environment as text."""
    return f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"


def dtypes(rows: Iterable[Row]) -> list[str]:
    """Return the dtypes in the order of the run."""
    return list(dict.fromkeys(row["dtype"] for row in rows))


def by_workload(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Return rows by workload, in the order of the run, and by peer."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["workload"], {})[row["peer"]] = row
    return found
