"""Benchmarks of lcnumba against other ways to compute the same layer; see ``python -m bench.compare --help``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Started from the checkout, Python would find the checkout's lcnumba before the installed one, which
# is what the figures are of. So the checkout goes to the end of the path.
sys.path[:] = [*(entry for entry in sys.path if Path(entry).resolve() != ROOT), str(ROOT)]
