"""Output of a run, a line per result; and pages of all results: docs/benchmarks.md, charts, summaries on other pages.

``python -m bench.tables`` renders what is in bench/results.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import ROOT, charts, results
from bench.cells import NONE, Row, disturbed, ms, rounded, table
from bench.page import document
from bench.peers import PEERS

__all__ = ["BEGIN", "END", "insert", "line", "main", "overview", "summary", "write"]

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


def summary(run: dict[str, Any]) -> str:
    """Return the chart of a run's steps, and a sentence with its figures."""
    parts, about = [f"{label} {text}" for label, text in _relative(run).items()], run["environment"]
    return (
        "![Times of a training step of PyTorch, NumPy, Keras' own layer and JAX relative to lcnumba; the figures are "
        "given below.](docs/figures/benchmark-times.svg)\n\n"
        f"Time of a training step (forward, all gradients, SGD) relative to lcnumba, median and range over "
        f"{len(charts.layers(run))} layers: {'; '.join(parts)}. {charts.machine(run)}, {about['date'].split()[0]}. "
        f"[{_DOCUMENT}]({_DOCUMENT}) has all results, also those where others are faster."
    )


def overview(runs: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row for each run: its steps, and how far lcnumba is from the roofline."""
    labels = [label for label, *_ in charts.PEERS]
    head = ["CPU, vectors", *labels, "forward, of the roofline", "step, of the roofline"]
    body, faster = [], []
    for run in runs:
        relative = _relative(run)
        shares = [_shares(run, operation) for operation in ("forward", "step")]
        machine = charts.machine(run).replace("vectors of ", "")
        body.append([machine, *(relative.get(label, NONE) for label in labels), *shares])
        if rows := [row for row in run["rows"] if row.get("ratio", 1) < 1]:
            peers = (
                f"`{row['workload']}` {row['operation']}, {PEERS[row['peer']].label} {rounded(row['ratio'])}"
                for row in rows
            )
            faster.append(f"- {machine}: {'; '.join(peers)}")
    return (
        f"{table(head, body)}\n\nTime of a step relative to lcnumba: median and range over the layers. Share of the "
        "roofline that lcnumba reaches: median over the layers that take more than a millisecond, and the least."
        + ("\n\nFaster than lcnumba were:\n\n" + "\n".join(faster) if faster else "")
    )


def _relative(run: dict[str, Any]) -> dict[str, str]:
    """The median and the range of the times of a step relative to lcnumba, of each group of peers that was measured."""
    found, layers = {}, len(charts.layers(run))
    for label, names, _, _ in charts.PEERS:
        if times := sorted(charts.relative(run, names).values()):
            least, most = rounded(times[0]), rounded(times[-1])
            some = f", {len(times)} layers" if len(times) < layers else ""
            found[label] = f"{rounded(statistics.median(times))} ({least} to {most}{some})"
    return found


def _shares(run: dict[str, Any], operation: str) -> str:
    """The median and the least share of the roofline of layers that take more than a millisecond."""
    rows = [row for row in run["rows"] if row["peer"] == "own1" and row["status"] == "ok"]
    shares = {
        row["workload"]: row["efficiency"]
        for row in rows
        if row["operation"] == operation and row["dtype"] == "float32" and row["median"] > 1e-3
    }
    if not shares:
        return NONE
    least = min(shares, key=lambda name: shares[name])
    return f"{statistics.median(shares.values()):.0%} (`{least}` {shares[least]:.0%})"


def insert(text: str, part: str) -> str:
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
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


def write(runs: Sequence[dict[str, Any]], root: str = str(ROOT)) -> None:
    """Write docs/benchmarks.md, the charts and the overview of all runs, and the summary of the first in README.md."""
    pages = {Path(root, "README.md"): summary(runs[0]), Path(root, "docs", "performance.md"): overview(runs)}
    texts = {path: insert(path.read_text(encoding="utf-8"), part) for path, part in pages.items()}
    texts[Path(root, _DOCUMENT)] = document(runs)
    charts.write(runs, Path(root, "docs", "figures"))
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def main() -> int:
    """Render the results that are kept."""
    write(results.kept())
    return 0


if __name__ == "__main__":
    sys.exit(main())
