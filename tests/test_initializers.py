import math

import numpy as np
import pytest

import lcnumba as lc
from lcnumba import initializers

SHAPE = (40, 50, 30)  # P, K, F
FAN_IN, FAN_OUT = 40 * 50, 40 * 30


def draw(name, dtype=np.float32, fans=None, seed=0):
    return initializers.draw(initializers.get(name), SHAPE, np.dtype(dtype), np.random.default_rng(seed), fans)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("random_uniform", 0.05),
        ("glorot_uniform", math.sqrt(6 / (FAN_IN + FAN_OUT))),
        ("he_uniform", math.sqrt(6 / FAN_IN)),
        ("lecun_uniform", math.sqrt(3 / FAN_IN)),
        ("uniform", 0.05),
        (initializers.VarianceScaling(0.5, "fan_out", "uniform"), math.sqrt(1.5 / FAN_OUT)),
    ],
)
def test_uniform(name, limit, dtype):
    values = draw(name, dtype)
    assert values.dtype == dtype
    assert np.abs(values).max() <= limit * (1 + 1e-6)
    assert np.abs(values).max() > 0.999 * limit
    np.testing.assert_allclose(values.std(), limit / math.sqrt(3), rtol=0.01)
    assert abs(values.mean()) < 0.01 * limit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "sigma", "truncated"),
    [
        ("random_normal", 0.05, False),
        ("glorot_normal", math.sqrt(2 / (FAN_IN + FAN_OUT)), True),
        ("he_normal", math.sqrt(2 / FAN_IN), True),
        ("lecun_normal", math.sqrt(1 / FAN_IN), True),
        ("variance_scaling", math.sqrt(1 / FAN_IN), True),
        (initializers.VarianceScaling(2.0, "fan_avg", "Normal"), math.sqrt(4 / (FAN_IN + FAN_OUT)), True),
        (initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"), math.sqrt(2 / FAN_OUT), False),
        (initializers.TruncatedNormal(0.0, 0.5), 0.5 * initializers.TRUNCATED_STDDEV, True),
    ],
)
def test_normal(name, sigma, truncated, dtype):
    values = draw(name, dtype)
    assert values.dtype == dtype
    np.testing.assert_allclose(values.std(), sigma, rtol=0.02)
    assert abs(values.mean()) < 0.02 * sigma
    bound = 2 * sigma / initializers.TRUNCATED_STDDEV
    assert (np.abs(values).max() <= bound * (1 + 1e-6)) == truncated


def test_constants():
    assert not draw("zeros").any()
    assert (draw("Ones") == 1).all()
    assert not draw("constant").any()
    assert (draw(initializers.Constant(2.5)) == 2.5).all()


def test_a_truncated_normal_has_its_mean():
    values = draw(initializers.TruncatedNormal(3.0, 0.5))
    np.testing.assert_allclose(values.mean(), 3, rtol=1e-3)
    assert np.abs(values - 3).max() <= 1


@pytest.mark.parametrize("shape", [(6, 5, 4), (1, 3, 8), (7, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonal(shape, dtype):
    values = initializers.Orthogonal(2.0)(shape, dtype, np.random.default_rng(0))
    matrix = values.reshape(-1, shape[-1])
    product = matrix.T @ matrix if len(matrix) >= shape[-1] else matrix @ matrix.T
    assert values.dtype == dtype
    assert values.flags.c_contiguous
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)


def test_identity_is_for_matrices():
    values = initializers.get("identity")((3, 4), np.float32, np.random.default_rng(0))
    np.testing.assert_array_equal(values, np.eye(3, 4))
    layer = lc.LocallyConnected2D(2, 3, kernel_initializer="identity")
    with pytest.raises(ValueError, match=r"identity.* needs a shape of two axes, got \(16, 9, 2\); use another one"):
        layer(np.ones((1, 6, 6, 1)))


def test_every_name_alias_and_config():
    for name, cls in initializers._BY_NAME.items():
        for alias in (name, cls.__name__, cls.__name__ + "V2"):
            assert type(initializers.get(alias)) is cls
        made = initializers.get(name)
        config = initializers.serialize(made)
        keras = {"module": "keras.initializers", "registered_name": None, **config}
        assert initializers.serialize(initializers.get(keras)) == config
    assert [type(initializers.get(n)).__name__ for n in ("zero", "one", "normal", "uniform")] == [
        "Zeros", "Ones", "RandomNormal", "RandomUniform",
    ]  # fmt: skip
    for settings, match in (({"scale": 0}, "scale must be > 0, got 0"), ({"mode": "FAN_IN"}, "mode='FAN_IN'"),
                            ({"distribution": "wide"}, "distribution='wide'")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            initializers.VarianceScaling(**settings)


def test_fans():
    assert initializers.fans_of((900, 27, 64)) == (24300, 57600)
    assert initializers.fans_of((30, 30, 64)) == (900, 1920)
    assert initializers.fans_of((5,)) == (5, 5)
    assert initializers.fans_of(()) == (1, 1)
    # The first layer of Keras' documentation: a limit of 0.00856, where a convolution has 0.0998.
    limits = []
    for fans in ("keras", "window"):
        layer = lc.LocallyConnected2D(64, 3, input_shape=(32, 32, 3), rng=0, fans=fans)
        layer.build((None, 32, 32, 3))
        limits.append(np.abs(layer.kernel).max())
    np.testing.assert_allclose(limits, [0.00856, 0.0998], rtol=2e-3)


def test_seeds_repeat_and_generators_go_on():
    for seeded in (initializers.GlorotUniform(seed=3), initializers.RandomNormal(seed=3)):
        np.testing.assert_array_equal(draw(seeded, seed=1), draw(seeded, seed=2))
    fresh = initializers.HeNormal()
    assert not np.array_equal(draw(fresh, seed=1), draw(fresh, seed=2))
    rng = np.random.default_rng(0)
    one, two = (lc.LocallyConnected2D(2, 2, rng=rng) for _ in range(2))
    for layer in (one, two):
        layer.build((None, 4, 4, 1))
    assert not np.array_equal(one.kernel, two.kernel)
    same = [lc.LocallyConnected2D(2, 2, rng=5) for _ in range(2)]
    for layer in same:
        layer.build((None, 4, 4, 1))
    np.testing.assert_array_equal(same[0].kernel, same[1].kernel)


def test_get_and_config():
    assert isinstance(initializers.get(None), initializers.GlorotUniform)
    assert isinstance(initializers.get(initializers.Ones), initializers.Ones)
    made = initializers.get({"class_name": "RandomUniform", "config": {"minval": -1.0, "maxval": 1.0, "seed": None}})
    config = initializers.serialize(made)
    assert config == {"class_name": "RandomUniform", "config": {"minval": -1.0, "maxval": 1.0, "seed": None}}
    with pytest.raises(ValueError, match=r"give one of .*glorot_normal"):
        initializers.get("nope")


def test_a_custom_function_gets_shape_dtype_and_rng():
    def custom(shape, dtype, rng):
        assert dtype == np.float32
        return rng.integers(0, 2, shape)

    values = draw(custom)
    assert values.dtype == np.float32
    assert set(np.unique(values)) == {0, 1}


class Stamp(initializers.Initializer):
    """A subclass of the built-in base is custom all the same."""

    def _draw(self, shape, dtype, rng, fans):
        return np.zeros((1, 1, 1), dtype)


def test_a_subclass_is_held_to_its_shape():
    layer = lc.LocallyConnected2D(2, 3, kernel_initializer=Stamp())
    with pytest.raises(ValueError, match=r"must return shape .*, got \(1, 1, 1\)"):
        layer(np.ones((1, 6, 6, 1)))


def test_settings_are_plain_numbers():
    made = initializers.RandomNormal(stddev=np.float32(0.5), seed=np.int64(3))
    assert [type(v) for v in made.get_config().values()] == [float, float, int]
    for bad in ({"stddev": "wide"}, {"mean": True}, {"seed": 1.5}):
        with pytest.raises(TypeError, match=next(iter(bad))):
            initializers.RandomNormal(**bad)
    with pytest.raises(ValueError, match="minval must be finite, got nan"):
        initializers.RandomUniform(minval=math.nan)


def test_an_initializer_that_uses_its_layer_is_an_error_and_no_deadlock():
    layer = lc.LocallyConnected2D(2, 3, kernel_initializer=lambda *_: layer.get_weights())
    with pytest.raises(RuntimeError, match="while it is being built or changed: not by its initializers"):
        layer(np.ones((1, 6, 6, 1)))
    assert not layer.built


def test_a_mode_is_a_word():
    with pytest.raises(ValueError, match="mode=array"):
        initializers.VarianceScaling(mode=np.array([]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*initializers._BY_NAME, "custom", "seeded"])
def test_rows_are_those_of_the_whole(name, dtype, monkeypatch):
    """And the generator goes on as after the whole."""
    monkeypatch.setattr(initializers, "BLOCK", 4000)
    initializer = {
        "custom": lambda shape, dtype, rng: rng.random(shape),
        "seeded": initializers.RandomUniform(seed=3),
    }.get(name) or initializers.get(name)
    shape, fans = ((40, 50), None) if name == "identity" else (SHAPE, (7, 9))
    rng = np.random.default_rng(1)
    whole = initializers.draw(initializer, shape, np.dtype(dtype), rng, fans)
    for first, last in ((0, 40), (0, 1), (3, 17), (39, 40)):
        twin = np.random.default_rng(1)
        rows = initializers.draw_rows(initializer, shape, first, last, np.dtype(dtype), twin, fans)
        np.testing.assert_array_equal(rows, whole[first:last])
        assert rows.dtype == dtype
        assert rows.flags.c_contiguous
        assert twin.bit_generator.state == rng.bit_generator.state


def test_rows_of_random_numbers_need_no_memory_of_the_whole():
    import tracemalloc

    initializer, dtype, rng = initializers.get("glorot_uniform"), np.dtype(np.float32), np.random.default_rng(0)
    tracemalloc.start()
    initializers.draw_rows(initializer, (4000, 100, 50), 10, 20, dtype, rng, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 4 * initializers.BLOCK < 4000 * 100 * 50 * 4
