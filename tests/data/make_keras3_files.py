"""Save a small model of Keras 3, with its predictions, as test data.

Run in a separate environment, from this folder:

    pip install tensorflow-cpu==2.21.0 keras==3.15.1
    python make_keras3_files.py

In the folder keras3, the model is ``companions.keras``, ``.h5`` and ``.weights.h5``; predictions are in companions.npz.
"""

import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from keras import layers

FOLDER = pathlib.Path(__file__).parent / "keras3"
LAYERS = [
    layers.Input((8, 6, 2)), layers.ZeroPadding2D(1), layers.BatchNormalization(), layers.LeakyReLU(0.1),
    layers.MaxPooling2D(2, padding="same"), layers.UpSampling2D(2), layers.AveragePooling2D(2),
    layers.BatchNormalization(axis=1, scale=False), layers.ReLU(6.0, 0.1, 0.25), layers.ELU(0.5),
    layers.Conv2D(4, (2, 3), padding="same", groups=2, activation="tanh"), layers.Reshape((-1, 2)),
    layers.ZeroPadding1D(1), layers.Conv1D(3, 3, dilation_rate=2, use_bias=False),
    layers.MaxPooling1D(2), layers.UpSampling1D(2),
    layers.GlobalAveragePooling1D(keepdims=True), layers.Flatten(), layers.Dense(3), layers.Softmax(),
]  # fmt: skip


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(2021)
    model = keras.Sequential(LAYERS, name="keras3")
    model.set_weights([rng.integers(1, 9, w.shape) / 8 for w in model.get_weights()])
    for suffix in (".keras", ".h5"):
        model.save(FOLDER / f"companions{suffix}")
    model.save_weights(FOLDER / "companions.weights.h5")
    x = rng.standard_normal((3, 8, 6, 2)).astype("float32")
    np.savez_compressed(FOLDER / "companions.npz", x=x, y=model.predict(x, verbose=0))


if __name__ == "__main__":
    main()
