"""Compare models of published sizes with tf_keras: predictions, training from there, and weights given back.

In an environment of its own, with this library installed:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python tests/interop/keras_models.py

tf_keras makes the models of `tests/data/make_keras_models.py` at their published sizes, and writes them as .h5 and
.keras. Loaded here, they predict the same, and go on with a fresh optimizer on the same batches with the same losses;
the weights written here give tf_keras the same predictions. Of DeepFace, the 4096 features before its last layer are
compared, which is what it is used for. That model needs 6 GB of memory and seven minutes.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras

import lcnumba as lc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import make_keras_models as published

# Predictions after training differ most for the detector, by 4e-4: where two entries of a window are equal but for
# rounding, its five poolings send the gradient to one or the other. In float64 this library's differ by as much.
TOLERANCE = {"prediction": 1e-5, "features": 1e-4, "loss": 1e-4, "trained": 1e-3, "written": 1e-5}


def difference(mine, theirs):
    """Return the largest difference, relative to the largest magnitude or 1."""
    return float(np.max(np.abs(mine - theirs)) / max(1.0, np.max(np.abs(theirs))))


def train(model, name, x, targets, size):
    """Return the losses here of the steps of `make_keras_models.losses`."""
    (kind, lr, settings), loss = published.MODELS[name][3:]
    model.compile(getattr(lc, kind)(**settings), loss, lr=lr)
    found = []
    for step in range(published.STEPS):
        at = step * size % len(x)
        found.append(model.train_on_batch(x[at : at + size] / np.float32(8), targets[at : at + size])["loss"])
    return np.array(found)


def features(model, keras, x):
    """Return the largest difference of the output of the third layer from the end, relative to its magnitude."""
    inner = tf_keras.Model(keras.inputs, keras.layers[-3].output)
    theirs = published.predictions(inner, x)
    shapes = [layer.get_weights()[0].shape for layer in model.layers if isinstance(layer, lc.LocallyConnected2D)]
    print(f"    kernels {shapes}, features {theirs.shape}, between {theirs.min():.3f} and {theirs.max():.3f}")
    mine = x / np.float32(8)
    for layer in model.layers[:-2]:
        mine = layer(mine)
    return float(np.max(np.abs(mine - theirs)) / np.max(np.abs(theirs)))


def compare(name, folder):
    """Return the differences by what they are of."""
    size = 4 if name == "deepface" else 8
    keras = published.make(name, published.MODELS[name][2], np.random.default_rng(2021))
    x, targets = published.data(keras, published.MODELS[name][4], 3, size, np.random.default_rng(7))
    y = published.predictions(keras, x[:size])
    found = {"prediction": 0.0, "written": 0.0}
    for suffix in (".keras", ".h5"):
        path = Path(folder, name + suffix)
        keras.save(path)
        model = lc.load_keras(path)
        path.unlink()
        found["prediction"] = max(found["prediction"], difference(model.predict(x[:size] / np.float32(8)), y))
    if name == "deepface":
        found["features"] = features(model, keras, x[:size])
    times = [time.perf_counter()]
    losses = train(model, name, x, targets, size)
    times.append(time.perf_counter())
    expected = published.losses(keras, name, x, targets, published.STEPS, size)
    times.append(time.perf_counter())
    found["loss"] = difference(losses, expected)
    trained = model.predict(x[:size] / np.float32(8))
    found["trained"] = difference(trained, published.predictions(keras, x[:size]))
    # A trained model of tf_keras takes only files with the state of its loss.
    keras = tf_keras.models.clone_model(keras)
    for suffix in (".weights.h5", ".h5"):
        path = Path(folder, name + suffix)
        keras.set_weights([np.zeros_like(weight) for weight in keras.get_weights()])
        lc.save_keras_weights(model, path)
        keras.load_weights(path)
        path.unlink()
        found["written"] = max(found["written"], difference(trained, published.predictions(keras, x[:size])))
    mine, theirs = np.diff(times)
    print(
        f"{name}: {keras.count_params():,} weights, loss {expected[0]:.4f} to {expected[-1]:.4f}, "
        f"training {mine:.1f} s here and {theirs:.1f} s in tf_keras"
    )
    return found


def main():
    """Compare the models; return 0 if nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*published.MODELS], metavar="NAME", help="by default all")
    bad = 0
    for name in parser.parse_args().names:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(name, folder)
        print("    " + ", ".join(f"{what} {value:.1e}" for what, value in found.items()), flush=True)
        bad += sum(not value <= TOLERANCE[what] for what, value in found.items())
        tf_keras.backend.clear_session()
        gc.collect()
    print(f"{bad} differences")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
