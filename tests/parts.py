"""Run parts of the checks, continue after failures, and print the time of each part.

``python tests/parts.py PART ...``, where a part is a target of the Makefile. The exit code is 1 if any of them failed.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(parts: list[str]) -> int:
    results = []
    for part in parts:
        print(f"\n== {part}", flush=True)
        begin = time.monotonic()
        code = subprocess.run(["make", "--no-print-directory", part], cwd=ROOT, check=False).returncode
        results.append((part, "passed" if code == 0 else f"FAILED ({code})", time.monotonic() - begin))
    print()
    for part, result, seconds in results:
        print(f"{part:18s} {result:12s} {seconds / 60:5.1f} min")
    print(f"{'all':31s} {sum(seconds for *_, seconds in results) / 60:5.1f} min")
    return int(any(result != "passed" for _, result, _ in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
