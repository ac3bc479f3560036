"""Fuzzing of the readers of Keras files: ``python tests/interop/fuzz_keras_files.py --minutes 10``.

Worker processes damage the test data at random and read the result, as a model, into a model, and as a layer. Anything
but a model or a `KerasFileError` is a failure: another exception, a process that crashes or hangs, more than 1 GB of
memory. The printed folder has the failures.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lcnumba as lc
from lcnumba.bridges.keras2 import files
from lcnumba.bridges.keras2.files import KerasFileError

FOLDER = Path(__file__).resolve().parents[1] / "data" / "keras"
BATCH, MAX_MEMORY, TIMEOUT = 100, 1 << 30, 600


def damaged(rng, content, other):
    """Return a copy with random damage."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data))
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                data[at : at + 8] = rng.choice((2**63 - 1, 2**64 - 1, 2**32, 2**40, 0)).to_bytes(8, "little")
            case 3:
                data[at : at + rng.randrange(1, 64)] = b""
            case 4:
                data[at:at] = bytes(data[at : at + rng.randrange(1, 64)])
            case 5:
                start = rng.randrange(len(other))
                data[at : at + 32] = other[start : start + 32]
            case _:
                del data[at:]
        data = data or bytearray(b"\0")
    return bytes(data)


def work(seed, folder):
    """Read a batch of damaged files."""
    files.TIMEOUT = 5  # a file on which the HDF5 library hangs shall not take long
    rng = random.Random(seed)
    contents = {path: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in (".h5", ".keras")}
    model = lc.load_keras(FOLDER / "digits.h5")
    ways = (lc.load_keras, lambda f: lc.load_keras(f, model), lambda f: lc.load_keras_weights(f, "dense"))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    read = 0
    for number in range(BATCH):
        path = rng.choice(list(contents))
        file = Path(folder, f"{seed}_{number}{path.suffix}")
        file.write_bytes(damaged(rng, contents[path], contents[rng.choice(list(contents))]))
        for action in ways:
            try:
                action(file)
                read += 1
            except KerasFileError:
                pass
        file.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert children < MAX_MEMORY, f"{children} bytes of a child"
    assert peak - used < MAX_MEMORY, f"{peak - used} bytes"
    print(read, peak - used)


def main():
    """Run workers until the time is up; return 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=2, metavar=("SEED", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(int(given.worker[0]), given.worker[1])
        return 0
    folder, end, failures, batches, read, worst = tempfile.mkdtemp(), time.monotonic() + 60 * given.minutes, 0, 0, 0, 0
    while time.monotonic() < end:
        seed = given.seed + batches
        try:
            command = [sys.executable, __file__, "--worker", str(seed), folder]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
            if done.returncode:
                failures += 1
                print(f"seed {seed} ended with {done.returncode}: {done.stderr[-800:]}")
            else:
                found, memory = map(int, done.stdout.split())
                read, worst = read + found, max(worst, memory)
        except subprocess.TimeoutExpired:
            failures += 1
            print(f"seed {seed} hangs")
        batches += 1
    print(
        f"{batches * BATCH} damaged files, each read in three ways: {read} were read without an error, {failures} "
        f"batches failed; at most {worst / 1e6:.0f} MB of additional memory. Failures are in {folder}"
    )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
