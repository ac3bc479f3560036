"""Benchmarks of lcnumba against other implementations of the same layer; see ``python -m bench.compare --help``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The benchmarks measure the installed lcnumba. Python started from the checkout would import the checkout's, so the
# checkout goes to the end of the path.
sys.path[:] = [*(entry for entry in sys.path if Path(entry).resolve() != ROOT), str(ROOT)]
