"""Results that are kept, a file for each CPU, vector length and number of threads; pages show all of them."""

import json
import re
from pathlib import Path
from typing import Any

from bench import ROOT

__all__ = ["FOLDER", "kept", "path_of", "save"]

FOLDER = Path(ROOT, "bench", "results")
_DIGITS = 5  # significant ones: more than are shown


def path_of(results: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Return the file that keeps the results of a CPU, a vector length and a number of threads."""
    about = results["environment"]
    cpu = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", about["cpu"].lower())).strip("-")
    return folder / f"{cpu}-{about['vector_bits']}-bits-{about['threads']}-threads.json"


def save(results: dict[str, Any], path: Path) -> None:
    """Write results to a file, with a line for each row, and rounded so that they can be read."""
    parts = {name: json.dumps(_rounded(value)) for name, value in results.items() if name != "rows"}
    parts["rows"] = "[\n" + ",\n".join(json.dumps(_rounded(row)) for row in results["rows"]) + "\n]"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "\n}\n", encoding="utf-8")


def kept(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return all results: those of the CPU that was measured last first, and of each the longest vectors first."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    last: dict[str, str] = {}
    for about in (run["environment"] for run in runs):
        last[about["cpu"]] = max(last.get(about["cpu"], ""), about["date"])
    return sorted(
        runs, key=lambda run: (last[run["environment"]["cpu"]], run["environment"]["vector_bits"]), reverse=True
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
