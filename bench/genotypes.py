"""Accuracy of the estimators with many features and few samples: simulated genotypes, compared with a linear model.

``python -m bench.genotypes`` prints a table of cross-validated areas under the ROC curve, one row per setting of the
classifier and one column per simulated data set. No setting is selected by these results.

Genotypes are counts 0, 1, 2 of an allele whose frequency is drawn from [0.05, 0.5); one sample in five is a case.
``--kind frequencies``: all variants are independent, and in cases the frequencies of the causal alleles are higher by
``--shift``. ``--kind liability``: neighbours on a chromosome are correlated by ``--linkage``, and cases are the samples
with the largest sum of causal effects and noise; ``--heritability`` is the share of the effects in its variance. With
independent variants and a liability, hundreds of samples are too few to learn anything: every method is at 0.5.
"""

import argparse
import sys
import time
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["areas", "simulate"]

Array = npt.NDArray[Any]

# Settings of the locally connected network by row name, in addition to the window; None for the linear model.
ROWS: dict[str, dict[str, Any] | None] = {
    "LogisticRegression": None,
    "defaults": {},
    "learning_rate_init=0.003": {"learning_rate_init": 0.003},
    "early_stopping=True": {"early_stopping": True, "scoring": "roc_auc", "class_weight": "balanced"},
    "alpha=0.0001": {"alpha": 0.0001},
    "alpha=0.0001, learning_rate_init=0.01": {"alpha": 0.0001, "learning_rate_init": 0.01},
}


def simulate(
    seed: int, samples: int = 800, snps: int = 20_000, causal: int = 100, prevalence: float = 0.2,
    kind: str = "frequencies", shift: float = 0.17, linkage: float = 0.998, heritability: float = 0.9,
) -> tuple[Array, Array]:  # fmt: skip
    """Return int8 genotypes (samples, snps), and whether each sample is a case.

    Examples
    --------
    >>> from bench.genotypes import simulate
    >>> X, y = simulate(0, samples=10, snps=30, causal=5)
    >>> X.shape, X.dtype, int(y.sum())
    ((10, 30), dtype('int8'), 2)
    """
    rng = np.random.default_rng(seed)
    frequencies, places = rng.uniform(0.05, 0.5, snps), rng.choice(snps, causal, replace=False)
    X = np.zeros((samples, snps), np.int8)
    if kind == "frequencies":
        y = np.arange(samples) < round(prevalence * samples)
        rng.shuffle(y)
        higher = frequencies.copy()
        higher[places] += shift
        for _ in range(2):
            X += rng.random((samples, snps)) < np.where(y[:, None], higher, frequencies)
        return X, y.astype(int)
    from scipy.signal import lfilter
    from scipy.stats import norm

    for _ in range(2):  # one haplotype each: an autoregressive normal sequence, thresholded by the allele frequency
        steps = rng.standard_normal((samples, snps))
        steps[:, 1:] *= np.sqrt(1 - linkage**2)
        X += lfilter([1], [1, -linkage], steps, axis=1) < norm.ppf(frequencies)
    effects = (X[:, places] - X[:, places].mean(0)) @ rng.standard_normal(causal)
    chance = rng.standard_normal(samples) * np.sqrt(1 - heritability)
    liability = effects / effects.std() * np.sqrt(heritability) + chance
    return X, (liability > np.quantile(liability, 1 - prevalence)).astype(int)


def areas(X: Array, y: Array, settings: dict[str, Any] | None, window: int = 20, folds: int = 3) -> Array:
    """Return the area under the curve of each fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    from lcnumba.estimators import LocallyConnectedClassifier

    if settings is None:
        model: Any = LogisticRegression(max_iter=1000)
    else:
        model = LocallyConnectedClassifier(kernel_size=window, strides=window, random_state=0, **settings)
    cv = StratifiedKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(cross_val_score(model, X, y, cv=cv, scoring="roc_auc"))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.genotypes", description=__doc__)
    for name, default in {"samples": 800, "snps": 20_000, "causal": 100, "window": 20, "passes": 200}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103], help="random seeds of the data sets")
    parser.add_argument("--kind", choices=("frequencies", "liability"), default="frequencies")
    for name, number in {"shift": 0.17, "linkage": 0.998, "heritability": 0.9}.items():
        parser.add_argument(f"--{name}", type=float, default=number, help=f"default {number}")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=list(range(len(ROWS))), help="indices of rows, default all"
    )
    given = parser.parse_args()
    keys = ("samples", "snps", "causal", "kind", "shift", "linkage", "heritability")
    data = [simulate(seed, **{key: getattr(given, key) for key in keys}) for seed in given.seeds]
    print(f"| {given.kind}, {given.snps} variants | " + " | ".join(map(str, given.seeds)) + " | seconds per fit |")
    print("| --- |" + " --- |" * (len(data) + 1))
    for name in (list(ROWS)[number] for number in given.rows):
        settings = ROWS[name]
        settings = None if settings is None else {"max_iter": given.passes, **settings}
        start = time.perf_counter()
        found = [areas(X, y, settings, given.window).mean() for X, y in data]
        seconds = (time.perf_counter() - start) / (3 * len(data))
        print(f"| {name} | " + " | ".join(f"{area:.3f}" for area in found) + f" | {seconds:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
