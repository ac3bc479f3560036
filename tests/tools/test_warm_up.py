"""What is compiled ahead of time is what a run needs: nothing is compiled after it."""

import os
import subprocess
import sys
import textwrap

import numba
import numpy as np
import pytest

import lcnumba as lc
from lcnumba.__main__ import main

compiles = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")

# Prints how many functions of this library are compiled in each part.
RUN = """
    import numpy as np
    import lcnumba as lc
    from lcnumba.runtime import compilation

    model = lc.Sequential([
        lc.LocallyConnected2D(8, 3, input_shape=(9, 9, 2), activation="relu"),
        lc.LocallyConnected2D(3, 2, padding="same", kernel_regularizer="l2", dtype="float32"),
        lc.Flatten(), lc.Dense(2),
    ])
    model.compile("adam", {loss!r}, {settings})
    counts = []
    def counted(action):
        compiled = []
        with compilation.listening(lambda: compiled.append(None)):
            action()
        counts.append(len(compiled))
    counted(lambda: lc.warm_up(model, [16, 5]))
    x = np.ones((37, 9, 9, 2), np.float32)
    counted(lambda: model.fit(x, np.ones((37, 2)), batch_size=16, epochs=2, progress=False))
    counted(lambda: model.predict(x, batch_size=16))
    print(*counts)
"""


def run(folder, loss, settings):
    code = textwrap.dedent(RUN).format(loss=loss, settings=settings)
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return list(map(int, result.stdout.split()))


@compiles
@pytest.mark.parametrize(("loss", "settings"), [("mse", ""), ("huber", "clip_norm=1.0")])
def test_nothing_is_left_to_compile(tmp_path, loss, settings):
    first = run(tmp_path, loss, settings)
    assert first[0] > 5
    assert first[1:] == [0, 0]
    assert run(tmp_path, loss, settings) == [0, 0, 0], "another process finds all of it in the cache"


def test_the_model_is_unchanged(rng):
    model = lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(6, 6, 1), optimizer="adam"), lc.Flatten()])
    before = model.get_weights()
    x = rng.standard_normal((3, 6, 6, 1), np.float32)
    y, backward = model.forward(x)
    lc.warm_up(model, [3, 4])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    backward(np.ones_like(y))  # still valid
    unbuilt = lc.LocallyConnected1D(2, 3, input_shape=(8, 2), dtype="float64")
    built = unbuilt.built
    lc.warm_up(unbuilt, training=False)
    assert unbuilt.built == built


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lc.LocallyConnected2D(2, 3),), ValueError, "has no input shape yet"),
        ((3,), TypeError, "model is a int"),
        ((lc.Dense(2), 0), ValueError, "batch_size"),
        ((lc.Dense(2), [4, "a"]), TypeError, "batch_size"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        lc.warm_up(*arguments)


def test_command_line(tmp_path, capsys):
    model = lc.Sequential([lc.LocallyConnected2D(2, 3, input_shape=(6, 6, 1))])
    model.save(tmp_path / "model.npz")
    assert main(["warm-up", str(tmp_path / "model.npz"), "--batch-size", "3"]) == 0
    assert "kernels compiled in" in capsys.readouterr().out
    assert main(["warm-up", "--batch-size", "2"]) == 0
    with pytest.raises(SystemExit):
        main(["warm-up", str(tmp_path / "none.npz")])
    assert "none.npz" in capsys.readouterr().err
