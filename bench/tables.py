"""Output of a run, a line per result; and pages of all results: docs/benchmarks.md, charts, the summary in README.md.

``python -m bench.tables`` renders what is in bench/results.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import ROOT, charts, results
from bench.cells import Row, disturbed, ms, rounded
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


def summary(run: dict[str, Any]) -> str:
    """Return the chart of a run's steps, and a sentence with its figures."""
    parts, layers = [], len(charts.layers(run))
    for label, names, _, _ in charts.PEERS:
        if times := sorted(charts.relative(run, names).values()):
            least, most = rounded(times[0]), rounded(times[-1])
            some = f", {len(times)} layers" if len(times) < layers else ""
            parts.append(f"{label} {rounded(statistics.median(times))} ({least} to {most}{some})")
    about = run["environment"]
    return (
        "![Times of a training step of PyTorch, NumPy, Keras' own layer and JAX relative to lcnumba; the figures are "
        "given below.](docs/figures/benchmark-times.svg)\n\n"
        f"Time of a training step (forward, all gradients, SGD) relative to lcnumba, median and range over {layers} "
        f"layers: {'; '.join(parts)}. {charts.machine(run)}, {about['date'].split()[0]}. "
        f"[{_DOCUMENT}]({_DOCUMENT}) has all results, also those where others are faster."
    )


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
    """Write docs/benchmarks.md and the charts of all runs, and the summary of the first in README.md."""
    readme = Path(root, "README.md")
    text = insert(readme.read_text(encoding="utf-8"), summary(runs[0]))
    charts.write(runs, Path(root, "docs", "figures"))
    Path(root, _DOCUMENT).write_text(document(runs), encoding="utf-8")
    readme.write_text(text, encoding="utf-8")


def main() -> int:
    """Render the results that are kept."""
    write(results.kept())
    return 0


if __name__ == "__main__":
    sys.exit(main())
