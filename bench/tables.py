"""Output of a run: a line per result, docs/benchmarks.md, and the short table in README.md.

``python -m bench.tables FILE...`` renders the JSON of previous runs; README.md shows the first.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.cells import Row, by_workload, disturbed, dtypes, ms, own_cells, ratio, table, threads
from bench.page import document
from bench.peers import PEERS

__all__ = ["BEGIN", "END", "insert", "line", "main", "summary", "write"]

BEGIN, END = "<!-- benchmark table: begin -->", "<!-- benchmark table: end -->"
_DOCUMENT = "docs/benchmarks.md"


def line(row: Row) -> str:
    """Return a row as a line of progress output."""
    head = f"{row['workload']:<14}{row['dtype']:<9}{row['operation']:<9}{PEERS[row['peer']].label:<27}"
    if row["status"] != "ok":
        return f"{head}{row['status']}: {row['reason']}"
    spread = f"{ms(row['median'])} ms ({ms(row['low'])} - {ms(row['high'])})"
    relative = (
        f"{row['ratio']:.2f} x lcnumba" if "ratio" in row else f"{row['efficiency']:.0%} of {row['bound']} roofline"
    )
    others = f"  DISTURBED: other load {row['disturbance']:.0%}" if disturbed(row) else ""
    return f"{head}{spread:<34}{row['gflops']:>7.1f} GFLOP/s  {row['peak'] / 1e6:>6.0f} MB  {relative}{others}"


def summary(results: dict[str, Any]) -> str:
    """Return the short table: a step of lcnumba in ms, and the relative time of each peer."""
    rows = [row for row in results["rows"] if row["dtype"] == dtypes(results["rows"])[0]]
    steps = by_workload(row for row in rows if row["operation"] == "step")
    peers = [name for name in PEERS if not name.startswith("own") and _any_ok(rows, name)]
    head = ["layer", "lcnumba", "of roofline", *(PEERS[name].label for name in peers)]
    body = [
        [f"`{workload}`", *own_cells(of), *(ratio(of.get(name)) for name in peers)] for workload, of in steps.items()
    ]
    about = results["environment"]
    vectors = f" vectors of {about['vector_bits']} bits," if "vector_bits" in about else ""
    note = (
        f"A training step (forward, all gradients, SGD) of lcnumba in ms, and the relative time of others; "
        f"{about['cpu']},{vectors} {threads(about)}, {about['date'].split()[0]}. "
        f"All results, including those where others are faster: [{_DOCUMENT}]({_DOCUMENT})."
    )
    return f"{table(head, body)}\n\n{note}"


def insert(text: str, table: str) -> str:
    """Return a text with the part between the markers replaced.

    Raises
    ------
    ValueError
        If the text does not contain each marker once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end or BEGIN in old + after or END in before + after:
        raise ValueError(f"the text must contain the lines {BEGIN} and {END}, once each and in this order")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write(runs: Sequence[dict[str, Any]], root: str = str(ROOT)) -> None:
    """Write docs/benchmarks.md, and the short table of the first run in README.md."""
    readme = Path(root, "README.md")
    text = insert(readme.read_text(encoding="utf-8"), summary(runs[0]))
    Path(root, _DOCUMENT).write_text(document(runs), encoding="utf-8")
    readme.write_text(text, encoding="utf-8")


def _any_ok(rows: Iterable[Row], peer: str) -> bool:
    return any(row["peer"] == peer and row["status"] == "ok" and row["operation"] == "step" for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render JSON files."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description="Render the results of previous runs.")
    parser.add_argument("files", nargs="+", help="JSON files written by `python -m bench.compare --json`")
    write([json.loads(Path(file).read_text()) for file in parser.parse_args(arguments).files])
    return 0


if __name__ == "__main__":
    sys.exit(main())
