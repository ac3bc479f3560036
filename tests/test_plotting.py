import numpy as np
import pytest
from matplotlib.figure import Figure

import lcnumba as lc
from lcnumba import plotting


def layer(data_format="channels_last"):
    shape = (2, 5, 6) if data_format == "channels_first" else (5, 6, 2)
    made = lc.LocallyConnected2D(3, (3, 2), input_shape=shape, data_format=data_format, rng=0)
    made.build((None, *shape))
    return made


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_filters_by_position_shows_each_window_in_its_place(data_format):
    one = layer(data_format)
    ax = plotting.filters_by_position(one, filter_index=1, channel=1)
    picture = ax.images[0].get_array().filled(np.nan)
    assert picture.shape == (3 * 4 - 1, 5 * 3 - 1)
    for i, j, a, b in [(0, 0, 0, 0), (2, 4, 2, 1), (1, 3, 0, 1)]:
        assert picture[i * 4 + a, j * 3 + b] == one.kernel[i * 5 + j, (a * 2 + b) * 2 + 1, 1]
    assert np.isnan(picture[3]).all()
    assert np.isnan(picture[:, 2]).all()
    mean = plotting.filters_by_position(one).images[0].get_array()
    np.testing.assert_allclose(mean[0, 0], one.kernel[0, :2, 0].mean())


def test_training_curve():
    ax = plotting.training_curve({"loss": [3.0, 2.0], "accuracy": [0.5, 0.9], "val_loss": [3.5, 2.5]})
    assert [line.get_label() for line in ax.lines] == ["loss", "val_loss"]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 3], [2, 2]])
    given = Figure().subplots()
    assert plotting.training_curve({"loss": [1.0]}, ax=given) is given
    assert given.get_xlabel() == "epoch"


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda: plotting.filters_by_position(lc.Dense(3)), TypeError, "layer is a Dense"),
        (
            lambda: plotting.filters_by_position(layer(), filter_index=3),
            ValueError,
            "filter_index=3 does not exist; give 0 to 2",
        ),
        (lambda: plotting.filters_by_position(layer(), channel=2), ValueError, "channel=2 does not exist"),
        (lambda: plotting.filters_by_position(lc.LocallyConnected2D(2, 3)), AttributeError, "build"),
    ],
)
def test_bad_use(action, error, message):
    with pytest.raises(error, match=message):
        action()
