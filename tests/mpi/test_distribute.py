"""One rank: what `distribute` refuses, and what its model is."""

import numpy as np
import pytest
from launcher import need_mpi

import lcnumba as lc
from lcnumba.mpi.launch import check_launcher, threads_per_rank

need_mpi()
SHAPE = (None, 12, 9, 2)


def layer(filters=3, **settings):
    return lc.LocallyConnected2D(filters, 3, padding="same", **settings)


class Mine:
    """Anything of the user's own."""

    def __call__(self, *_):
        return 0.0

    gradient = update = init = __call__


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        (lambda: [layer(implementation=2)], "implementation=2"),
        (lambda: [layer(implementation="auto")], "implementation='auto'"),
        (lambda: [layer(data_format="channels_first")], "data_format='channels_first'"),
        (lambda: [layer(weight_sharing="all")], "weight_sharing of .* cannot be divided"),
        (lambda: [layer(), lc.LocallyConnected2DTranspose(2, 3)], "is a LocallyConnected2DTranspose; a distributed"),
        (lambda: [lc.Conv2D(2, 3), layer()], "is a Conv2D; a distributed model can have"),
        (lambda: [layer(optimizer=Mine())], "optimizer=.* not built in"),
        (lambda: [layer(activation=lc.activations.get("relu"), kernel_regularizer=Mine())], "kernel_regularizer"),
        (lambda: [layer(bias_constraint=lambda w: w)], "bias_constraint"),
        (lambda: [layer(activity_regularizer="l2")], "activity_regularizer"),
        (lambda: [layer(activation=Mine())], "activation"),
        (lambda: [lc.Flatten(), lc.Dense(2)], "no locally connected layer"),
        (lambda: [layer(), lc.Dense(2)], "put a Flatten before it"),
        (lambda: [layer(), lc.Sequential([layer()])], "is a Sequential"),
        (lambda: [layer(), lc.BatchNormalization()], "is a BatchNormalization; .* can have LocallyConnected1D to 3D"),
        (lambda: [layer(), lc.MaxPooling2D()], "is a MaxPooling2D"),
        (lambda: [layer(), lc.LeakyReLU()], "is a LeakyReLU"),
        (lambda: [type("Mine", (lc.LocallyConnected2D,), {})(2, 3)], "is a Mine"),
    ],
)
def test_what_cannot_be_divided_is_named(layers, match):
    with pytest.raises(TypeError, match=match):
        lc.mpi.distribute(lc.Sequential(layers()), input_shape=SHAPE)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({}, ValueError, "input_shape is missing"),
        ({"input_shape": (None, 12, 9)}, ValueError, "has 3 entries; give 4"),
        ({"input_shape": SHAPE, "data_groups": 3}, ValueError, "data_groups=3 must divide the number of ranks, 1"),
        ({"input_shape": SHAPE, "data_groups": 0}, ValueError, "data_groups=0 is too small"),
        ({"input_shape": SHAPE, "comm": 3}, TypeError, "comm=3 is a int"),
    ],
)
def test_invalid_arguments(settings, error, match):
    with pytest.raises(error, match=match):
        lc.mpi.distribute(lc.Sequential([layer()]), **settings)
    with pytest.raises(TypeError, match="give a Sequential"):
        lc.mpi.distribute(layer(), input_shape=SHAPE)


def test_a_built_model_keeps_its_weights_and_states(rng):
    whole = lc.Sequential([layer(rng=0, optimizer="adam"), lc.Flatten(), lc.Dense(4, rng=1)])
    whole.compile(None, "softmax_cross_entropy", lr=0.01)
    x, y = rng.standard_normal((6, *SHAPE[1:])), rng.integers(0, 4, 6)
    whole.train_on_batch(x, y)
    model = lc.mpi.distribute(whole)
    for mine, given in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, given)
    assert model.steps_taken == 1
    assert model.train_on_batch(x, y) == whole.train_on_batch(x, y)
    np.testing.assert_array_equal(model.predict(x), whole.predict(x))
    np.testing.assert_array_equal(model(x), whole(x))


def test_given_weights(rng):
    kernel, bias = rng.standard_normal((108, 18, 3)), rng.standard_normal((12, 9, 3))
    whole = lc.Sequential([layer(weights=[kernel, bias])])
    whole.build(SHAPE)
    model = lc.mpi.distribute(lc.Sequential([layer(weights=[kernel, bias])]), input_shape=SHAPE)
    for mine, given in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, given)
    for wrong in ([kernel], [kernel[1:], bias]):
        with pytest.raises(ValueError, match="needs"):
            lc.mpi.distribute(lc.Sequential([layer(weights=wrong)]), input_shape=SHAPE)


def test_weights_in_and_out(rng, tmp_path):
    model = lc.mpi.distribute(lc.Sequential([layer(rng=0), layer(2, rng=1)]), input_shape=SHAPE)
    weights = [2 * weight for weight in model.get_weights()]  # those that do not exist stay 0
    model.set_weights(weights)
    before = model.get_weights()
    for wrong, match in ((weights[:3], "3 weights given"), ([w[:-1] for w in weights], "has shape"), (3, "is a int")):
        with pytest.raises((TypeError, ValueError), match=match):
            model.set_weights(wrong)
    for mine, given, kept in zip(model.get_weights(), weights, before, strict=True):
        np.testing.assert_array_equal(mine, given)
        np.testing.assert_array_equal(mine, kept)
    model.save(tmp_path / "model.npz")
    model.save_weights(tmp_path / "weights.npz")
    again = lc.load(tmp_path / "model.npz")
    assert again.count_params() == model.count_params()
    model.set_weights([0 * weight for weight in weights])
    model.load_weights(tmp_path / "weights.npz")
    x = rng.standard_normal((3, *SHAPE[1:]), np.float32)
    np.testing.assert_array_equal(model.predict(x), again.predict(x))
    with pytest.raises(ValueError, match="it holds 4 weights"):
        lc.mpi.distribute(lc.Sequential([layer()]), input_shape=SHAPE).load_weights(tmp_path / "weights.npz")


def test_what_the_model_is():
    model = lc.mpi.distribute(lc.Sequential([layer(rng=0), lc.Flatten(), lc.Dense(4)], name="net"), input_shape=SHAPE)
    assert repr(model) == "<DistributedSequential 'net' on 1 ranks: (None, 12, 9, 2) -> (None, 4)>"
    assert [type(each).__name__ for each in model.layers] == ["LocallyConnected2D", "Flatten", "Dense"]
    assert model.count_params() == lc.Sequential.from_config(model.get_config()).count_params()
    with pytest.raises(TypeError, match="optimizer"):
        model.compile(Mine(), "mse")
    with pytest.raises(ValueError, match="has no loss; pass loss="):
        model.fit(np.ones((2, *SHAPE[1:])), np.zeros(2, int), progress=False)
    with pytest.raises(TypeError, match="it is called epochs here"):
        model.fit(np.ones((2, *SHAPE[1:])), np.zeros(2, int), nb_epoch=3)


@pytest.mark.parametrize(
    ("environ", "refused"),
    [({"PMI_SIZE": "4"}, True), ({"OMPI_COMM_WORLD_SIZE": "2"}, True), ({"PMI_SIZE": "1"}, False), ({}, False)],
)
def test_a_launcher_of_another_mpi_is_refused(environ, refused):
    if not refused:
        check_launcher(environ)
        return
    with pytest.raises(RuntimeError, match="belong to different MPIs"):
        check_launcher(environ)


def test_threads():
    assert threads_per_rank(64, 64, 4) == 16
    assert threads_per_rank(8, 64, 4) == 8
    assert threads_per_rank(2, 2, 4) == 1
