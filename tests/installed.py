"""Print what an installation takes on disk, after a step without any extra: ``make dist`` runs it beside the wheel."""

from importlib.metadata import distributions

import numpy as np

import lcnumba as lc


def main():
    layer = lc.LocallyConnected2D(2, 3, input_shape=(6, 6, 1))
    y, backward = layer.forward(np.ones((4, 6, 6, 1)))
    assert backward.step(np.ones_like(y), lr=0.1).shape == (4, 6, 6, 1)
    sizes = {}
    for found in distributions():
        files = (found.locate_file(file) for file in found.files or ())
        sizes[f"{found.name} {found.version}"] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    for name, size in sorted(sizes.items(), key=lambda pair: pair[1]):
        print(f"{size:8.1f} MB  {name}")
    print(f"{sum(sizes.values()):8.1f} MB  in all")


if __name__ == "__main__":
    main()
