"""What fit can be fed with, beside arrays in memory."""

import h5py
import numpy as np
import pytest

import lcnumba as lc
from lcnumba.kernels import rows
from lcnumba.training import data
from lcnumba.utils.arrays import reads_lazily


def net(seed=0):
    return lc.Sequential(
        [lc.LocallyConnected2D(2, 2, input_shape=(4, 3, 1), rng=seed), lc.Flatten(), lc.Dense(3, rng=seed)]
    )


@pytest.fixture
def arrays(rng):
    return rng.standard_normal((20, 4, 3, 1), np.float32), rng.integers(0, 3, 20)


SETTINGS = {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": 6, "lr": 0.1, "rng": 0, "progress": False}


def trained(x, y=None, **settings):
    model = net()
    history = model.fit(x, y, **{**SETTINGS, **settings}).history
    return history, model.get_weights()


def same(one, other):
    assert one[0] == other[0]
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(a, b)


class Slow:
    """A dataset that reads what it is asked for, and tells how much that was at most."""

    def __init__(self, values, masked=False):
        self._values, self._masked = values, masked
        self.shape, self.dtype, self.most = values.shape, values.dtype, 0

    def __getitem__(self, chosen):
        if isinstance(chosen, np.ndarray):
            assert np.all(np.diff(chosen) > 0), "indices as files want them"
        part = self._values[chosen]
        self.most = max(self.most, len(part))
        return np.ma.masked_array(part) if self._masked else part


class Orthogonal(Slow):
    """As zarr has it: indices along one axis go by another name."""

    @property
    def oindex(self):
        return Slow(self._values)

    def __getitem__(self, chosen):
        assert isinstance(chosen, slice)
        return super().__getitem__(chosen)


@pytest.mark.parametrize("shuffle", [True, False, "batch"])
@pytest.mark.parametrize("kind", ["memmap", "h5py", "slow", "masked", "orthogonal", "xarray", "dask"])
def test_what_is_read_piece_by_piece_trains_as_arrays_do(kind, shuffle, arrays, tmp_path):
    x, y = arrays
    if kind == "memmap":
        np.save(tmp_path / "x.npy", x)
        source = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif kind == "h5py":
        source = h5py.File(tmp_path / "x.h5", "w").create_dataset("x", data=x, chunks=(3, 4, 3, 1))
    elif kind == "xarray":
        source = pytest.importorskip("xarray").DataArray(x, dims=("time", "lat", "lon", "channel"))
    elif kind == "dask":
        source = pytest.importorskip("dask.array").from_array(x, chunks=(7, 4, 3, 1))
    else:
        source = Orthogonal(x) if kind == "orthogonal" else Slow(x, masked=kind == "masked")
    assert reads_lazily(source) == (kind != "memmap")
    same(trained(source, y, shuffle=shuffle), trained(x, y, shuffle=shuffle))
    if kind == "slow":
        assert source.most == 6, "a batch at a time"


def test_targets_validation_prediction_and_evaluation_are_read_too(arrays):
    x, y = arrays
    expected = trained(x, y, validation_split=0.3)
    same(trained(Slow(x), Slow(y), validation_split=0.3), expected)
    same(trained(x[:14], y[:14], validation_data=(Slow(x[14:]), Slow(y[14:]))), expected)
    model = net()
    assert model.evaluate(Slow(x), Slow(y), loss="softmax_cross_entropy", batch_size=6) == model.evaluate(
        x, y, loss="softmax_cross_entropy", batch_size=6
    )
    source = Slow(x)
    np.testing.assert_array_equal(model.predict(source, batch_size=6), model.predict(x, batch_size=6))
    assert source.most == 6
    assert model.predict(Slow(x[:0])).shape == (0, 3)


def test_missing_values_are_told(arrays):
    x, y = arrays

    class Gappy(Slow):
        def __getitem__(self, chosen):
            return np.ma.masked_equal(super().__getitem__(chosen), x[7, 0, 0, 0])

    with pytest.raises(ValueError, match="x has masked values; fill them"):
        trained(Gappy(x), y)


def test_bad_targets_in_files_are_told_when_they_come(arrays):
    x, y = arrays
    y[13] = 3
    with pytest.raises(ValueError, match=r"labels y must be in \[0, 2\], got . to 3"):
        trained(x, Slow(y), shuffle=False)


def test_tables_and_arrays_in_memory_do_not_read_lazily(arrays):
    pandas = pytest.importorskip("pandas")
    import array_api_strict
    import scipy.sparse

    for array in (np.ones(3), [1.0], 3, np.float64(1), pandas.Series([1.0]), pandas.DataFrame([[1.0]]),
                  array_api_strict.ones(3), scipy.sparse.eye_array(3), "text", None):  # fmt: skip
        assert not reads_lazily(array)
    x, y = arrays
    table = pandas.DataFrame(x.reshape(20, -1))
    model = lc.Sequential([lc.Dense(3, rng=0)])
    model.fit(table, pandas.Series(y, index=range(100, 120)), **SETTINGS)
    with pytest.raises(TypeError, match="make it dense"):
        model.fit(scipy.sparse.eye_array(12).tocsr(), y[:12], **SETTINGS)


def batches(x, y):
    for at in range(0, len(x), 6):
        yield x[at : at + 6], y[at : at + 6]


def test_iterables_of_batches_train_as_arrays_do(arrays):
    x, y = arrays
    expected = trained(x, y, shuffle=False)
    same(trained(list(batches(x, y))), expected)

    class Loader:
        def __iter__(self):
            return batches(x, y)

    same(trained(Loader()), expected)
    same(trained((b for _ in range(2) for b in batches(x, y)), steps_per_epoch=4), expected)
    same(trained(Loader(), steps_per_epoch=4), expected)
    one = trained(x, y, shuffle=False, epochs=1)
    same(trained(batches(x, y), epochs=1), one)


def test_an_iterable_from_a_later_epoch_on_goes_on(arrays, tmp_path):
    """What was passed over before the initial epoch is not passed over again."""
    x, y = arrays
    loader, path = list(batches(x, y)), tmp_path / "run.npz"
    settings = {**SETTINGS, "steps_per_epoch": 3}
    whole, broken = net(), net()
    whole.fit(loader, **{**settings, "epochs": 5}, initial_epoch=2)
    broken.fit(loader, **{**settings, "epochs": 3}, initial_epoch=2, callbacks=[lc.callbacks.Checkpoint(path)])
    broken.fit(loader, **{**settings, "epochs": 5}, resume=path)
    for a, b in zip(whole.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_epochs_go_on_where_the_last_one_ended(arrays):
    """Three steps an epoch, of a loader with four batches, which begins again where it ends."""
    x, y = arrays
    loader = list(batches(x, y))
    model, twin = net(), net()
    model.fit(loader, **{**SETTINGS, "epochs": 3}, steps_per_epoch=3)
    for number in range(9):
        twin.train_on_batch(*loader[number % 4], loss="softmax_cross_entropy", lr=0.1)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batches_may_bring_weights_and_serve_for_validation(arrays, rng):
    x, y = arrays
    w = rng.random(20)
    weighted = [(*batch, w[6 * n : 6 * n + 6]) for n, batch in enumerate(batches(x, y))]
    same(
        trained(weighted, validation_data=weighted),
        trained(x, y, sample_weight=w, shuffle=False, validation_data=(x, y, w)),
    )
    model = net()
    assert model.evaluate(weighted, loss="softmax_cross_entropy") == pytest.approx(
        model.evaluate(x, y, sample_weight=w, loss="softmax_cross_entropy")
    )


def test_a_generator_that_ends_early_ends_the_training(arrays):
    x, y = arrays
    model = net()
    with pytest.warns(RuntimeWarning, match=r"x ended in epoch 2 of 3, after 1 of 3 batches"):
        history = model.fit(batches(x, y), **{**SETTINGS, "epochs": 3}, steps_per_epoch=3)
    assert history.epoch == [0, 1]
    twin = net()
    for batch in batches(x, y):
        twin.train_on_batch(*batch, loss="softmax_cross_entropy", lr=0.1)
    np.testing.assert_array_equal(model.get_weights()[0], twin.get_weights()[0])
    with pytest.warns(RuntimeWarning, match=r"x ended in epoch 2 of 3, after 0 of 4 batches"):
        assert net().fit(batches(x, y), **{**SETTINGS, "epochs": 3}, steps_per_epoch=4).epoch == [0]


def test_a_generator_that_raises_leaves_what_was_done(arrays):
    x, y = arrays

    def broken():
        yield x[:6], y[:6]
        yield x[6:12], y[6:12]
        raise OSError("the disk is gone")

    model, twin = net(), net()
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(broken(), **{**SETTINGS, "epochs": 3}, steps_per_epoch=1)
    assert model.history.epoch == [0, 1]
    for part in (slice(0, 6), slice(6, 12)):
        twin.train_on_batch(x[part], y[part], loss="softmax_cross_entropy", lr=0.1)
    np.testing.assert_array_equal(model.get_weights()[0], twin.get_weights()[0])


X, Y = np.zeros((8, 4, 3, 1), np.float32), np.zeros(8, int)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"x": iter([(X, Y)]), "epochs": 2},
            ValueError,
            r"one-shot iterator \(list_iterator\), but epochs=2; give steps_per",
        ),
        ({"x": []}, ValueError, "x has no batches"),
        ({"x": iter([]), "epochs": 1}, ValueError, "x has no batches"),
        ({"x": [3]}, TypeError, r"batch 1 must be a tuple \(x, y\) or .*, got int"),
        ({"x": [(X,)]}, TypeError, r"batch 1 must be a tuple \(x, y\) or .*, got tuple of 1"),
        ({"x": [(X, Y[:3])]}, ValueError, r"batch 1 .*, got x of shape \(8, 4, 3, 1\) and y of shape \(3,\)"),
        ({"x": [(X[:0], Y[:0])]}, ValueError, r"batch 1 must have .* at least one, got x of shape \(0, "),
        ({"x": [(X, Y + 3)]}, ValueError, r"labels y must be in \[0, 2\], got 3 to 3"),
        ({"x": [(X[:, :3], Y)]}, ValueError, "the model was built for"),
        ({"x": [(X, Y, Y - 1)]}, ValueError, "sample_weight must be finite and >= 0"),
        ({"x": [(X, Y)], "sample_weight": Y}, TypeError, "sample_weight needs arrays"),
        ({"x": [(X, Y)], "validation_split": 0.5}, TypeError, "validation_split needs arrays"),
        ({"x": [(X, Y)], "steps_per_epoch": 0}, ValueError, "steps_per_epoch=0"),
        ({"x": X, "y": Y, "steps_per_epoch": 2}, TypeError, "steps_per_epoch needs an iterable"),
        ({"x": X}, TypeError, "y is missing"),
        ({"x": 3.0}, TypeError, "y is missing"),
        ({"x": X, "y": Y, "validation_data": iter([(X, Y)])}, TypeError, "validation_data must be"),
        ({"x": X, "y": Y, "validation_data": []}, ValueError, "data has no batches"),
        ({"x": X, "y": Y, "validation_data": X}, TypeError, "validation_data must be"),
        ({"x": X, "y": Y, "validation_split": 1.0}, ValueError, r"validation_split must be in \[0, 1\), got 1.0"),
        ({"x": X, "y": Y, "validation_split": 0.95}, ValueError, "leaves one side empty"),
        (
            {"x": X, "y": Y, "validation_split": 0.5, "validation_data": (X, Y)},
            ValueError,
            "validation_data and validation_split cannot be combined",
        ),
        (
            {"x": X, "y": Y, "sample_weight": np.ones(7)},
            ValueError,
            r"sample_weight must have one .*, got shape \(7,\)",
        ),
        ({"x": X, "y": Y, "sample_weight": np.full(8, np.nan)}, ValueError, "sample_weight must be finite and >= 0"),
        ({"x": X, "y": Y, "sample_weight": np.ones(8, complex)}, TypeError, "sample_weight has dtype"),
        ({"x": X, "y": Y, "class_weight": [1, 2]}, TypeError, r"class_weight must be a dict .*, got \[1, 2\]"),
        ({"x": X, "y": Y, "class_weight": {0.5: 1.0}}, TypeError, "class_weight's label=0.5"),
        ({"x": X, "y": Y, "class_weight": {0: -1.0}}, ValueError, "weights >= 0, got {0: -1.0}"),
        ({"x": X, "y": Y, "shuffle": "yes"}, ValueError, "shuffle='yes'"),
    ],
)
def test_bad_data(change, error, message):
    model = net()
    before = model.get_weights()
    settings = {**SETTINGS, "y": None, **change}
    with pytest.raises(error, match=message):
        model.fit(settings.pop("x"), settings.pop("y"), **settings)
    if "validation_data" not in change:
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_dask_arrays_of_unknown_length_and_weights_that_read_lazily(arrays):
    da = pytest.importorskip("dask.array")
    x, y = arrays
    unknown = da.from_array(x, chunks=(5, 4, 3, 1))[da.from_array(y, chunks=5) > 0]
    with pytest.raises(
        ValueError, match=r"x has unknown shape \(nan, .*; call \.compute_chunk_sizes\(\) of a Dask array"
    ):
        trained(unknown, y)
    weights = np.arange(20.0)
    same(trained(x, y, sample_weight=da.from_array(weights, chunks=7)), trained(x, y, sample_weight=weights))


def test_samples_come_once_each_in_any_order(rng):
    x, y = np.arange(23.0)[:, None], np.arange(23)
    samples = data.Samples(data.rows("x", x), data.rows("y", y), y.astype(float), 5, lambda x, y: None)
    assert len(samples) == 5
    for shuffle in (True, False, "batch"):
        whole = list(samples.batches(shuffle, np.random.default_rng(1)))
        seen = np.concatenate([batch.y for batch in whole])
        assert sorted(seen) == list(range(23))
        assert (seen.tolist() == list(range(23))) == (shuffle is False)
        for batch in whole:
            np.testing.assert_array_equal(batch.x[:, 0], batch.y)
            np.testing.assert_array_equal(batch.weights, batch.y)
            if shuffle == "batch":
                np.testing.assert_array_equal(np.diff(batch.y), 1)
        rest = list(samples.batches(shuffle, np.random.default_rng(1), done=3))
        assert [batch.y.tolist() for batch in rest] == [batch.y.tolist() for batch in whole[3:]]


@pytest.mark.parametrize("shape", [(50, 300, 301), (50, 70001), (50, 3), (50,), (50, 0)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_samples_picked_by_all_threads_are_those_that_were_asked_for(shape, dtype, rng):
    values = rng.integers(0, 200, shape).astype(dtype)
    for array in (values, np.asfortranarray(values), values[::-1]):
        chosen = rng.permutation(50)[:33]
        np.testing.assert_array_equal(rows.take(array, chosen), array[chosen], strict=True)


def test_class_weights():
    of = data.class_weights({0: 2, np.int64(2): 0.5})
    np.testing.assert_array_equal(of(np.array([0, 1, 2, 0])), [2, 1, 0.5, 2])
    np.testing.assert_array_equal(of(np.eye(3)), [2, 1, 0.5])
    np.testing.assert_array_equal(of(np.array([[1.0], [0.0]])), [1, 2])
    for y in (np.full((2, 1), 0.5), np.full(3, np.nan), np.zeros((2, 2, 2)), np.ones((2, 2))):
        with pytest.raises(ValueError, match="class_weight needs integer labels"):
            of(y)


def test_labels_that_cannot_be_weighed_are_found_before_the_first_step():
    model = lc.Sequential([lc.Dense(1, rng=0)])
    model.build((None, 2))
    before = model.get_weights()
    settings = {"loss": "mse", "lr": 0.5, "batch_size": 1, "shuffle": False, "progress": False}
    with pytest.raises(ValueError, match="class_weight needs integer labels"):
        model.fit(np.ones((3, 2)), np.array([[1.0], [2.0], [0.5]]), class_weight={1: 2.0}, **settings)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "y", [np.array(["a", "b"]), np.array([None, 1]), np.array([1j, 0]), np.array(["2020"] * 2, "M8[Y]")]
)
def test_classes_that_are_no_numbers_have_no_weights(y):
    with pytest.raises(TypeError, match="class_weight needs numeric labels; y has dtype"):
        data.class_weights({1: 2.0})(y)
