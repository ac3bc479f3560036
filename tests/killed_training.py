"""Kill a training with frequent checkpoints, again and again, and see that it ends as if nothing had happened.

``python tests/killed_training.py --kills 50`` prints how often it was killed, and whether all weights, states and
figures equal those of a training that was left alone.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SCRIPT = """
import sys
import numpy as np
import lcnumba as lc

path = sys.argv[1]

class Tell(lc.callbacks.Callback):
    def on_batch_end(self, run, figures):
        print("batch", flush=True)

rng = np.random.default_rng(0)
x, y = rng.standard_normal((64, 8, 8, 1), np.float32), rng.integers(0, 3, 64)
model = lc.Sequential([
    lc.LocallyConnected2D(8, 3, activation="relu", fans="window", rng=1, input_shape=(8, 8, 1)),
    lc.Dropout(0.25, seed=2), lc.Flatten(), lc.Dense(3, rng=3),
])
model.compile("adam", "softmax_cross_entropy", ["accuracy"], lr=lc.schedules.CosineDecay(0.01, 200))
history = model.fit(
    x, y, epochs=25, batch_size=8, validation_split=0.1, rng=4, progress=False, resume=path,
    callbacks=[lc.callbacks.Checkpoint(path, every_batches=1), lc.callbacks.EarlyStopping("val_loss", patience=99),
               Tell()],
)
"""

BATCHES = 25 * 8  # of that training


def run(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Return how often it was killed, how many checkpoints were looked at, and whether the end is the same."""
    chance = random.Random(seed)
    whole, path = folder / "whole.npz", folder / "killed.npz"
    subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL)
    done = late = readable = 0
    while done < kills:
        before = path.read_bytes() if path.exists() else None
        with subprocess.Popen(command(path), stdout=subprocess.PIPE, text=True) as process:
            if chance.random() < 0.1:
                time.sleep(chance.random())  # while it starts
            else:
                # Each batch is told before its checkpoint is written, which takes some milliseconds.
                for _ in range(chance.randint(1, max(1, 2 * BATCHES // (kills + 2)))):
                    process.stdout.readline()
                time.sleep(chance.random() * 0.006)
            process.kill()
        if process.returncode != -signal.SIGKILL:  # it had come to its end
            late += 1
            path.unlink() if before is None else path.write_bytes(before)
            continue
        done += 1
        readable += path.exists() and _readable(path)
    subprocess.run(command(path), check=True, stdout=subprocess.DEVNULL)
    return {"kills": done, "readable": readable, "too late": late, "equal": same(whole, path)}


def command(path: Path) -> list[str]:
    """What trains, or goes on training, with a checkpoint at this place."""
    return [sys.executable, "-P", "-c", SCRIPT, str(path)]


def _readable(path: Path) -> int:
    """1, or an error, if the file has every member whole."""
    with np.load(path) as file:
        for name in file.files:
            file[name]
    return 1


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same numbers, all of them."""
    with np.load(one) as a, np.load(other) as b:
        return sorted(a.files) == sorted(b.files) and all(a[name].tobytes() == b[name].tobytes() for name in a.files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), given.kills, given.seed)
    print(figures)
    sys.exit(not figures["equal"])
