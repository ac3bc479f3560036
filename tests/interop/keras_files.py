"""Check that tf_keras loads the weights saved here, in both formats, and makes the same predictions.

In an environment with this library, h5py and tf_keras: ``python tests/interop/keras_files.py``.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras

import lcnumba as lc

FOLDER = Path(__file__).resolve().parents[1] / "data" / "keras"


def main():
    """Compare predictions; return 0 if all are equal to 1e-5."""
    worst, rng = 0.0, np.random.default_rng(0)
    for name in ("digits", "genes", "first_axis", "companions", "sequence", "planes"):
        mine, keras = lc.load_keras(FOLDER / f"{name}.keras"), tf_keras.models.load_model(FOLDER / f"{name}.keras")
        x = rng.standard_normal((5, *mine.input_shape[1:])).astype(np.float32)
        mine.set_weights([rng.uniform(0.1, 0.5, w.shape) for w in mine.get_weights()])  # variances are not negative
        with tempfile.TemporaryDirectory() as folder:
            for suffix in (".weights.h5", ".h5"):
                path = str(Path(folder, name + suffix))
                keras.set_weights([np.zeros_like(w) for w in keras.get_weights()])
                lc.save_keras_weights(mine, path)
                keras.load_weights(path)
                error = float(np.abs(keras.predict(x, verbose=0) - mine(x)).max())
                worst = max(worst, error)
                print(f"{name}{suffix}: largest difference {error:.1e}")
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
