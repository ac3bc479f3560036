"""Kill a training with frequent checkpoints repeatedly, and compare its result with an uninterrupted training.

``python tests/killed_training.py --kills 50`` prints how often it was killed, and whether all weights, states and
metrics are equal.
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

class Print(lc.callbacks.Callback):
    def on_batch_end(self, run, logs):
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
               Print()],
)
"""

BATCHES = 25 * 8  # of that training


def run(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Return the number of kills and of readable checkpoints, and whether the result is equal."""
    chance = random.Random(seed)
    whole, path = folder / "whole.npz", folder / "killed.npz"
    subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL)
    done = late = readable = 0
    while done < kills:
        before = path.read_bytes() if path.exists() else None
        with subprocess.Popen(command(path), stdout=subprocess.PIPE, text=True) as process:
            if chance.random() < 0.1:
                time.sleep(chance.random())  # during start-up
            else:
                # Each batch is printed before its checkpoint is written, which takes some milliseconds.
                for _ in range(chance.randint(1, max(1, 2 * BATCHES // (kills + 2)))):
                    process.stdout.readline()
                time.sleep(chance.random() * 0.006)
            process.kill()
        if process.returncode != -signal.SIGKILL:  # it had finished
            late += 1
            path.unlink() if before is None else path.write_bytes(before)
            continue
        done += 1
        readable += path.exists() and _readable(path)
    subprocess.run(command(path), check=True, stdout=subprocess.DEVNULL)
    return {"kills": done, "readable": readable, "too late": late, "equal": same(whole, path)}


def command(path: Path) -> list[str]:
    """Return the command that starts or resumes the training with a checkpoint at this path."""
    return [sys.executable, "-P", "-c", SCRIPT, str(path)]


def _readable(path: Path) -> int:
    """Return 1 if every member of the file can be read; otherwise raise."""
    with np.load(path) as file:
        for name in file.files:
            file[name]
    return 1


def same(one: Path, other: Path) -> bool:
    """Return whether two checkpoints are equal."""
    with np.load(one) as a, np.load(other) as b:
        return sorted(a.files) == sorted(b.files) and all(a[name].tobytes() == b[name].tobytes() for name in a.files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder), given.kills, given.seed)
    print(results)
    sys.exit(not results["equal"])
