"""Old public names still work, with a warning that gives the new one."""

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import callbacks, optimizers
from lcnumba.training.run import Run

MODEL = lc.Sequential([lc.Dense(1)])
RUN = Run(MODEL, 1, 1, 0.1, ["loss", "mae"])


@pytest.mark.parametrize(
    ("thing", "old", "new"),
    [
        (MODEL, "recipe", "training_config"),
        (RUN, "names", "metric_names"),
        (lc.SGD, "usual_rate", "default_lr"),
        (lc.AdamW(), "usual_rate", "default_lr"),
        (lc.RMSprop, "usual_rate", "default_lr"),
        (optimizers, "default_rate", "default_lr"),
        (callbacks, "figures_text", "format_logs"),
    ],
)
def test_old_names(thing, old, new):
    with pytest.warns(DeprecationWarning, match=rf"{old} is deprecated; use .*{new}$") as caught:
        value = getattr(thing, old)
    assert value is getattr(thing, new)
    assert caught[0].filename == __file__


def test_old_argument_of_run():
    weights = np.array([1.0, -1.0])
    with pytest.warns(DeprecationWarning, match=r"run\(restrain=\.\.\.\) is deprecated; use run\(regularize=\.\.\.\)"):
        optimizers.run(
            lc.SGD(), weights, np.zeros(2), {}, 1.0, restrain=lambda rule: rule._replace(l2=0.25, non_negative=True)
        )
    np.testing.assert_array_equal(weights, [0.5, 0.0])


def test_old_argument_of_history():
    history = lc.History()
    with pytest.warns(
        DeprecationWarning, match=r"add\(figures=\.\.\.\) is deprecated; use History\.add\(logs=\.\.\.\)"
    ):
        history.add(0, figures={"loss": 0.5})
    assert (history.history, history.epoch) == ({"loss": [0.5]}, [0])
    with pytest.raises(TypeError, match="missing required argument 'logs'"):
        history.add(1)
