"""Estimators for scikit-learn (the extra ``lcnumba[sklearn]``): locally connected layers, then a dense one.

Parameters have the names of scikit-learn's `MLPClassifier` where they mean the same. Samples may be flat or have the
shape of images. The network computes in float32 if `X` is float32, float16, bool, or integers of one or two bytes (all
but float16 are stored as they are and cast batch by batch), else in float64.
"""

import copy
import inspect
import math
import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any, NoReturn, Self

import numpy as np

from lcnumba import activations, losses, optimizers, regularizers
from lcnumba.callbacks import Callback
from lcnumba.layers.dense import Dense
from lcnumba.layers.flatten import Flatten
from lcnumba.layers.locally_connected import (
    LocallyConnected,
    LocallyConnected1D,
    LocallyConnected2D,
    LocallyConnected3D,
)
from lcnumba.models.sequential import Sequential
from lcnumba.runtime import compilation
from lcnumba.runtime.signals import deferred
from lcnumba.utils.arrays import refuse_masked
from lcnumba.utils.messages import install, public, public_class, warn
from lcnumba.utils.types import Array
from lcnumba.utils.validation import boolean, choice, int_tuple, integer, real

__all__ = ["LocallyConnectedClassifier", "LocallyConnectedRegressor"]

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import check_scoring
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f"{error}; lcnumba.estimators needs scikit-learn: {install('sklearn')}") from error


# Layers by the number of axes of a sample, channels included.
_LAYERS: dict[int, type[LocallyConnected]] = {2: LocallyConnected1D, 3: LocallyConnected2D, 4: LocallyConnected3D}
_NO_TARGETS = object()
# Dtypes in which samples are stored; others are cast to the first. Those of up to 4 bytes are computed in float32.
_STORED = (np.float64, np.float32, np.int8, np.uint8, np.int16, np.bool_)
# Activations of MLPClassifier that have another name here.
_ACTIVATIONS = {"logistic": "sigmoid", "identity": "linear"}
MIN_ADAPTIVE_LR = 1e-6  # as in MLPClassifier


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """Base class of classifier and regressor: the network and its training."""

    image_shape_: tuple[int, ...]
    model_: Sequential
    loss_curve_: list[float]
    validation_scores_: Any
    filters: Any
    kernel_size: Any
    strides: Any
    padding: Any
    groups: Any
    weight_sharing: Any
    image_shape: Any
    activation: Any
    implementation: Any
    solver: Any
    alpha: Any
    batch_size: Any
    learning_rate: Any
    learning_rate_init: Any
    power_t: Any
    max_iter: Any
    shuffle: Any
    random_state: Any
    tol: Any
    verbose: Any
    warm_start: Any
    momentum: Any
    nesterovs_momentum: Any
    early_stopping: Any
    validation_fraction: Any
    beta_1: Any
    beta_2: Any
    epsilon: Any
    n_iter_no_change: Any
    n_threads: Any
    scoring: Any

    def __init__(self, given: dict[str, Any]) -> None:
        """Set the constructor arguments of the subclass as attributes."""
        for name in self._get_param_names():
            setattr(self, name, given[name])

    # --- implemented by subclasses

    def _loss(self) -> losses.Loss:
        """The loss of the network's output."""
        raise NotImplementedError

    def _targets(self, y: Array, classes: Any, fresh: bool) -> tuple[Array, int]:
        """The targets as the loss takes them, and the number of outputs; sets the fitted attributes of targets."""
        raise NotImplementedError

    def _labels(self, goals: Array) -> Array:
        """The inverse of `_targets`: y as passed to `fit`."""
        raise NotImplementedError

    def _class_weights(self, goals: Array, partial: bool) -> Array | None:
        """The class weight of each sample."""
        return None

    # --- fit

    @public
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array-like, (n_samples, n_features) or (n_samples, height, width[, channels])
            Samples.
        y : array-like, (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like, (n_samples,), optional
            Weights of the samples; the loss is their weighted mean.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If samples, targets, weights or parameters are invalid, or the loss, the weights or the solver's state
            become infinite or NaN. After any exception, including KeyboardInterrupt, the estimator, and a RandomState
            given as `random_state`, are left unchanged.
        """
        self._check_settings()
        fresh = not self.warm_start or not hasattr(self, "model_")
        self._train(X, y, None, sample_weight, integer("max_iter", self.max_iter), fresh)
        return self

    def _partial_fit(self, X: Any, y: Any, classes: Any, sample_weight: Any) -> Self:
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._train(X, y, classes, sample_weight, None, not hasattr(self, "model_"))
        return self

    def _reset(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)

    def _train(self, X: Any, y: Any, classes: Any, sample_weight: Any, epochs: int | None, fresh: bool) -> None:
        """Train, from new weights if `fresh`; on failure or interrupt the estimator is left unchanged.

        A fitted network and its lists are copied before they are trained further, so that on failure the copies are
        simply dropped. This takes the memory of a second network during the call.
        """
        before, random = dict(self.__dict__), self.random_state
        random_state = random.get_state() if isinstance(random, np.random.RandomState) else None
        try:
            if not fresh:
                self.model_ = copy.deepcopy(self.model_)
                self.loss_curve_ = list(self.loss_curve_)
                self.validation_scores_ = self.validation_scores_ and list(self.validation_scores_)
            self._train_checked(X, y, classes, sample_weight, epochs, fresh)
        except BaseException:
            with deferred():
                self.__dict__.clear()
                self.__dict__.update(before)
                if random_state is not None:
                    random.set_state(random_state)
            raise

    def _train_checked(self, X: Any, y: Any, classes: Any, sample_weight: Any, epochs: int | None, fresh: bool) -> None:
        if fresh:
            self._reset()
        self._check_settings()
        if not (self.early_stopping or (isinstance(self.scoring, str) and self.scoring == "loss")):
            warn(
                f"scoring={self.scoring!r} has no effect without early_stopping=True",
                UserWarning,
            )
        refuse_masked(sample_weight=sample_weight, classes=classes)
        values, targets, shape = self._validated(X, y, fresh)
        goals, outputs = self._targets(targets, classes, fresh)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True)
        given_weights, by_class = weights, self._class_weights(goals, epochs is None)
        if by_class is not None:
            weights = by_class if weights is None else weights * by_class
        if weights is not None and not weights.sum() > 0:
            raise ValueError("sample_weight times class_weight must be above 0 for at least one sample")
        random = check_random_state(self.random_state)
        if fresh:
            self.image_shape_ = shape
        held = None
        if self.early_stopping and epochs is not None:
            values, goals, weights, held = self._split_validation(values, goals, weights, given_weights, random)
            if weights is not None and not min(weights.sum(), held[2].sum()) > 0:
                raise ValueError(
                    f"sample_weight is 0 for all training or all validation samples of early_stopping; use a "
                    f"validation_fraction other than {self.validation_fraction!r}, or more samples of weight above 0"
                )
        size = self._batch_size(len(values))
        average = 1.0 if weights is None else float(weights.mean())
        if fresh:
            dtype = values.dtype.name if values.dtype.kind == "f" else "float32"
            self._initialize(dtype, outputs, average * size, average * len(values), random)
        else:
            self._update_network(average * size, average * len(values))
        if weights is not None:
            weights = weights / weights.mean()
        monitor = _Monitor(self, held, len(values), partial=epochs is None)
        with warnings.catch_warnings(), compilation.listening(monitor.on_compilation):
            warnings.filterwarnings("ignore", "the loss is", RuntimeWarning)  # raised as an error below
            self.model_.fit(
                self._shaped(values), goals, loss=self._loss(), epochs=epochs or 1, batch_size=size,
                lr=monitor.rate, sample_weight=weights, shuffle=boolean("shuffle", self.shuffle),
                rng=random.randint(2**31 - 1), callbacks=[monitor], progress=False,
            )  # fmt: skip
        # The last step may have made weights or the solver's state non-finite, which the loss does not show.
        problem = f"the loss became {self.loss_}" if not math.isfinite(self.loss_) else _not_finite(self.model_)
        if problem:
            raise ValueError(
                f"{problem}; scale X and y to about 1, for instance with StandardScaler, or lower "
                f"learning_rate_init={self.learning_rate_init!r}"
            )
        if epochs is not None and epochs == monitor.epochs and not monitor.converged:
            warn(
                f"training ended after max_iter={epochs} passes, before its loss or score stopped improving by "
                f"tol={self.tol!r}; increase max_iter to train on, or ignore this where so many passes were intended",
                ConvergenceWarning,
            )

    def _check_settings(self) -> None:
        """Validate the parameters that the layers and `fit` do not."""
        rules = ("constant", "invscaling", "adaptive")
        if not (isinstance(self.learning_rate, str) and self.learning_rate in rules):
            raise ValueError(
                f"learning_rate must be one of {', '.join(map(repr, rules))}, got {self.learning_rate!r}; the rate "
                "itself is learning_rate_init"
            )
        if isinstance(self.n_threads, Integral) and self.n_threads < 1:
            raise ValueError(f"n_threads must be >= 1, or None for all, got {self.n_threads!r}")
        if real("learning_rate_init", self.learning_rate_init) <= 0:
            raise ValueError(f"learning_rate_init must be > 0, got {self.learning_rate_init!r}")
        if not self._auto() and real("alpha", self.alpha) < 0:
            raise ValueError(f"alpha must be >= 0 or 'auto', got {self.alpha!r}")
        integer("n_iter_no_change", self.n_iter_no_change)
        real("momentum", self.momentum)
        # A greater power of (1 + samples seen) could overflow.
        if not 0 <= real("power_t", self.power_t) <= 16:
            raise ValueError(f"power_t must be in [0, 16], got {self.power_t!r}")
        for name in ("early_stopping", "warm_start"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name, kind in (("filters", "an integer, or a tuple of integers"), ("image_shape", "a tuple of integers")):
            value = getattr(self, name)
            several = isinstance(value, list | tuple | range) or getattr(value, "ndim", None) == 1
            if not (several or (isinstance(value, Integral) if name == "filters" else value is None)):
                raise TypeError(f"{name} must be {kind}, got {value!r}")
        real("tol", self.tol)
        if not (self.scoring is None or isinstance(self.scoring, str) or callable(self.scoring)):
            raise TypeError(
                "scoring must be 'loss', the name of a scorer of scikit-learn, a function (estimator, X, y) -> float, "
                f"or None for the estimator's own score, got {self.scoring!r}"
            )
        if self.early_stopping and self.scoring != "loss":
            check_scoring(self, self.scoring)
        if not 0 < real("validation_fraction", self.validation_fraction) < 1:
            raise ValueError(f"validation_fraction must be in (0, 1), got {self.validation_fraction!r}")

    def _auto(self) -> bool:
        """Whether the penalty depends on the number of samples."""
        return isinstance(self.alpha, str) and self.alpha == "auto"

    def _batch_size(self, samples: int) -> int:
        if isinstance(self.batch_size, str):
            choice("batch_size", self.batch_size, ("auto",))
            return min(200, samples)
        return min(integer("batch_size", self.batch_size), samples)

    def _split_validation(
        self, values: Array, goals: Array, weights: Any, given_weights: Any, random: Any
    ) -> tuple[Any, ...]:
        """Training samples, targets and weights, and the list of validation arrays."""
        stratify = goals if is_classifier(self) else None
        indices = np.arange(len(values))
        train, validation = train_test_split(
            indices, test_size=self.validation_fraction, random_state=random, stratify=stratify
        )
        arrays = (values, goals, weights, given_weights)
        parts = [None if array is None else (array[train], array[validation]) for array in arrays]
        training = [None if part is None else part[0] for part in parts[:3]]
        return *training, [None if part is None else part[1] for part in parts]

    def _initialize(self, dtype: str, outputs: int, batch: float, samples: float, random: Any) -> None:
        """Make the network with new weights; `batch` and `samples` are total weights of a batch and of all samples."""
        rng = np.random.default_rng(random.randint(2**31 - 1))
        model = self._network(dtype, outputs, self._penalty(batch, samples), rng)
        local = model.layers[:-2]
        self._warn_of_unread(local)
        model.build((None, *self._sample_shape()))
        made = self._made()
        model.set_optimizer(made["solver"])
        self.model_, self._made_with = model, made
        self.n_outputs_, self.n_layers_ = outputs, len(local) + 2
        self.loss_curve_ = []
        self.n_iter_ = self.t_ = 0
        self.best_loss_: Any = math.inf  # None with early stopping
        self.validation_scores_ = [] if self.early_stopping else None
        self.best_validation_score_: Any = -math.inf if self.early_stopping else None

    def _made(self) -> dict[str, Any]:
        """Parameters of the network that are not attributes of its layers, to detect later changes."""
        # A numeric alpha is divided by the batch size.
        penalty = "auto" if self._auto() else (self.alpha, self.batch_size)
        return {"penalty": penalty, "activation": self.activation, "solver": self._optimizer()}

    def _update_network(self, batch: float, samples: float) -> None:
        """Apply parameters that have changed since the network was made, or refuse them."""
        old, made = self.model_, self._made()
        output: Any = old.layers[-1]
        before = getattr(self, "_made_with", made)
        penalty = output.kernel_regularizer
        if made["penalty"] != before["penalty"]:
            penalty = self._penalty(batch, samples)
        new = self._network(output.dtype, self.n_outputs_, penalty, np.random.default_rng(0))
        locals_: Any = old.layers[:-2], new.layers[:-2]
        for name in ("filters", "kernel_size", "strides", "padding", "groups", "weight_sharing"):
            was, wanted = ([layer.get_config().get(name) for layer in layers] for layers in locals_)
            if was != wanted:
                _refuse_change(name, getattr(self, name), was)
        if not _alike(before["activation"], made["activation"], activations):
            _refuse_change("activation", self.activation, before["activation"])
        rebuilt = made["penalty"] != before["penalty"] or any(
            one.implementation != other.implementation for one, other in zip(*locals_, strict=True)
        )
        if rebuilt:  # regularizers and implementations of built layers cannot be changed
            new.build((None, *self._sample_shape()))
            new.set_weights(old.get_weights())
            new.set_optimizer(before["solver"])
            new.plan_training_state(old.get_training_state())()
            self.model_ = new
        if not _alike(before["solver"], made["solver"], optimizers):
            self.model_.set_optimizer(made["solver"])
        layers: Any = self.model_.layers[:-2]
        for layer in layers:
            layer.n_threads = self.n_threads
        self._made_with = made

    def _penalty(self, batch: float, samples: float) -> regularizers.L2 | None:
        """Half the squares, divided by the samples of a batch (as in MLPClassifier) or by all (LogisticRegression)."""
        strength = 0.5 / samples if self._auto() else 0.5 * self.alpha / batch
        return regularizers.L2(strength) if strength else None

    def _network(self, dtype: str, outputs: int, penalty: Any, rng: np.random.Generator) -> Sequential:
        """The network of the parameters, not built."""
        settings: dict[str, Any] = {"dtype": dtype, "rng": rng, "kernel_regularizer": penalty}
        given = (self.filters,) if isinstance(self.filters, Integral) else self.filters
        hidden = int_tuple("filters", tuple(given), len(given))
        windows = _by_layer("kernel_size", self.kernel_size, len(hidden))
        strides = _by_layer("strides", self.strides, len(hidden))
        groups = _by_layer("groups", self.groups, len(hidden))
        shared = _by_layer("weight_sharing", self.weight_sharing, len(hidden))
        sample = self._sample_shape()
        if self.image_shape is None and len(sample) == 2:
            for name, entries in (("kernel_size", windows), ("strides", strides)):
                for entry in entries:
                    if isinstance(entry, list | tuple) and len(entry) > 1:
                        raise ValueError(
                            f"{name}={entry!r} has {len(entry)} entries, but the rows of a table are sequences, of "
                            f"{sample[0]} features here; for images give image_shape=(height, width), too"
                        )
        kind = _LAYERS[len(sample)]
        activation = self.activation
        if isinstance(activation, str):
            activation = _ACTIVATIONS.get(activation, activation)
        layers: list[Any] = [
            kind(
                count, windows[number], windows[number] if strides[number] is None else strides[number], self.padding,
                activation=activation, fans="window", implementation=self.implementation, data_format="channels_last",
                groups=groups[number], weight_sharing=shared[number], n_threads=self.n_threads, name=f"local_{number}",
                **settings,
            )
            for number, count in enumerate(hidden)
        ]  # fmt: skip
        # Zeros, as in a linear model: random weights of thousands of uninformative inputs would persist.
        layers += [Flatten(name="flatten"), Dense(outputs, name="output", kernel_initializer="zeros", **settings)]
        return Sequential(layers, name=type(self).__name__)

    def _warn_of_unread(self, layers: Any) -> None:
        """Warn of features that the output does not depend on."""
        shape = self._sample_shape()
        total, unread = math.prod(shape), _unread(layers, shape)
        if not unread:
            return
        hint = "decrease strides or increase kernel_size"
        if any(
            step > window for layer in layers for step, window in zip(layer.strides, layer.kernel_size, strict=True)
        ):
            hint = "use strides <= kernel_size; strides=None means kernel_size"
        elif other := next((padding for padding in ("valid", "same") if _reads_all(layers, shape, padding)), None):
            hint = f"padding={other!r} uses all features"
        warn(
            f"{unread} of {total} features are in no window and have no effect, with kernel_size="
            f"{self.kernel_size!r}, strides={self.strides!r} and padding={self.padding!r}; {hint}",
            UserWarning,
        )

    def _optimizer(self) -> Any:
        if not isinstance(self.solver, str):
            return self.solver
        solver = choice("solver", self.solver, ("adam", "sgd"))
        if solver == "adam":
            return optimizers.Adam(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon)
        nesterov = boolean("nesterovs_momentum", self.nesterovs_momentum) and self.momentum > 0
        return optimizers.SGD(momentum=self.momentum, nesterov=nesterov)

    # --- samples and their shapes

    def _validated(self, X: Any, y: Any = _NO_TARGETS, fresh: bool = False) -> tuple[Array, Any, tuple[int, ...]]:
        """Samples as a 2-d array, targets if any, and the shape of a sample."""
        refuse_masked(X=X, y=y)
        X, shape = _flat(X)
        rules: dict[str, Any] = {"dtype": _stored(X), "reset": fresh}
        if y is _NO_TARGETS:
            values, targets = validate_data(self, X, **rules), None
        else:
            several = not is_classifier(self)
            values, targets = validate_data(self, X, y, multi_output=several, y_numeric=several, **rules)
        features = values.shape[1]
        if shape is None:
            shape = (features,) if self.image_shape is None else tuple(self.image_shape)
            if math.prod(int_tuple("image_shape", shape, len(shape))) != features or not 1 <= len(shape) <= 4:
                raise ValueError(
                    f"image_shape={self.image_shape!r} does not fit samples of {features} features; give (length,), "
                    "(height, width), (height, width, channels) or (depth, height, width, channels)"
                )
        elif self.image_shape is not None and tuple(self.image_shape) != shape:
            raise ValueError(f"X has samples of shape {shape}, but image_shape={self.image_shape!r}; omit image_shape")
        if not fresh and shape != self.image_shape_:
            if self.image_shape is not None:
                _refuse_change("image_shape", self.image_shape, self.image_shape_)
            raise ValueError(f"X must have samples of shape {self.image_shape_}, as in the first fit, got {shape}")
        return values, targets, shape

    def _sample_shape(self) -> tuple[int, ...]:
        """The shape of a sample, channels included."""
        return self.image_shape_ if len(self.image_shape_) > 2 else (*self.image_shape_, 1)

    def _shaped(self, values: Array) -> Array:
        return values.reshape(len(values), *self._sample_shape())

    def _outputs(self, X: Any) -> Array:
        """The network's output for flat or shaped samples."""
        check_is_fitted(self, "model_")
        values, _, _ = self._validated(X)
        return self.model_.predict(self._shaped(values))

    def _held_score(self, held: list[Any]) -> float:
        """The score on the validation samples."""
        values, goals, weights, given_weights = held
        if self.scoring == "loss":
            outputs = self.model_.predict(self._shaped(values))
            return -self._loss()(goals, outputs, None if weights is None else weights / weights.mean())[0]
        samples, given = values.reshape(len(values), *self.image_shape_), {}
        scorer = check_scoring(self, self.scoring)
        if given_weights is not None and _takes_weights(scorer):
            given["sample_weight"] = given_weights
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
            score = float(scorer(self, samples, self._labels(goals), **given))
        if math.isnan(score):
            raise ValueError(
                f"scoring={self.scoring!r} is NaN on the validation samples; use a validation_fraction other than "
                f"{self.validation_fraction!r}, or more samples"
            )
        return score


class _Monitor(Callback):
    """What MLPClassifier does after each pass: record losses and scores, adapt the learning rate, stop early."""

    def __init__(self, estimator: _Estimator, held: Any, samples: int, partial: bool) -> None:
        self._estimator, self._held, self._samples, self._partial = estimator, held, samples, partial
        self._waited, self._best_weights, self.epochs, self.converged = 0, None, 0, False
        self._best = math.inf  # the smallest loss of this call
        self._printed_notice = False

    def on_compilation(self) -> None:
        """Print, once and if verbose, that kernels are being compiled."""
        if self._estimator.verbose and not self._printed_notice:
            print(compilation.NOTICE)
        self._printed_notice = True

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; "adaptive" overrides it by run.lr."""
        estimator = self._estimator
        first = float(estimator.learning_rate_init)
        if estimator.learning_rate == "invscaling":
            return first / (1 + estimator.t_) ** float(estimator.power_t)
        return first

    def on_train_begin(self, run: Any) -> None:
        """Reset the best loss and scores."""
        estimator, stopping = self._estimator, self._held is not None
        estimator.best_loss_ = None if stopping else min(estimator.loss_curve_, default=math.inf)
        estimator.validation_scores_ = (estimator.validation_scores_ or []) if stopping else None
        estimator.best_validation_score_ = -math.inf if stopping else None

    def on_epoch_end(self, run: Any, logs: dict[str, float]) -> None:
        """Record the pass; lower the learning rate or stop the training when it no longer improves."""
        estimator, loss = self._estimator, logs["loss"]
        self.epochs += 1
        estimator.n_iter_ += 1
        estimator.t_ += self._samples
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        if not math.isfinite(loss):
            run.stop()
            return
        if self._held is not None:
            score = estimator._held_score(self._held)
            estimator.validation_scores_.append(score)
            if estimator.verbose:
                print(f"Validation score: {score:.6f}")
            improved = score >= estimator.best_validation_score_ + estimator.tol
            if score > estimator.best_validation_score_:
                estimator.best_validation_score_ = score
                self._best_weights = run.model.get_weights()
        else:
            improved = loss <= self._best - estimator.tol
            self._best = min(loss, self._best)
            estimator.best_loss_ = min(loss, estimator.best_loss_)
        self._waited = 0 if improved else self._waited + 1
        if self._partial or self._waited <= estimator.n_iter_no_change:
            return
        sgd = isinstance(estimator.solver, str) and estimator.solver.lower() == "sgd"
        if estimator.learning_rate == "adaptive" and sgd and run.lr > MIN_ADAPTIVE_LR:
            run.lr, self._waited = run.lr / 5, 0
            return
        self.converged = True
        run.stop()

    def on_train_end(self, run: Any) -> None:
        """Restore the weights of the best validation score."""
        if self._best_weights is not None:
            run.model.set_weights(self._best_weights)


@public_class
class LocallyConnectedClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """Classifier of images, sequences or fields: a network of locally connected layers.

    The loss is the softmax cross-entropy.

    Parameters
    ----------
    filters : int or sequence of int, default (8,)
        Filters of each locally connected layer.
    kernel_size, strides : int, tuple or list, default 3 and 1
        As for `LocallyConnected2D`: an integer or a tuple applies to all layers, a list has one entry (an integer or a
        tuple) per layer. ``(20, 5)``: a window of 20 rows and 5 columns in every layer; ``[20, 5]``: 20 in the first
        layer and 5 in the second. ``strides=None`` means `kernel_size`: windows side by side. Features in no window
        give a UserWarning.
    padding, implementation
        Of all layers, as for `LocallyConnected2D`; the default padding is "same".
    groups, weight_sharing
        As for `LocallyConnected2D`; a list has one entry per layer.
    image_shape : tuple of int, optional
        Shape of flat samples: (length,), (height, width), (height, width, channels), or (depth, height, width,
        channels). By default they are sequences. Omit it if `X` has shape (n_samples, height, width) and so on.
    activation : str or object, default "relu"
        Of the locally connected layers; "logistic" and "identity" mean "sigmoid" and "linear", as in MLPClassifier.
    solver : {"adam", "sgd"} or optimizer, default "adam"
        The optimizer.
    alpha : float or "auto", default "auto"
        Strength of the L2 penalty on weights. A number, as in `MLPClassifier`: the penalty is ``alpha / 2`` times the
        squared weights, divided by the samples of the batch. "auto": half the squared weights, divided by all samples
        of the first fit, as in `LogisticRegression` with ``C=1``. It is determined by the first fit, and again when
        `alpha` changes.
    batch_size : int, default "auto"
        Samples per step; "auto" means ``min(200, n_samples)``.
    learning_rate : {"constant", "invscaling", "adaptive"}
        "invscaling": ``learning_rate_init / (1 + t_) ** power_t``, updated after each pass. "adaptive", with "sgd":
        divided by 5 whenever training would stop otherwise.
    learning_rate_init, power_t, max_iter, shuffle, tol, verbose, warm_start, momentum
        As in scikit-learn's `MLPClassifier`; `max_iter` counts passes over the samples, `power_t` is at most 16, and
        `verbose` prints the loss of each pass, and a notice when kernels are compiled. With `warm_start`, and in
        `partial_fit`, changed parameters apply from the next call on: changing `alpha`, or the `batch_size` it is
        divided by, changes the penalty, a changed solver starts with new state, and changed filters, windows,
        activations or `image_shape` raise a ValueError.
    class_weight : dict, "balanced" or None, default None
        Weights by label, 1 for others; "balanced": inversely proportional to the class frequencies. `sample_weight` is
        multiplied by them.
    random_state, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change
        As there.
    scoring : str, callable or None, default "loss"
        Score for `early_stopping` on the validation samples, larger is better: "loss" is the negative cross-entropy;
        else the name of a scorer of scikit-learn ("roc_auc", "balanced_accuracy", ...), a function
        ``(estimator, X, y) -> float``, or None for `score`. Accuracy is of little use with rare classes. A scorer that
        takes `sample_weight` gets that of these samples. Ignored, with a UserWarning, without `early_stopping`.
    n_threads : int, optional
        Threads of the locally connected layers; by default as many as Numba uses.

    Attributes
    ----------
    classes_ : array
        The labels.
    model_ : Sequential
        The network.
    loss_, best_loss_ : float
        The last and the smallest mean loss of a pass; `best_loss_` is None with early stopping.
    loss_curve_ : list of float
        The mean losses of all passes.
    validation_scores_, best_validation_score_
        Scores on the validation samples, with early stopping; else None.
    image_shape_ : tuple of int
        The shape of a sample.
    n_iter_, t_ : int
        The number of passes, and of samples seen.
    n_features_in_, feature_names_in_, n_outputs_, n_layers_
        As in `MLPClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from lcnumba.estimators import LocallyConnectedClassifier
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> model = LocallyConnectedClassifier((4,), image_shape=(8, 8), max_iter=10, tol=0, learning_rate_init=0.01,
    ...                                    n_iter_no_change=10, random_state=0)
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     model = model.fit(X[:400] / 16, y[:400])
    >>> model.score(X[400:] / 16, y[400:]) > 0.95
    True
    """

    def __init__(
        self,
        filters: Any = (8,),
        *,
        kernel_size: Any = 3,
        strides: Any = 1,
        padding: str = "same",
        groups: Any = 1,
        weight_sharing: Any = None,
        image_shape: tuple[int, ...] | None = None,
        activation: Any = "relu",
        implementation: Any = 1,
        solver: Any = "adam",
        alpha: Any = "auto",
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        class_weight: Any = None,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        scoring: Any = "loss",
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(locals())

    def _loss(self) -> losses.Loss:
        return losses.SoftmaxCrossEntropy()

    def _targets(self, y: Array, classes: Any, fresh: bool) -> tuple[Array, int]:
        check_classification_targets(y)
        if fresh:
            self.classes_ = unique_labels(y) if classes is None else unique_labels(np.asarray(classes))
        elif classes is not None and not np.array_equal(self.classes_, unique_labels(np.asarray(classes))):
            raise ValueError(f"classes must be those of the first call, {self.classes_}, got {classes!r}")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has labels {unknown} that are not in classes_ {self.classes_}")
        return np.searchsorted(self.classes_, y), len(self.classes_)

    @public
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train with one more pass over these samples.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array-like
            All labels that will ever occur; required in the first call.

        Returns
        -------
        self
        """
        if classes is None and not hasattr(self, "model_"):
            raise ValueError("classes, all labels that will ever occur, is required in the first call of partial_fit")
        return self._partial_fit(X, y, classes, sample_weight)

    def _labels(self, goals: Array) -> Array:
        return self.classes_[goals]

    def _class_weights(self, goals: Array, partial: bool) -> Array | None:
        given, y = self.class_weight, self.classes_[goals]
        if given is None:
            return None
        if isinstance(given, Mapping):
            if not all(math.isfinite(real("class_weight", weight)) and weight >= 0 for weight in given.values()):
                raise ValueError(f"class_weight must have finite weights >= 0, got {given!r}")
            unknown = [label for label in given if label not in self.classes_.tolist()]
            if unknown:
                raise ValueError(
                    f"class_weight={given!r} has labels {unknown} that are not in classes_ {self.classes_.tolist()}"
                )
            return compute_class_weight(dict(given), classes=self.classes_, y=y)[goals].astype(np.float64)
        if not (isinstance(given, str) and given == "balanced"):
            raise ValueError(f"class_weight must be a dict of labels, 'balanced' or None, got {given!r}")
        if partial:
            raise ValueError(
                "partial_fit, which does not see all samples, does not support class_weight='balanced'; give a dict"
            )
        return np.asarray(compute_sample_weight("balanced", y))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the log-probabilities of the classes, (n_samples, n_classes).

        Parameters
        ----------
        X : array-like
            Samples, flat or shaped as in `fit`.
        """
        logits = self._outputs(X)
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    @public
    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes, (n_samples, n_classes), in the order of `classes_`.

        Parameters
        ----------
        X : array-like
            Samples, flat or shaped as in `fit`.
        """
        return np.exp(self.predict_log_proba(X))

    @public
    def predict(self, X: Any) -> Array:
        """Return the predicted labels, (n_samples,).

        Parameters
        ----------
        X : array-like
            Samples, flat or shaped as in `fit`.
        """
        indices = self._outputs(X).argmax(axis=1)
        return self.classes_[indices]

    @public
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        float
        """
        refuse_masked(X=X, y=y, sample_weight=sample_weight)
        return float(super().score(X, y, sample_weight))


@public_class
class LocallyConnectedRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """Regressor of images, sequences or fields: a network of locally connected layers.

    The loss is half the mean squared error, as in scikit-learn's `MLPRegressor`. Parameters and attributes are those of
    `LocallyConnectedClassifier`, except `class_weight` and `classes_`. `alpha` is 0.0001 by default, as there: "auto"
    is a strong penalty for targets much smaller than 1, so scale them first. With ``scoring="loss"``, scores are
    negative losses; with None, coefficients of determination.

    Parameters
    ----------
    filters, kernel_size, strides, padding, groups, weight_sharing, image_shape, activation, implementation, n_threads
        The network; as for `LocallyConnectedClassifier`.
    solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol
        Its training; likewise.
    verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon
        Likewise.
    n_iter_no_change, scoring
        Likewise.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.estimators import LocallyConnectedRegressor
    >>> X = np.random.default_rng(0).standard_normal((200, 6, 5))
    >>> y = X[:, 2, 3] - X[:, 4, 1]
    >>> model = LocallyConnectedRegressor((4,), learning_rate_init=0.02, random_state=0, tol=1e-3).fit(X, y)
    >>> model.score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        filters: Any = (8,),
        *,
        kernel_size: Any = 3,
        strides: Any = 1,
        padding: str = "same",
        groups: Any = 1,
        weight_sharing: Any = None,
        image_shape: tuple[int, ...] | None = None,
        activation: Any = "relu",
        implementation: Any = 1,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        scoring: Any = "loss",
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(locals())

    def __sklearn_tags__(self) -> Any:
        """Return the tags of the estimator."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _loss(self) -> losses.Loss:
        return _HalfSquares()

    def _targets(self, y: Array, classes: Any, fresh: bool) -> tuple[Array, int]:
        goals = y.reshape(len(y), -1)
        if fresh:
            self._flat_targets = y.ndim == 1
        elif goals.shape[1] != self.n_outputs_:
            raise ValueError(f"y must have {self.n_outputs_} outputs, as in the first fit, got {goals.shape[1]}")
        return goals, goals.shape[1]

    @public
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train with one more pass over these samples.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        self
        """
        return self._partial_fit(X, y, None, sample_weight)

    @public
    def predict(self, X: Any) -> Array:
        """Return the predictions, (n_samples,) or (n_samples, n_outputs).

        Parameters
        ----------
        X : array-like
            Samples, flat or shaped as in `fit`.
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if self._flat_targets else outputs

    @public
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination of the predictions.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        float
        """
        refuse_masked(X=X, y=y, sample_weight=sample_weight)
        return float(super().score(X, y, sample_weight))

    def _labels(self, goals: Array) -> Array:
        return goals[:, 0] if self._flat_targets else goals


class _HalfSquares(losses.MeanSquaredError):
    """Half the mean squared error."""

    def __call__(self, y_true: Array, y_pred: Array, weights: Array | None = None) -> tuple[float, Array]:
        value, gradient = super().__call__(y_true, y_pred, weights)
        gradient *= gradient.dtype.type(0.5)
        return value / 2, gradient


def _takes_weights(scorer: Any) -> bool:
    """Whether a scorer takes sample_weight: of scikit-learn by its metric, a function by its parameters."""
    if hasattr(scorer, "_accept_sample_weight"):
        return bool(scorer._accept_sample_weight())
    try:
        # scikit-learn 1.6 has no such method, and its scorers pass all that they are given to their metric.
        parameters = inspect.signature(getattr(scorer, "_score_func", scorer)).parameters
    except (TypeError, ValueError):  # compiled functions may have no signature
        return False
    return "sample_weight" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _alike(one: Any, other: Any, module: Any) -> bool:
    """Whether two parameters are the same object, or equal built-in ones."""
    if one is other:
        return True
    built = [module.get(_ACTIVATIONS.get(x, x) if isinstance(x, str) else x) for x in (one, other)]
    return all(map(module.is_built_in, built)) and bool(built[0] == built[1])


def _refuse_change(name: str, value: Any, was: Any) -> NoReturn:
    """Raise for a changed parameter that the shapes or the meaning of the weights depend on."""
    was = was[0] if isinstance(was, list) and len(was) == 1 else was
    raise ValueError(
        f"{name} cannot be changed from {was!r} to {value!r} once the network is fitted; set it back, or refit with "
        "warm_start=False"
    )


def _unread(layers: Any, shape: tuple[int, ...]) -> int:
    """Number of features of a sample, channels last, that no output of these layers depends on."""
    geometries, inputs = [], (None, *shape)
    for layer in layers:
        geometries.append(layer._geometry_of(inputs))
        inputs = layer.compute_output_shape(inputs)
    read = 1
    for dimension in range(len(shape) - 1):
        needed: Any = slice(None)
        for geometry in reversed(geometries):
            taps = geometry.taps(dimension)[needed]
            needed = np.unique(taps[taps >= 0])
        read *= len(needed) if geometries else shape[dimension]
    return (math.prod(shape[:-1]) - read) * shape[-1]


def _reads_all(layers: Any, shape: tuple[int, ...], padding: str) -> bool:
    """Whether outputs of these layers would depend on all features with this padding."""
    others = [type(layer).from_config({**layer.get_config(), "padding": padding}) for layer in layers]
    try:
        return not _unread(others, shape)
    except ValueError:  # a window larger than its input
        return False


def _stored(X: Any) -> Any:
    """The dtypes in which samples may be stored: the native one of X, float32 for float16, else all of `_STORED`."""
    dtype = getattr(X, "dtype", None)
    if not isinstance(dtype, np.dtype):
        return _STORED
    native = dtype.newbyteorder("=")  # samples from files may have another byte order
    if native == np.float16:
        return np.float32
    return native.type if native != dtype and native in _STORED else _STORED


def _by_layer(name: str, value: Any, layers: int) -> list[Any]:
    """One entry per layer: those of a list, or the same for all."""
    if not isinstance(value, list):
        return [value] * layers
    if len(value) != layers:
        raise ValueError(
            f"{name} must be an integer or tuple for all layers, or a list with one entry for each of {layers} layers, "
            f"got {value!r}"
        )
    return value


def _not_finite(model: Sequential) -> str:
    """What of a trained network is infinite or NaN, in words; empty if nothing is."""
    if not all(np.isfinite(weight).all() for weight in model.live_weights()):
        return "the weights became infinite or NaN"
    states = [state for layer in model.get_training_state() if isinstance(layer, dict) for state in layer.values()]
    arrays = [array for state in states if isinstance(state, dict) for array in state.values()]
    floats = [array for array in arrays if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
    return "" if all(np.isfinite(array).all() for array in floats) else "the solver's state became infinite or NaN"


def _flat(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Shaped samples as a 2-d array, with the shape of a sample; anything else unchanged, with None."""
    if getattr(X, "ndim", 0) <= 2 and not (isinstance(X, list | tuple) and np.ndim(X) > 2):
        return X, None
    values = check_array(X, allow_nd=True, dtype=_stored(X))
    if not 3 <= values.ndim <= 5 or not values[0].size:
        raise ValueError(
            "X must have shape (n_samples, n_features), (n_samples, height, width), (n_samples, height, width, "
            f"channels) or (n_samples, depth, height, width, channels), got {values.shape}"
        )
    return values.reshape(len(values), -1), values.shape[1:]


def __dir__() -> list[str]:
    return __all__
