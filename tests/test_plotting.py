"""The arrays and lines that are drawn, not pixels."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

import lcnumba as lc
from lcnumba import plotting
from lcnumba.layers.stateless import Stateless
from lcnumba.training.run import History

nan = np.nan


def layer(data_format="channels_last", **settings):
    """A built layer of 3 x 5 positions and 3 filters; its weights are small integers."""
    shape = (2, 5, 6) if data_format == "channels_first" else (5, 6, 2)
    made = lc.LocallyConnected2D(3, (3, 2), input_shape=shape, data_format=data_format, **settings)
    return with_integers(made)


def sequence_layer(**settings):
    """A built layer of 4 positions and 3 filters; its weights are small integers."""
    return with_integers(lc.LocallyConnected1D(3, 2, input_shape=(5, 2), **settings))


def with_integers(made):
    made.build((None, *made.input_shape[1:]))
    rng = np.random.default_rng(0)
    made.set_weights([rng.integers(-3, 4, weight.shape).astype(weight.dtype) for weight in made.get_weights()])
    return made


def image(ax):
    """The values of an image, NaN where it is blank."""
    return np.ma.filled(ax.images[0].get_array(), nan)


def line(ax):
    [drawn] = ax.lines
    np.testing.assert_array_equal(drawn.get_xdata(), np.arange(len(drawn.get_ydata())))
    return drawn.get_ydata()


def labels(ax):
    """Labels of the axes and of the colour bar."""
    bars = [other.get_ylabel() for other in ax.get_figure().axes if other is not ax]
    return ax.get_xlabel(), ax.get_ylabel(), *bars


FORMATS = pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])


class TestTrainingCurve:
    def test_accuracies_have_a_second_axis(self):
        history = {"loss": [3.0, 2.0], "accuracy": [0.5, 0.9], "val_loss": [3.5, 2.5], "top_5_accuracy": [0.7, 1.0]}
        ax = plotting.training_curve(history)
        _, other = ax.get_figure().axes
        assert [drawn.get_label() for drawn in ax.lines] == ["loss", "val_loss"]
        assert [drawn.get_label() for drawn in other.lines] == ["accuracy", "top_5_accuracy"]
        np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[1, 3.5], [2, 2.5]])
        assert (ax.get_xlabel(), ax.get_ylabel(), other.get_ylabel()) == ("epoch", "loss", "accuracy, top_5_accuracy")
        assert [text.get_text() for text in other.get_legend().get_texts()] == list(history)
        assert ax.get_ylim()[0] == 0

    def test_other_metrics_are_drawn_beside_the_loss(self):
        ax = plotting.training_curve(History({"loss": [3.0], "mae": [1.0], "val_mae": [1.5]}))
        assert ax.get_figure().axes == [ax]
        assert ax.get_ylabel() == "loss, mae"
        loss, mae, val_mae = ax.lines
        assert loss.get_color() != mae.get_color() == val_mae.get_color()
        assert (mae.get_linestyle(), val_mae.get_linestyle()) == ("-", "--")

    def test_accuracy_alone_needs_no_second_axis(self):
        ax = plotting.training_curve({"accuracy": [0.5, 0.75]})
        assert ax.get_figure().axes == [ax]
        assert ax.get_ylabel() == "accuracy"

    def test_values_that_are_not_finite_are_gaps(self):
        ax = plotting.training_curve({"loss": [2.0, nan, 1.0, np.inf]})
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), [2, nan, 1, np.inf])
        assert ax.lines[0].get_marker() == "."
        assert ax.get_xlim() == (0.5, 4.5)
        ax.get_figure().canvas.draw()
        assert 2 < ax.get_ylim()[1] < 3
        plotting.training_curve({"loss": [nan]}).get_figure().canvas.draw()

    def test_scales(self):
        assert plotting.training_curve({"loss": [2.0, 1.0]}).get_yscale() == "linear"
        ax = plotting.training_curve({"loss": [2.0, 0.0], "accuracy": [0.0, 1.0]}, yscale="log")
        assert [axes.get_yscale() for axes in ax.get_figure().axes] == ["log", "linear"]
        assert plotting.training_curve({"loss": [-1.0, -2.0]}).get_ylim()[0] < -2

    @pytest.mark.parametrize(
        ("history", "settings", "error", "message"),
        [
            ({}, {}, ValueError, r"history=\{\} has no epoch; train for at least one"),
            ({"loss": []}, {}, ValueError, "has no epoch"),
            ([1.0], {}, TypeError, "history is a list; give what fit returned"),
            ({"loss": 1.0}, {}, ValueError, r"history\['loss'\] has shape \(\); give a list"),
            ({"loss": ["low"]}, {}, TypeError, r"history\['loss'\] is not a list of numbers"),
            ({"loss": [1.0]}, {"yscale": "cubic"}, ValueError, "yscale='cubic' is not known"),
            ({"loss": [-1.0, nan]}, {"yscale": "log"}, ValueError, "requires positive values, but loss has none"),
            ({"loss": [-1.0, np.inf]}, {"yscale": "log"}, ValueError, "requires positive values"),
            ({"loss": [1.0]}, {"ax": Figure()}, TypeError, "ax is a Figure; give matplotlib Axes"),
        ],
    )
    def test_bad_use(self, history, settings, error, message):
        with pytest.raises(error, match=message):
            plotting.training_curve(history, **settings)


class TestFiltersByPosition:
    @FORMATS
    def test_windows_by_position(self, data_format):
        one = layer(data_format)
        ax = plotting.filters_by_position(one, filter_index=1, channel=1)
        picture = image(ax)
        assert picture.shape == (3 * 4 - 1, 5 * 3 - 1)
        for i, j, a, b in [(0, 0, 0, 0), (2, 4, 2, 1), (1, 3, 0, 1)]:
            assert picture[i * 4 + a, j * 3 + b] == one.kernel[i * 5 + j, (a * 2 + b) * 2 + 1, 1]
        assert np.isnan(picture[3]).all()
        assert np.isnan(picture[:, 2]).all()
        mean = image(plotting.filters_by_position(one))
        assert mean[0, 0] == one.kernel[0, :2, 0].mean()
        assert ax.images[0].get_clim() == (-3, 3)
        assert labels(ax) == ("output column", "output row", "weight")

    def test_ticks_are_at_the_middle_of_windows(self):
        ax = plotting.filters_by_position(layer())
        np.testing.assert_array_equal(ax.get_yticks(), [1, 5, 9])
        np.testing.assert_array_equal(ax.get_xticks(), [0.5, 3.5, 6.5, 9.5, 12.5])
        assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "2", "3", "4"]


class TestWeightNormMap:
    @FORMATS
    def test_norms_are_at_their_positions(self, data_format):
        one = layer(data_format)
        squares = one.kernel.reshape(3, 5, 12, 3) ** 2
        ax = plotting.weight_norm_map(one)
        np.testing.assert_array_equal(np.round(image(ax) ** 2), squares.sum(axis=(2, 3)))
        np.testing.assert_array_equal(
            np.round(image(plotting.weight_norm_map(one, filter_index=2)) ** 2), squares[..., 2].sum(axis=2)
        )
        assert ax.images[0].get_clim() == (0, image(ax).max())
        assert labels(ax) == ("output column", "output row", "norm of the weights")

    def test_of_a_sequence_it_is_a_line(self):
        one = sequence_layer()
        ax = plotting.weight_norm_map(one, 1)
        np.testing.assert_array_equal(np.round(line(ax) ** 2), (one.kernel[:, :, 1] ** 2).sum(axis=1))
        assert labels(ax) == ("output position", "norm of the weights")
        assert ax.get_ylim()[0] == 0


class TestBiasMap:
    @FORMATS
    def test_biases_are_at_their_positions(self, data_format):
        one = layer(data_format)
        ax = plotting.bias_map(one, filter_index=1)
        np.testing.assert_array_equal(image(ax), one.bias[:, :, 1])
        np.testing.assert_array_equal(image(plotting.bias_map(one)), one.bias.mean(axis=2))
        assert ax.images[0].get_clim() == (-3, 3)
        assert labels(ax) == ("output column", "output row", "bias")

    def test_of_a_sequence_it_is_a_line(self):
        one = sequence_layer()
        ax = plotting.bias_map(one, 2)
        np.testing.assert_array_equal(line(ax), one.bias[:, 2])
        assert labels(ax) == ("output position", "bias")

    def test_nothing_but_zeros_is_in_the_middle_of_the_colours(self):
        one = layer()
        one.set_weights([np.zeros_like(weight) for weight in one.get_weights()])
        assert plotting.bias_map(one).images[0].get_clim() == (-1, 1)


def all_ones(*layers):
    """A model whose derivatives count the connections of these layers: weights 1, everything linear."""
    names = ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "padding_mode")
    twins = []
    for one in layers:
        settings = {name: getattr(one, name) for name in (*names, "kernel_mask")}
        shape = one.input_shape[1:]
        twins.append(type(one)(**settings, use_bias=False, kernel_initializer="ones", input_shape=shape))
    return lc.Sequential(twins)


def counted(model, output_index, axis):
    """How many connections lead to each input, by the derivatives of a model of ones."""
    y, backward = model.forward(np.zeros((1, *model.input_shape[1:]), np.float32))
    dy = np.zeros_like(y)
    dy[(0, *output_index)] = 1
    counts = backward(dy)[0][0].sum(axis=axis)
    return np.where(counts, counts, nan)


def masked(shape):
    return np.random.default_rng(1).random(shape) < 0.4


class TestReceptiveField:
    def test_a_window(self):
        ax = plotting.receptive_field(layer(), (1, 3))
        expected = np.full((5, 6), nan)
        expected[1:4, 3:5] = 2 * 3  # channels, filters
        np.testing.assert_array_equal(image(ax), expected)
        np.testing.assert_array_equal(image(plotting.receptive_field(layer(), [1, 3], 0)), expected / 3)
        assert labels(ax) == ("input column", "input row", "connections")
        assert ax.images[0].get_clim() == (0, 6)

    def test_windows_of_windows_that_wrap(self):
        layers = [lc.LocallyConnected1D(1, 3, padding=(1, 1), padding_mode="circular") for _ in "ab"]
        model = lc.Sequential(layers)
        model.build((None, 7, 1))
        ax = plotting.receptive_field(model, 0)
        np.testing.assert_array_equal(line(ax), [3, 2, 1, nan, nan, 1, 2])
        assert labels(ax) == ("input position", "connections")
        assert ax.get_xlim() == (-0.5, 6.5)

    @pytest.mark.parametrize(
        "settings",
        [
            {"strides": (2, 1), "dilation_rate": (1, 2)},
            {"padding": "same"},
            {"kernel_mask": masked((15, 12))},
            {"kernel_mask": masked((15, 12, 3))},
        ],
        ids=["strided and dilated", "same", "mask of all filters", "mask of each filter"],
    )
    @FORMATS
    def test_derivatives_of_ones_agree(self, settings, data_format):
        first = layer(data_format, activation="relu", **settings)
        # The second takes what the first calls rows for channels, or the reverse: formats may differ.
        second = lc.LocallyConnected2D(2, 2, data_format="channels_first", padding="same")
        model = lc.Sequential([first, lc.Dropout(0.5), lc.Sequential([second]), lc.Activation("tanh")])
        ax = plotting.receptive_field(model, (1, 0), filter_index=1)
        twin = all_ones(first, second)
        np.testing.assert_array_equal(image(ax), counted(twin, (1, 1, 0), 0 if data_format == "channels_first" else -1))

    def test_a_path_needs_every_connection_in_it(self):
        # The first layer's filter 0 reads the left input of each window, filter 1 the right one; the second
        # layer reads filter 1 alone.
        first = np.zeros((4, 2, 2), bool)
        first[:, 0, 0] = first[:, 1, 1] = True
        second = np.tile([False, True], (3, 2))

        def read(**settings):
            layers = [
                lc.LocallyConnected1D(2, 2, kernel_mask=first, input_shape=(5, 1), **settings),
                lc.LocallyConnected1D(1, 2, kernel_mask=second),
            ]
            return line(plotting.receptive_field(lc.Sequential(layers), (0,)))

        np.testing.assert_array_equal(read(), [nan, 1, 1, nan, nan])
        # A softmax reads all channels of its position, and so may a function of the user's.
        np.testing.assert_array_equal(read(activation="softmax"), [1, 2, 1, nan, nan])
        np.testing.assert_array_equal(read(activation=Custom()), [1, 2, 1, nan, nan])

    def test_a_softmax_layer_mixes_channels_too(self):
        first = np.zeros((4, 2, 2), bool)
        first[:, 0, 0] = first[:, 1, 1] = True
        last = lc.LocallyConnected1D(1, 1, kernel_mask=np.tile([False, True], (4, 1)))
        model = lc.Sequential([lc.LocallyConnected1D(2, 2, kernel_mask=first, input_shape=(5, 1))])
        model.add(lc.Activation("softmax"))
        model.add(last)
        np.testing.assert_array_equal(line(plotting.receptive_field(model, 2)), [nan, nan, 1, 1, nan])

    def test_zero_weights_hide_nothing_and_the_model_stays_as_it_is(self):
        one = layer(activation="relu")
        one.set_weights([np.zeros_like(weight) for weight in one.get_weights()])
        model = lc.Sequential([one, lc.Flatten(), lc.Dense(2)])
        before = model.get_weights()
        assert np.nansum(image(plotting.receptive_field(model, (0, 0)))) == 3 * 2 * 2 * 3
        np.testing.assert_equal(model.get_weights(), before)

    def test_a_layer_further_in_front(self):
        model = lc.Sequential([layer(), lc.LocallyConnected2D(1, 2), lc.Flatten()])
        front = image(plotting.receptive_field(lc.Sequential(model.layers[:1]), (0, 0)))
        assert np.count_nonzero(~np.isnan(front)) == 3 * 2
        assert np.count_nonzero(~np.isnan(image(plotting.receptive_field(model, (0, 0))))) == 4 * 3

    @pytest.mark.parametrize(
        "settings",
        [
            {"strides": 2, "padding": "same"},
            {"groups": 2, "kernel_mask": masked((20, 3))},
            {"kernel_mask": masked((20, 6, 2)), "padding_mode": "circular", "padding": ((1, 1), (0, 0))},
            {"weight_sharing": (2, 3), "kernel_mask": masked((4, 6, 2))},
        ],
        ids=["strided", "groups", "wrapped", "shared"],
    )
    @FORMATS
    def test_transposed_layers(self, settings, data_format):
        settings |= {"data_format": data_format, "use_bias": False, "kernel_initializer": "ones"}
        shape = (2, 4, 5) if data_format == "channels_first" else (4, 5, 2)
        model = lc.Sequential(
            [
                lc.LocallyConnected2DTranspose(2, (3, 1), input_shape=shape, **settings),
                lc.Conv2D(1, 2, use_bias=False, data_format=data_format),
            ]
        )
        model.layers[1].set_weights([np.ones_like(model.layers[1].kernel)])
        ax = plotting.receptive_field(lc.Sequential(model.layers), (1, 2))
        index, axis = ((0, 1, 2), 0) if data_format == "channels_first" else ((1, 2, 0), -1)
        np.testing.assert_array_equal(image(ax), counted(model, index, axis))


class TestModel:
    def test_layers_have_their_sizes_and_colours_by_kind(self):
        local = lc.LocallyConnected2D(4, 3, input_shape=(8, 8, 1))
        shared = lc.LocallyConnected2D(2, 3, weight_sharing=(2, 2))
        inner = lc.Sequential([lc.MaxPooling2D(2), lc.Flatten()])
        network = lc.Sequential([local, shared, lc.Conv2D(3, 1), inner, lc.Dense(5)], name="mine")
        ax = plotting.model(network)
        assert ax.get_title() == "mine"
        titles, sizes = ([text.get_text() for text in ax.texts[first::2]] for first in (0, 1))
        assert titles == [
            "input", "LocallyConnected2D, 36 x 9 x 4", "LocallyConnected2D, 4 x 36 x 2", "Conv2D, 1 x 1 x 2 x 3",
            "MaxPooling2D", "Flatten", "Dense, 12 x 5",
        ]  # fmt: skip
        assert sizes == ["(8, 8, 1)", "(6, 6, 4)", "(4, 4, 2)", "(4, 4, 3)", "(2, 2, 3)", "(12,)", "(5,)"]
        colors = [patch.get_facecolor() for patch in ax.patches if hasattr(patch, "get_boxstyle")]
        none, own, one, conv, *rest, dense = colors
        assert one == conv
        assert len({none, own, one, dense}) == 4
        assert set(rest) == {none}

    def test_without_a_known_shape_there_are_names_alone(self):
        texts = [text.get_text() for text in plotting.model(lc.Sequential([lc.Flatten(), lc.Dense(2)])).texts]
        assert [text for text in texts if text] == ["input", "Flatten", "Dense"]


class TestSharingMap:
    def test_sets_are_at_their_positions(self):
        sets = np.array([[0, 0, 1, 1, 2], [0, 1, 1, 2, 2], [2, 2, 2, 2, 2]])
        one = layer(weight_sharing=sets)
        ax = plotting.sharing_map(one)
        np.testing.assert_array_equal(image(ax), sets)
        assert labels(ax) == ("output column", "output row", "number of the weight set")
        np.testing.assert_array_equal(line(plotting.sharing_map(sequence_layer(weight_sharing=3))), [0, 0, 0, 1])

    def test_transposed_layers_share_by_input_and_have_biases_by_output(self):
        one = lc.LocallyConnected2DTranspose(2, 3, 2, weight_sharing=(1, 2), input_shape=(2, 4, 1))
        one.build((None, 2, 4, 1))
        ax = plotting.sharing_map(one)
        np.testing.assert_array_equal(image(ax), [[0, 0, 1, 1], [2, 2, 3, 3]])
        assert labels(ax)[:2] == ("input column", "input row")
        biases = np.arange(5 * 9 * 2, dtype=np.float32).reshape(5, 9, 2)
        one.set_weights([one.kernel, biases])
        np.testing.assert_array_equal(image(plotting.bias_map(one, 1)), biases[:, :, 1])


def directed(pairs, shape, **settings):
    """A built layer of one channel, whose weights are 1, -2, 3, ..."""
    made = lc.LocallyDirected1D(pairs, mask_shape=shape, use_bias=False, input_shape=(shape[0], 1), **settings)
    made.build((None, shape[0], 1))
    numbers = np.arange(1, made.kernel.size + 1) * np.resize([1, -1], made.kernel.size)
    made.set_weights([numbers.reshape(made.kernel.shape).astype(np.float32)])
    return made


def drawn_lines(ax):
    """(input, output place, strength) of the lines, the strongest last."""
    [drawn] = ax.collections
    return [(*(y for _, y in ends), value) for ends, value in zip(drawn.get_segments(), drawn.get_array(), strict=True)]


class TestTopology:
    def test_each_weight_is_a_line(self):
        one = directed([(0, 0), (1, 0), (2, 0), (2, 1), (3, 1)], (4, 2))
        ax = plotting.topology(one)
        assert drawn_lines(ax) == [(0, 0.5, 1), (1, 0.5, 2), (2, 0.5, 3), (2, 2.5, 4), (3, 2.5, 5)]
        assert ax.get_ylim() == (3.5, -0.5)
        assert labels(ax) == ("", "input", "|weight|")
        assert ax.get_title() == f"{one.name}: connections of 2 outputs"
        widths = ax.collections[0].get_linewidths()
        assert sorted(widths) == list(widths)

    def test_the_outputs_with_the_largest_weights_are_drawn(self):
        one = directed([(0, 0), (1, 1), (2, 2), (0, 3)], (3, 5))
        ax = plotting.topology(one, most_outputs=2, names=["a", "b", "c", "d", "e"])
        assert drawn_lines(ax) == [(2, 0.25, 3), (0, 1.75, 4)]
        [side] = ax.child_axes
        assert [text.get_text() for text in side.get_yticklabels()] == ["c", "d"]
        assert "2 of 5 outputs" in ax.get_title()
        # An output without inputs has no line.
        assert len(drawn_lines(plotting.topology(one, most_outputs=9))) == 4

    def test_channels_and_filters_are_added(self):
        one = lc.LocallyDirected1D([[1], [1]], 3, kernel_initializer="ones", input_shape=(2, 2))
        one.build((None, 2, 2))
        assert drawn_lines(plotting.topology(one)) == [(0, 0.5, 6), (1, 0.5, 6)]

    def test_neighbouring_inputs_of_many_are_one_line(self):
        one = lc.LocallyDirected1D(np.ones((1500, 2)), kernel_initializer="ones", input_shape=(1500, 1))
        one.build((None, 1500, 1))
        ax = plotting.topology(one)
        lines = drawn_lines(ax)
        assert len(lines) == 2 * 500
        assert {strength for _, _, strength in lines} == {3}
        assert sorted({begin for begin, _, _ in lines})[:2] == [1, 4]
        assert ax.get_ylabel() == "input, 3 to a line"

    def test_weights_of_zero(self):
        one = directed([(0, 0), (1, 0)], (2, 1))
        one.set_weights([np.zeros_like(one.kernel)])
        ax = plotting.topology(one)
        ax.get_figure().canvas.draw()
        assert [strength for _, _, strength in drawn_lines(ax)] == [0, 0]


class Custom:
    """An activation of a user's own."""

    def __call__(self, z, out=None):
        return z

    def gradient(self, dy, y):
        return dy


class TestSaliency:
    @FORMATS
    def test_of_one_layer_it_is_the_window(self, data_format):
        one = layer(data_format)
        x = np.ones(one.input_shape[1:])
        place = (1, 2, 3) if data_format == "channels_first" else (2, 3, 1)  # row 2, column 3, filter 1
        window = np.abs(one.kernel[2 * 5 + 3, :, 1].reshape(3, 2, 2))
        expected = np.zeros((5, 6))
        expected[2:5, 3:5] = window.max(axis=2)
        ax = plotting.saliency(one, x, place)
        np.testing.assert_array_equal(image(ax), expected)
        expected[2:5, 3:5] = window[:, :, 0]
        np.testing.assert_array_equal(image(plotting.saliency(one, x, place, channel=0)), expected)
        assert labels(ax) == ("input column", "input row", "|gradient|, maximum over channels")

    def test_of_a_sequence_it_is_a_line(self):
        one = sequence_layer()
        ax = plotting.saliency(one, np.ones((5, 2)), (3, 0), channel=1)
        np.testing.assert_array_equal(line(ax), [0, 0, 0, *np.abs(one.kernel[3, 1::2, 0])])
        assert labels(ax) == ("input position", "|gradient|, channel 1")

    def test_it_goes_through_what_follows(self):
        one, dense = layer(activation="relu"), lc.Dense(4, rng=0)
        model = lc.Sequential([one, lc.Flatten(), dense])
        dense.set_weights([np.arange(45 * 4, dtype=np.float32).reshape(45, 4), np.zeros(4, np.float32)])
        x = np.random.default_rng(2).integers(-3, 4, (5, 6, 2)).astype(np.float32)
        y, backward = one.forward(x[None])
        assert 0 < np.count_nonzero(y) < y.size
        dx, _ = backward(dense.kernel[:, 2].reshape(y.shape))
        np.testing.assert_array_equal(image(plotting.saliency(model, x, 2)), np.abs(dx[0]).max(axis=-1))
        np.testing.assert_array_equal(image(plotting.saliency(model, x.astype(int), [2])), np.abs(dx[0]).max(axis=-1))

    def test_dropout_drops_nothing_and_penalties_of_outputs_add_nothing(self):
        one = layer(activity_regularizer="l2")
        model = lc.Sequential([lc.Dropout(0.9), lc.Sequential([one, lc.Dropout(0.9)]), lc.Activation("linear")])
        model.build((None, 5, 6, 2))
        picture = image(plotting.saliency(model, np.full((5, 6, 2), 2.0), (0, 0, 1), channel=1))
        np.testing.assert_allclose(picture[:3, :2], np.abs(one.kernel[0, 1::2, 1]).reshape(3, 2), atol=1e-5)
        np.testing.assert_array_equal(picture[3:], 0)

    def test_batches_are_normalised_by_the_moving_averages(self):
        norm = lc.BatchNormalization(epsilon=0)
        model = lc.Sequential([norm, lc.MaxPooling1D(2), lc.Flatten()])
        model.build((None, 2, 1))
        norm.set_weights([[6], [1], [2], [4]])
        np.testing.assert_array_equal(line(plotting.saliency(model, [[1.0], [5.0]], 0)), [0, 3])

    def test_a_model_without_locally_connected_layers(self):
        dense = lc.Dense(2, rng=0)
        model = lc.Sequential([lc.Flatten(), dense])
        model.build((None, 3, 2, 1))
        picture = image(plotting.saliency(model, np.ones((3, 2, 1)), 1))
        np.testing.assert_array_equal(picture, np.abs(dense.kernel[:, 1]).reshape(3, 2))


def volume():
    made = lc.LocallyConnected3D(1, 2, input_shape=(3, 3, 3, 1))
    made.build((None, 3, 3, 3, 1))
    return made


def behind(name, other):
    """A model with another layer in front of a locally connected one."""
    model = lc.Sequential([other, lc.LocallyConnected2D(2, 2)], name=name)
    model.build((None, 4, 4, 1))
    return model


class Doubled(Stateless):
    """A layer of a user's own; nothing is known of its connections."""

    def __init__(self, name):
        super().__init__(name, "doubled")

    def __call__(self, x):
        return 2 * x

    def forward(self, x):
        return 2 * x, lambda dy: (2 * dy, None)

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda: plotting.filters_by_position(lc.Dense(3)), TypeError, "layer is a Dense; give a LocallyConnected2D"),
        (
            lambda: plotting.filters_by_position(layer(), filter_index=3),
            ValueError,
            r"filter_index must be in \[0, 3\), got 3",
        ),
        (lambda: plotting.filters_by_position(layer(), channel=2), ValueError, r"channel must be in \[0, 2\), got 2"),
        (lambda: plotting.filters_by_position(lc.LocallyConnected2D(2, 3)), AttributeError, "build"),
        (lambda: plotting.weight_norm_map(lc.Dense(3)), TypeError, "layer is a Dense; give a LocallyConnected1D or"),
        (lambda: plotting.weight_norm_map(volume()), TypeError, "is a LocallyConnected3D, which cannot be"),
        (lambda: plotting.weight_norm_map(layer(), 3), ValueError, r"filter_index must be in \[0, 3\), got 3"),
        (lambda: plotting.weight_norm_map(lc.LocallyConnected2D(2, 3)), AttributeError, "build"),
        (lambda: plotting.bias_map(volume()), TypeError, "is a LocallyConnected3D"),
        (lambda: plotting.bias_map(layer(), 1.0), TypeError, "filter_index=1.0 is a float"),
        (lambda: plotting.bias_map(layer(use_bias=False)), ValueError, r"has no bias \(use_bias=False\); give"),
        (
            lambda: plotting.bias_map(layer(bias_sharing="filter")),
            ValueError,
            r"the same .*\(bias_sharing=\'filter\'\)",
        ),
        (lambda: plotting.bias_map(lc.LocallyConnected2D(2, 3)), AttributeError, "build"),
        (lambda: plotting.receptive_field(lc.Dense(3), 0), TypeError, "model is a Dense; give a Sequential or"),
        (
            lambda: plotting.receptive_field(lc.Sequential([lc.Dense(3)], name="flat"), 0),
            ValueError,
            "model 'flat' has no locally connected layer",
        ),
        (lambda: plotting.receptive_field(volume(), (0, 0, 0)), TypeError, "is a LocallyConnected3D"),
        (
            lambda: plotting.receptive_field(behind("mine", Doubled("doubled")), (0, 0)),
            TypeError,
            "model 'mine' has 'doubled', a Doubled, before .* give a Sequential of the layers after it",
        ),
        (lambda: plotting.receptive_field(layer(), 1), ValueError, r"position=1 has 1 entries; give 2, below \(3, 5\)"),
        (lambda: plotting.receptive_field(layer(), (1, 5)), ValueError, r"position\[1\] must be in \[0, 5\), got 5"),
        (lambda: plotting.receptive_field(layer(), (-1, 0)), ValueError, r"position\[0\]=-1 is too small"),
        (lambda: plotting.receptive_field(layer(), (0, 0), 3), ValueError, r"filter_index must be in \[0, 3\), got 3"),
        (lambda: plotting.receptive_field(lc.LocallyConnected2D(2, 3), (0, 0)), AttributeError, "not known yet"),
        (lambda: plotting.receptive_field(lc.LocallyDirected1D([[1]]), 0), TypeError, "no windows; use .*topology"),
        (
            lambda: plotting.receptive_field(behind("mine", lc.MaxPooling2D(2)), (0, 0)),
            TypeError,
            "has 'max_pooling2d.*', a MaxPooling2D, before .* only locally connected, transposed and",
        ),
        (lambda: plotting.sharing_map(layer()), ValueError, "weights of its own; give a layer with weight_sharing"),
        (lambda: plotting.topology(layer()), TypeError, "layer is a LocallyConnected2D; give a LocallyDirected1D"),
        (lambda: plotting.topology(lc.LocallyDirected1D([[1]])), AttributeError, "build"),
        (lambda: plotting.topology(directed([(0, 0)], (1, 1)), 0), ValueError, "most_outputs=0 is too small"),
        (lambda: plotting.topology(directed([(0, 0)], (1, 2)), names=["a"]), ValueError, "1 entries; .* has 2 outputs"),
        (lambda: plotting.saliency(lc.Dense(3), [1.0], 0), TypeError, "model is a Dense"),
        (lambda: plotting.model(lc.Dense(3)), TypeError, "model is a Dense; give a Sequential"),
        (lambda: plotting.model(lc.Sequential()), ValueError, "has no layers; add some"),
        (lambda: plotting.saliency(volume(), np.ones((3, 3, 3, 1)), 0), ValueError, r"must be \(W, C\) or \(H, W, C\)"),
        (
            lambda: plotting.saliency(layer(), np.ones((1, 5, 6, 2)), (0, 0, 0)),
            ValueError,
            r"x has shape \(1, 5, 6, 2\); give one sample of shape \(5, 6, 2\), without the batch axis",
        ),
        (lambda: plotting.saliency(layer(), np.ones((5, 6, 2), complex), (0, 0, 0)), TypeError, "x has dtype complex"),
        (lambda: plotting.saliency(layer(), np.ones((5, 6, 2)), 0), ValueError, "output_index=0 has 1 entries; give 3"),
        (
            lambda: plotting.saliency(layer(), np.ones((5, 6, 2)), (0, 0, 3)),
            ValueError,
            r"output_index\[2\] must be in \[0, 3\), got 3",
        ),
        (
            lambda: plotting.saliency(layer(), np.ones((5, 6, 2)), (0, 0, 0), 2),
            ValueError,
            r"channel must be in \[0, 2\), got 2",
        ),
        (lambda: plotting.saliency(lc.Sequential([lc.Dense(2)]), np.ones((5, 2)), 0), AttributeError, "not been built"),
    ],
)
def test_bad_use(action, error, message):
    with pytest.raises(error, match=message):
        action()


DRAWINGS = {
    "training_curve": lambda ax: plotting.training_curve({"loss": [2.0, nan, 1.0], "accuracy": [0.5, 0.7, 0.8]}, ax),
    "filters_by_position": lambda ax: plotting.filters_by_position(layer(), ax=ax),
    "weight_norm_map": lambda ax: plotting.weight_norm_map(layer(), ax=ax),
    "bias_map": lambda ax: plotting.bias_map(layer(), ax=ax),
    "receptive_field": lambda ax: plotting.receptive_field(layer(), (1, 2), ax=ax),
    "saliency": lambda ax: plotting.saliency(layer(), np.ones((5, 6, 2)), (1, 2, 0), ax=ax),
    "sharing_map": lambda ax: plotting.sharing_map(layer(weight_sharing=2), ax),
    "topology": lambda ax: plotting.topology(directed([(0, 0), (1, 0), (1, 1)], (2, 2)), ax=ax),
    "model": lambda ax: plotting.model(lc.Sequential([lc.Flatten()]), ax),
    "history": lambda ax: lc.History({"loss": [2.0, 1.0]}, [0, 1]).plot(ax),
    "a line": lambda ax: plotting.weight_norm_map(sequence_layer(), ax=ax),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_plots_are_drawn_on_the_given_axes(draw, tmp_path):
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert draw(right) is right
    assert not left.has_data()
    figure.savefig(tmp_path / "given.png")
    draw(None).figure.savefig(tmp_path / "new.png")
    assert (tmp_path / "new.png").read_bytes().startswith(b"\x89PNG")


def test_every_function_is_drawn():
    assert set(plotting.__all__) <= set(DRAWINGS)


def test_neither_display_nor_global_state_is_used(tmp_path):
    code = (
        "import sys; from lcnumba import plotting; assert 'matplotlib' not in sys.modules; "
        "plotting.training_curve({'loss': [1.0]}).figure.savefig('curve.png'); "
        "print([m for m in ('matplotlib.pyplot', 'tkinter') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def estimator(loss, scores=None, **attributes):
    """The attributes of an estimator that are drawn, of this library or of scikit-learn."""
    return type("Estimator", (), {"loss_curve_": loss, "validation_scores_": scores, **attributes})()


@pytest.mark.parametrize(
    ("given", "lines", "axes"),
    [
        (estimator([2.0, 1.0]), {"loss": [2.0, 1.0]}, 1),
        (estimator([2.0, 1.0], [-3.0, -4.0], scoring="loss"), {"loss": [2.0, 1.0], "val_loss": [3.0, 4.0]}, 1),
        (estimator([2.0, 1.0], [0.5, 0.75], classes_=[0, 1]), {"loss": [2.0, 1.0], "val_accuracy": [0.5, 0.75]}, 2),
        (estimator([2.0, 1.0], [0.5], scoring="roc_auc"), {"loss": [2.0, 1.0], "val_score": [None, 0.5]}, 2),
        (estimator([2.0, 1.0], [0.5, 0.75]), {"loss": [2.0, 1.0], "val_score": [0.5, 0.75]}, 2),
    ],
)  # fmt: skip
def test_training_curves_of_estimators(given, lines, axes):
    ax = plotting.training_curve(given)
    drawn = {line.get_label(): line.get_ydata().tolist() for one in ax.figure.axes for line in one.lines}
    assert {name: [None if np.isnan(y) else y for y in ys] for name, ys in drawn.items()} == lines
    assert len(ax.figure.axes) == axes


def test_training_curve_of_a_fitted_estimator(rng):
    estimators = pytest.importorskip("lcnumba.estimators")
    X = rng.standard_normal((40, 6))
    settings = {"max_iter": 3, "early_stopping": True, "random_state": 0, "scoring": "accuracy"}
    model = estimators.LocallyConnectedClassifier((1,), **settings)
    with pytest.raises(TypeError, match="history is a LocallyConnectedClassifier, which has not been fitted"):
        plotting.training_curve(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, X[:, 0] > 0)
    ax = plotting.training_curve(model)
    [loss], [score] = (one.lines for one in ax.figure.axes)
    assert loss.get_ydata().tolist() == model.loss_curve_
    assert (score.get_label(), score.get_ydata().tolist()) == ("val_accuracy", model.validation_scores_)


class TestCoordinates:
    """Maps of fields, whose axes are latitudes and longitudes."""

    LAT, LON = np.array([60.0, 50, 40, 20, 0]), np.arange(0.0, 60, 10)

    def field(self):
        xarray = pytest.importorskip("xarray")
        lat = ("lat", self.LAT, {"long_name": "latitude", "units": "degrees_north"})
        lon = ("lon", self.LON, {"units": "degrees_east"})
        return xarray.DataArray(np.zeros((7, 5, 6)), dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon})

    def mesh(self, ax):
        [drawn] = ax.collections
        x, y = drawn.get_coordinates()[0, :, 0], drawn.get_coordinates()[:, 0, 1]
        return x, y, np.ma.filled(drawn.get_array(), nan)

    @pytest.mark.parametrize("padding", ["valid", "same"])
    @pytest.mark.parametrize("strides", [1, 2])
    def test_outputs_are_at_the_centres_of_their_windows(self, padding, strides):
        """A kernel that takes the mean of its window finds them in a field of coordinates."""
        settings = {"padding": padding, "strides": strides, "bias_initializer": "ones"}
        made = lc.LocallyConnected2D(1, 3, input_shape=(5, 6, 1), kernel_initializer="zeros", **settings)
        made.build((None, 5, 6, 1))
        kernel = made.kernel.copy()
        kernel[:, 4] = 1
        made.set_weights([kernel, np.zeros_like(made.bias)])
        ax = plotting.weight_norm_map(made, coords={"lat": self.LAT, "lon": self.LON})
        x, y, values = self.mesh(ax)
        np.testing.assert_array_equal(values, np.ones(made.output_shape[1:3]))
        lat = made(np.broadcast_to(self.LAT[:, None, None], (1, 5, 6, 1)))[0, :, 0, 0]
        lon = made(np.broadcast_to(self.LON[:, None], (1, 5, 6, 1)))[0, 0, :, 0]
        assert len(x) == len(lon) + 1
        assert len(y) == len(lat) + 1
        np.testing.assert_allclose((x[1:] + x[:-1]) / 2, lon)  # equally spaced
        assert ((y[:-1] > lat) & (lat > y[1:])).all()
        assert labels(ax)[:2] == ("lon", "lat")
        plain = plotting.bias_map(made)
        assert plain.images
        assert not plain.collections

    def test_even_windows_lie_between_points(self):
        x, y, _ = self.mesh(plotting.bias_map(layer(), coords={"lat": self.LAT, "lon": self.LON}))
        np.testing.assert_array_equal(x, np.arange(6) * 10)  # centres 5, 15, ...
        np.testing.assert_array_equal(y, [55, 45, 30, 10])  # centres 50, 40, 20

    def test_xarray_gives_names_and_units(self):
        made, field = layer(), self.field()
        wanted = ("lon [degrees_east]", "latitude\n[degrees_north]")
        for ax in (
            plotting.weight_norm_map(made, coords=field),
            plotting.bias_map(made, coords={"lat": field.lat, "lon": field.lon}),
            plotting.receptive_field(made, (1, 2), coords=field),
            plotting.saliency(made, np.ones((5, 6, 2)), (0, 1, 2), coords=field),
            plotting.filters_by_position(made, coords=field),
        ):
            assert labels(ax)[:2] == wanted
        ticks = [text.get_text() for text in ax.get_yticklabels()]
        assert ticks == ["50", "40", "20"]

    def test_inputs_are_at_their_coordinates(self):
        ax = plotting.receptive_field(layer(), (0, 0), coords=self.field())
        x, y, values = self.mesh(ax)
        np.testing.assert_array_equal(x, np.arange(7) * 10 - 5)
        np.testing.assert_array_equal(y, [65, 55, 45, 30, 10, -10])
        np.testing.assert_array_equal(values, image(plotting.receptive_field(layer(), (0, 0))))

    def test_transposed_layers(self):
        """Their outputs lie where the adjoint layer, from outputs to inputs, has its inputs."""
        made = lc.LocallyConnected1DTranspose(1, 2, strides=2, input_shape=(4, 1))
        made.build((None, 4, 1))
        [drawn] = plotting.bias_map(made, coords={"km": [0, 2, 4, 6]}).lines
        np.testing.assert_array_equal(drawn.get_xdata(), np.arange(8) - 0.5)
        shared = lc.LocallyConnected1DTranspose(1, 2, strides=2, weight_sharing=2, input_shape=(4, 1))
        ax = plotting.sharing_map(shared, coords={"km": [0, 2, 4, 6]})
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 2, 4, 6])
        assert ax.get_xlabel() == "km"

    def test_one_output_is_as_large_as_its_step(self):
        made = lc.LocallyConnected2D(1, (1, 5), strides=(1, 2), input_shape=(4, 5, 1))
        made.build((None, 4, 5, 1))
        x, y, _ = self.mesh(plotting.bias_map(made, coords={"lat": [1, 2, 3, 4], "lon": [0, 10, 20, 30, 40]}))
        np.testing.assert_array_equal(x, [10, 30])
        np.testing.assert_array_equal(y, [0.5, 1.5, 2.5, 3.5, 4.5])

    def test_north_and_east_are_where_they_are_on_maps(self):
        for lat, lon in ((self.LAT, self.LON), (self.LAT[::-1], self.LON[::-1] + 0.0625)):
            coords = {"lat": lat.astype(np.float32) + np.float32(0.7), "lon": lon}
            ax = plotting.filters_by_position(layer(), coords=coords)
            ticks = [(text.get_text(), ax.transData.transform((0, at))[1]) for text, at in
                     zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)]  # fmt: skip
            assert [text for text, _ in sorted(ticks, key=lambda tick: tick[1])] == ["20.7", "40.7", "50.7"]
            first, last = (float(ax.get_xticklabels()[which].get_text()) for which in (0, -1))
            left, right = (ax.transData.transform((ax.get_xticks()[which], 0))[0] for which in (0, -1))
            assert (first < last) == (left < right)
        assert first == 45.0625

    def test_labels_of_low_maps_are_not_cut_off(self):
        made = lc.LocallyConnected2D(1, 3, input_shape=(4, 40, 1))
        made.build((None, 4, 40, 1))
        lat = self.field().lat.isel(lat=slice(0, 4))
        for draw in (plotting.filters_by_position, plotting.weight_norm_map):
            ax = draw(made, coords={"lat": lat, "lon": np.arange(40)})
            ax.figure.draw_without_rendering()
            box = ax.yaxis.label.get_window_extent()
            assert box.y0 >= 0
            assert box.y1 <= ax.figure.bbox.height

    @pytest.mark.parametrize(
        ("coords", "error", "message"),
        [
            (np.zeros((5, 6)), TypeError, r"coords is a ndarray; give an xarray.DataArray"),
            ({"lat": LAT}, ValueError, r"coords has \['lat'\]; give those of the dimensions of size \(5, 6\) alone"),
            ({"lat": LAT, "lon": LAT}, ValueError, r"coords\['lon'\] has shape \(5,\); the grid needs \(6,\)"),
            ({"lat": LAT, "lon": [0, 1, 2, 2, 3, 4]}, ValueError, r"coords\['lon'\] neither rises nor falls"),
            ({"lat": [0, 1, 2, 3, nan], "lon": LON}, ValueError, r"coords\['lat'\] neither rises nor falls"),
            ({"lat": LAT, "lon": list("abcdef")}, TypeError, r"coords\['lon'\] has dtype <U1; give numbers$"),
            ({"lat": LAT, "lon": LON.astype("M8[h]")}, TypeError, r"datetime64.*; give numbers, such as the h"),
            ({"lat": np.ma.masked_equal(LAT, 20), "lon": LON}, TypeError, r"coords\['lat'\] is a numpy MaskedArray"),
        ],
    )
    def test_bad_coordinates(self, coords, error, message):
        for draw in (plotting.weight_norm_map, plotting.bias_map, plotting.filters_by_position):
            with pytest.raises(error, match=message):
                draw(layer(), coords=coords)

    def test_a_dataset_is_not_a_grid(self):
        dataset = self.field().to_dataset(name="t")
        with pytest.raises(TypeError, match=r"coords is a Dataset; give one of its arrays, as coords=dataset"):
            plotting.weight_norm_map(layer(), coords=dataset)

    def test_dimensions_that_are_no_grid_of_the_layer(self):
        with pytest.raises(ValueError, match=r"'lon': 6\}, none of which are a grid of size \(5, 2\)"):
            plotting.receptive_field(lc.LocallyConnected2D(1, 2, input_shape=(5, 2, 1)), (0, 0), coords=self.field())
        apart = self.field().transpose("lat", "time", "lon")
        assert labels(plotting.weight_norm_map(layer(), coords=apart))[0] == "lon [degrees_east]"
        with pytest.raises(ValueError, match=r"several of which are a grid of size \(5, 6\)"):
            plotting.weight_norm_map(layer(), coords=apart.isel(time=slice(6)))  # lat and time, or lat and lon
        flat = lc.LocallyConnected2D(1, (1, 3), input_shape=(1, 6, 1))
        with pytest.raises(ValueError, match=r"coords\['lat'\] is a single point"):
            plotting.receptive_field(flat, (0, 0), coords={"lat": [50], "lon": self.LON})
        square = self.field().isel(lat=[0, 1, 2], lon=[0, 1, 2], time=[0, 1, 2])
        with pytest.raises(ValueError, match=r"several of which are a grid of size \(3, 3\); give the coordinates"):
            plotting.receptive_field(lc.LocallyConnected2D(1, 2, input_shape=(3, 3, 1)), (0, 0), coords=square)
