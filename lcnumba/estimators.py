"""Estimators for scikit-learn (the extra ``lcnumba[sklearn]``): locally connected layers, then a dense one.

Parameters are called as in scikit-learn's `MLPClassifier` where they mean the same. Samples may be flat or shaped as
images. The numbers are computed in float32 if `X` is that, float16, bool, or integers of one or two bytes (all but
float16 are kept as they are and cast batch by batch), else in float64.
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
    raise ImportError(f"{error}; {install('sklearn')} brings what lcnumba.estimators needs") from error


# By the number of axes of a sample with its channels.
_LAYERS: dict[int, type[LocallyConnected]] = {2: LocallyConnected1D, 3: LocallyConnected2D, 4: LocallyConnected3D}
_NO_TARGETS = object()
# Which samples are kept as they are; others become the first of these. The small ones are computed in float32.
_KEPT = (np.float64, np.float32, np.int8, np.uint8, np.int16, np.bool_)
# What MLPClassifier calls activations that have another name here.
_ACTIVATIONS = {"logistic": "sigmoid", "identity": "linear"}
LEAST_RATE = 1e-6  # where an adaptive rate ends, as in MLPClassifier


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: the network and its training."""

    image_shape_: tuple[int, ...]
    model_: Sequential
    loss_curve_: list[float]
    validation_scores_: Any
    filters: Any
    kernel_size: Any
    strides: Any
    padding: Any
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
        """Take the arguments of the subclass' constructor, as they are."""
        for name in self._get_param_names():
            setattr(self, name, given[name])

    # --- what a subclass brings

    def _loss(self) -> losses.Loss:
        """The loss of the network's output."""
        raise NotImplementedError

    def _targets(self, y: Array, classes: Any, fresh: bool) -> tuple[Array, int]:
        """The targets as the loss takes them, and how many outputs they ask for; sets what is fitted of them."""
        raise NotImplementedError

    def _labels(self, goals: Array) -> Array:
        """The reverse of `_targets`: y as the caller knows it."""
        raise NotImplementedError

    def _class_weights(self, goals: Array, partial: bool) -> Array | None:
        """What each sample counts as by its class."""
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
            What each sample counts as; the mean loss is divided by their sum.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If samples, targets, weights or settings cannot be used, or the loss, the weights or the solver's state are
            no longer finite. After this and any other exception, KeyboardInterrupt too, the estimator is as it was, and
            so is a RandomState given as `random_state`.
        """
        self._check_settings()
        fresh = not self.warm_start or not hasattr(self, "model_")
        self._train(X, y, None, sample_weight, integer("max_iter", self.max_iter), fresh)
        return self

    def _partial_fit(self, X: Any, y: Any, classes: Any, sample_weight: Any) -> Self:
        if self.early_stopping:
            raise ValueError("early_stopping=True cannot be used with partial_fit; set it to False")
        self._train(X, y, classes, sample_weight, None, not hasattr(self, "model_"))
        return self

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)

    def _train(self, X: Any, y: Any, classes: Any, sample_weight: Any, epochs: int | None, fresh: bool) -> None:
        """Train, from the beginning if `fresh`; what fails, or is interrupted, leaves the estimator as it was.

        A network that is trained further is a copy, with all that belongs to its training, and so are the lists: what
        is thrown away then need not be brought back piece by piece. The copy costs its memory during the call.
        """
        before, random = dict(self.__dict__), self.random_state
        drawn = random.get_state() if isinstance(random, np.random.RandomState) else None
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
                if drawn is not None:
                    random.set_state(drawn)
            raise

    def _train_checked(self, X: Any, y: Any, classes: Any, sample_weight: Any, epochs: int | None, fresh: bool) -> None:
        if fresh:
            self._forget()
        self._check_settings()
        if not (self.early_stopping or (isinstance(self.scoring, str) and self.scoring == "loss")):
            warn(
                f"scoring={self.scoring!r} is not used without early_stopping=True; give that too, or leave it out",
                UserWarning,
            )
        refuse_masked(sample_weight=sample_weight, classes=classes)
        values, targets, shape = self._validated(X, y, fresh)
        goals, outputs = self._targets(targets, classes, fresh)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True)
        counted, by_class = weights, self._class_weights(goals, epochs is None)
        if by_class is not None:
            weights = by_class if weights is None else weights * by_class
        if weights is not None and not weights.sum() > 0:
            raise ValueError("sample_weight, times class_weight, is 0 everywhere; at least one sample must count")
        random = check_random_state(self.random_state)
        if fresh:
            self.image_shape_ = shape
        held = None
        if self.early_stopping and epochs is not None:
            values, goals, weights, held = self._held_out(values, goals, weights, counted, random)
            if weights is not None and not min(weights.sum(), held[2].sum()) > 0:
                raise ValueError(
                    f"sample_weight is 0 everywhere on one side of the split for early_stopping; give a "
                    f"validation_fraction other than {self.validation_fraction!r}, or more samples that count"
                )
        size = self._batch_size(len(values))
        average = 1.0 if weights is None else float(weights.mean())
        if fresh:
            dtype = values.dtype.name if values.dtype.kind == "f" else "float32"
            self._begin(dtype, outputs, average * size, average * len(values), random)
        else:
            self._go_on(average * size, average * len(values))
        if weights is not None:
            weights = weights / weights.mean()
        follow = _Follow(self, held, len(values), partial=epochs is None)
        with warnings.catch_warnings(), compilation.listening(follow.tell_compiling):
            warnings.filterwarnings("ignore", "the loss is", RuntimeWarning)  # told below, and to all by an error
            self.model_.fit(
                self._shaped(values), goals, loss=self._loss(), epochs=epochs or 1, batch_size=size,
                lr=follow.rate, sample_weight=weights, shuffle=boolean("shuffle", self.shuffle),
                rng=random.randint(2**31 - 1), callbacks=[follow], progress=False,
            )  # fmt: skip
        # A last step may have spoiled what no loss has seen: the weights, or a state that the next step would use.
        spoiled = f"the loss became {self.loss_}" if not math.isfinite(self.loss_) else _spoiled(self.model_)
        if spoiled:
            raise ValueError(
                f"{spoiled}; scale X and y to about 1, for instance with StandardScaler, or lower "
                f"learning_rate_init={self.learning_rate_init!r}"
            )
        if epochs is not None and epochs == follow.epochs and not follow.converged:
            warn(
                f"training ended after max_iter={epochs} passes and has not converged yet; give a larger max_iter, or "
                f"a larger tol={self.tol!r} or learning_rate_init={self.learning_rate_init!r} to end it sooner",
                ConvergenceWarning,
            )

    def _check_settings(self) -> None:
        """Raise what the layers and `fit` would not."""
        rules = ("constant", "invscaling", "adaptive")
        if not (isinstance(self.learning_rate, str) and self.learning_rate in rules):
            raise ValueError(
                f"learning_rate={self.learning_rate!r} is not known; give one of {', '.join(map(repr, rules))}; the "
                "rate itself is learning_rate_init"
            )
        if isinstance(self.n_threads, Integral) and self.n_threads < 1:
            raise ValueError(
                f"n_threads={self.n_threads!r} is too small; give an integer of at least 1, or None for all"
            )
        if real("learning_rate_init", self.learning_rate_init) <= 0:
            raise ValueError(f"learning_rate_init={self.learning_rate_init!r} cannot be used; give a number above 0")
        if not self._auto() and real("alpha", self.alpha) < 0:
            raise ValueError(f"alpha={self.alpha!r} cannot be used; give a number of at least 0, or 'auto'")
        integer("n_iter_no_change", self.n_iter_no_change)
        real("momentum", self.momentum)
        # (1 + samples seen) to a greater power is more than a number can hold.
        if not 0 <= real("power_t", self.power_t) <= 16:
            raise ValueError(f"power_t={self.power_t!r} cannot be used; give a number from 0 to 16")
        for name in ("early_stopping", "warm_start"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name}={getattr(self, name)!r} cannot be used; give True or False")
        for name, kind in (("filters", "an integer, or a tuple of integers"), ("image_shape", "a tuple of integers")):
            value = getattr(self, name)
            several = isinstance(value, list | tuple | range) or getattr(value, "ndim", None) == 1
            if not (several or (isinstance(value, Integral) if name == "filters" else value is None)):
                raise TypeError(f"{name}={value!r} cannot be used; give {kind}")
        real("tol", self.tol)
        if not (self.scoring is None or isinstance(self.scoring, str) or callable(self.scoring)):
            raise TypeError(
                f"scoring={self.scoring!r} cannot be used; give 'loss', the name of a scorer of scikit-learn, a "
                "function (estimator, X, y) -> float, or None for the estimator's own score"
            )
        if self.early_stopping and self.scoring != "loss":
            check_scoring(self, self.scoring)
        if not 0 < real("validation_fraction", self.validation_fraction) < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction!r} cannot be used; give one within 0 and 1"
            )

    def _auto(self) -> bool:
        """Whether the penalty is chosen by the number of samples."""
        return isinstance(self.alpha, str) and self.alpha == "auto"

    def _batch_size(self, samples: int) -> int:
        if isinstance(self.batch_size, str):
            choice("batch_size", self.batch_size, ("auto",))
            return min(200, samples)
        return min(integer("batch_size", self.batch_size), samples)

    def _held_out(self, values: Array, goals: Array, weights: Any, counted: Any, random: Any) -> tuple[Any, ...]:
        """What is trained on, and what is kept for validation."""
        stratify = goals if is_classifier(self) else None
        numbers = np.arange(len(values))
        kept, held = train_test_split(
            numbers, test_size=self.validation_fraction, random_state=random, stratify=stratify
        )
        arrays = (values, goals, weights, counted)
        parts = [None if array is None else (array[kept], array[held]) for array in arrays]
        trained = [None if part is None else part[0] for part in parts[:3]]
        return *trained, [None if part is None else part[1] for part in parts]

    def _begin(self, dtype: str, outputs: int, batch: float, samples: float, random: Any) -> None:
        """Make the network, with fresh weights; `batch` and `samples` are what a batch, and all samples, count as."""
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
        """The settings of a network that its layers do not tell, to see later whether they have changed."""
        # A batch's size belongs to a penalty that is divided by it.
        penalty = "auto" if self._auto() else (self.alpha, self.batch_size)
        return {"penalty": penalty, "activation": self.activation, "solver": self._optimizer()}

    def _go_on(self, batch: float, samples: float) -> None:
        """Apply settings that have changed since the network was made, or refuse them."""
        old, made = self.model_, self._made()
        output: Any = old.layers[-1]
        before = getattr(self, "_made_with", made)
        penalty = output.kernel_regularizer
        if made["penalty"] != before["penalty"]:
            penalty = self._penalty(batch, samples)
        new = self._network(output.dtype, self.n_outputs_, penalty, np.random.default_rng(0))
        locals_: Any = old.layers[:-2], new.layers[:-2]
        for name in ("filters", "kernel_size", "strides", "padding"):
            was, wanted = ([getattr(layer, name) for layer in layers] for layers in locals_)
            if was != wanted:
                _refuse_change(name, getattr(self, name), was)
        if not _alike(before["activation"], made["activation"], activations):
            _refuse_change("activation", self.activation, before["activation"])
        rebuilt = made["penalty"] != before["penalty"] or any(
            one.implementation != other.implementation for one, other in zip(*locals_, strict=True)
        )
        if rebuilt:  # regularizers and implementations of built layers do not change
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
        """Half the square, divided by the samples of a batch, as in MLPClassifier; or by all, as LogisticRegression."""
        strength = 0.5 / samples if self._auto() else 0.5 * self.alpha / batch
        return regularizers.L2(strength) if strength else None

    def _network(self, dtype: str, outputs: int, penalty: Any, rng: np.random.Generator) -> Sequential:
        """The layers that the settings ask for, not yet built."""
        settings: dict[str, Any] = {"dtype": dtype, "rng": rng, "kernel_regularizer": penalty}
        given = (self.filters,) if isinstance(self.filters, Integral) else self.filters
        hidden = int_tuple("filters", tuple(given), len(given))
        windows = _by_layer("kernel_size", self.kernel_size, len(hidden))
        strides = _by_layer("strides", self.strides, len(hidden))
        kind = _LAYERS[len(self._sample_shape())]
        activation = self.activation
        if isinstance(activation, str):
            activation = _ACTIVATIONS.get(activation, activation)
        layers: list[Any] = [
            kind(
                count, windows[number], windows[number] if strides[number] is None else strides[number], self.padding,
                activation=activation, fans="window", implementation=self.implementation, data_format="channels_last",
                n_threads=self.n_threads, name=f"local_{number}", **settings,
            )
            for number, count in enumerate(hidden)
        ]  # fmt: skip
        # From 0 on, as a linear model: what random weights say about thousands of inputs that mean nothing would stay.
        layers += [Flatten(name="flatten"), Dense(outputs, name="output", kernel_initializer="zeros", **settings)]
        return Sequential(layers, name=type(self).__name__)

    def _warn_of_unread(self, layers: Any) -> None:
        """Tell how many features no window of the first layer, or none that later layers read, holds."""
        shape = self._sample_shape()
        total, unread = math.prod(shape), _unread(layers, shape)
        if not unread:
            return
        remedy = "give smaller strides, or a larger kernel_size"
        if any(
            step > window for layer in layers for step, window in zip(layer.strides, layer.kernel_size, strict=True)
        ):
            remedy = "give strides of at most kernel_size; strides=None is as large as the window"
        elif other := next((padding for padding in ("valid", "same") if _reads_all(layers, shape, padding)), None):
            remedy = f"padding={other!r} reads them all"
        warn(
            f"{unread} of {total} features are in no window and count for nothing, with kernel_size="
            f"{self.kernel_size!r}, strides={self.strides!r} and padding={self.padding!r}; {remedy}",
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
        """Samples as a table, targets if there are any, and the shape of a sample."""
        refuse_masked(X=X, y=y)
        X, shape = _flat(X)
        rules: dict[str, Any] = {"dtype": _kept(X), "reset": fresh}
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
            raise ValueError(f"X has samples of shape {shape}, and image_shape={self.image_shape!r}; leave it out")
        if not fresh and shape != self.image_shape_:
            if self.image_shape is not None:
                _refuse_change("image_shape", self.image_shape, self.image_shape_)
            raise ValueError(
                f"X has samples of shape {shape}; the network was made for {self.image_shape_}: give samples in the "
                "form that the first fit was given"
            )
        return values, targets, shape

    def _sample_shape(self) -> tuple[int, ...]:
        """The shape of a sample with its channels."""
        return self.image_shape_ if len(self.image_shape_) > 2 else (*self.image_shape_, 1)

    def _shaped(self, values: Array) -> Array:
        return values.reshape(len(values), *self._sample_shape())

    def _outputs(self, X: Any) -> Array:
        """The network's output for samples of any form."""
        check_is_fitted(self, "model_")
        values, _, _ = self._validated(X)
        return self.model_.predict(self._shaped(values))

    def _held_score(self, held: list[Any]) -> float:
        """The score on what is kept for validation."""
        values, goals, weights, counted = held
        if self.scoring == "loss":
            outputs = self.model_.predict(self._shaped(values))
            return -self._loss()(goals, outputs, None if weights is None else weights / weights.mean())[0]
        samples, given = values.reshape(len(values), *self.image_shape_), {}
        scorer = check_scoring(self, self.scoring)
        if counted is not None and _takes_weights(scorer):
            given["sample_weight"] = counted
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
            score = float(scorer(self, samples, self._labels(goals), **given))
        if math.isnan(score):
            raise ValueError(
                f"scoring={self.scoring!r} is NaN on the samples kept for validation; give a "
                f"validation_fraction other than {self.validation_fraction!r}, or more samples"
            )
        return score


class _Follow(Callback):
    """What MLPClassifier does after each pass: losses, scores, rates, and when to end."""

    def __init__(self, estimator: _Estimator, held: Any, samples: int, partial: bool) -> None:
        self._of, self._held, self._samples, self._partial = estimator, held, samples, partial
        self._waited, self._best_weights, self.epochs, self.converged = 0, None, 0, False
        self._best = math.inf  # the smallest loss of this call
        self._told = False

    def tell_compiling(self) -> None:
        """Say once, if anything is said, why the first pass takes long."""
        if self._of.verbose and not self._told:
            print(compilation.NOTICE)
        self._told = True

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, unless it adapts."""
        estimator = self._of
        first = float(estimator.learning_rate_init)
        if estimator.learning_rate == "invscaling":
            return first / (1 + estimator.t_) ** float(estimator.power_t)
        return first

    def on_train_begin(self, run: Any) -> None:
        """Forget what an earlier fit has waited for."""
        estimator, stopping = self._of, self._held is not None
        estimator.best_loss_ = None if stopping else min(estimator.loss_curve_, default=math.inf)
        estimator.validation_scores_ = (estimator.validation_scores_ or []) if stopping else None
        estimator.best_validation_score_ = -math.inf if stopping else None

    def on_epoch_end(self, run: Any, figures: dict[str, float]) -> None:
        """Write down the pass, and end the training if it was in vain."""
        estimator, loss = self._of, figures["loss"]
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
            gained = score >= estimator.best_validation_score_ + estimator.tol
            if score > estimator.best_validation_score_:
                estimator.best_validation_score_ = score
                self._best_weights = run.model.get_weights()
        else:
            gained = loss <= self._best - estimator.tol
            self._best = min(loss, self._best)
            estimator.best_loss_ = min(loss, estimator.best_loss_)
        self._waited = 0 if gained else self._waited + 1
        if self._partial or self._waited <= estimator.n_iter_no_change:
            return
        sgd = isinstance(estimator.solver, str) and estimator.solver.lower() == "sgd"
        if estimator.learning_rate == "adaptive" and sgd and run.lr > LEAST_RATE:
            run.lr, self._waited = run.lr / 5, 0
            return
        self.converged = True
        run.stop()

    def on_train_end(self, run: Any) -> None:
        """Go back to what did best on the samples kept for validation."""
        if self._best_weights is not None:
            run.model.set_weights(self._best_weights)


@public_class
class LocallyConnectedClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """Classify images, sequences or fields by a network of locally connected layers.

    The loss is the cross-entropy of a softmax over the classes.

    Parameters
    ----------
    filters : int or sequence of int, default (8,)
        Filters of each locally connected layer.
    kernel_size, strides : int, tuple or list, default 3 and 1
        The window of these layers, as for `LocallyConnected2D`: an integer or a tuple is the window of all layers, a
        list holds one entry (an integer or a tuple) for each of them. ``(20, 5)``: a window of 20 rows and 5 columns
        in every layer; ``[20, 5]``: 20 in the first layer and 5 in the second. Strides of None are as large as the
        window: windows side by side, whatever `kernel_size` is. Features that no window reads are a UserWarning.
    padding, implementation
        Of all layers, as for `LocallyConnected2D`; the default padding is "same".
    image_shape : tuple of int, optional
        How flat samples are to be seen: (length,), (height, width), (height, width, channels), or (depth, height,
        width, channels). By default as sequences. Left out if `X` is shaped, (n_samples, height, width) and so on.
    activation : str or object, default "relu"
        Of the locally connected layers; MLPClassifier's "logistic" and "identity" are "sigmoid" and "linear".
    solver : {"adam", "sgd"} or optimizer, default "adam"
        How weights are stepped.
    alpha : float or "auto", default "auto"
        The penalty of weights. A number is what it is in `MLPClassifier`: half of it is the factor of the squared
        weights in the loss of a batch, divided by its samples. "auto": half the squared weights, divided by all samples
        of the first fit, which is the penalty of `LogisticRegression` with its default ``C=1``. It is fixed by the
        first fit, until `alpha` changes.
    batch_size : int, default "auto"
        Samples of a step; "auto": 200, or all if there are fewer.
    learning_rate : {"constant", "invscaling", "adaptive"}
        "invscaling": ``learning_rate_init / (1 + t_) ** power_t``, after each pass. "adaptive", with "sgd": a fifth
        whenever the training would end otherwise.
    learning_rate_init, power_t, max_iter, shuffle, tol, verbose, warm_start, momentum
        As in scikit-learn's `MLPClassifier`; `max_iter` counts passes over the samples, `power_t` is at most 16, and
        `verbose` prints the loss of each pass, and once that kernels are compiled. With `warm_start`, and by
        `partial_fit`, changed settings hold from the next call on: a changed `alpha`, or its `batch_size`, is a new
        penalty, a changed solver begins with fresh state, and changed filters, windows, activations or `image_shape`
        are a ValueError.
    class_weight : dict, "balanced" or None, default None
        What the samples of a class count as: by label, 1 where there is none; "balanced": the same for every class
        together. `sample_weight` is multiplied by it.
    random_state, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change
        As there.
    scoring : str, callable or None, default "loss"
        What `early_stopping` goes by, on the samples that are kept for validation: "loss" is the cross-entropy,
        negative; else the name of a scorer of scikit-learn ("roc_auc", "balanced_accuracy", ...), a function
        ``(estimator, X, y) -> float``, or None for `score`. Larger is better. Accuracy is of no use with rare classes.
        One that takes `sample_weight` is given that of these samples. Not used, with a UserWarning, without
        `early_stopping`.
    n_threads : int, optional
        Of the locally connected layers; by default as many as Numba uses.

    Attributes
    ----------
    classes_ : array
        The labels.
    model_ : Sequential
        The network.
    loss_, best_loss_ : float
        The last and the smallest mean loss of a pass; the second is None with early stopping.
    loss_curve_ : list of float
        The mean losses of all passes.
    validation_scores_, best_validation_score_
        What `scoring` says of the samples kept for validation, with early stopping; else None.
    image_shape_ : tuple of int
        The shape of a sample.
    n_iter_, t_ : int
        Passes, and samples seen.
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
            raise ValueError(f"classes={classes!r} are not those of the first call, {self.classes_}")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has the labels {unknown}, which are not among the classes {self.classes_}")
        return np.searchsorted(self.classes_, y), len(self.classes_)

    @public
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Go on training with one pass over these samples.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array-like
            At the first call: all labels that will ever come.

        Returns
        -------
        self
        """
        if classes is None and not hasattr(self, "model_"):
            raise ValueError("classes must be given at the first call of partial_fit: all labels that will ever come")
        return self._partial_fit(X, y, classes, sample_weight)

    def _labels(self, goals: Array) -> Array:
        return self.classes_[goals]

    def _class_weights(self, goals: Array, partial: bool) -> Array | None:
        given, y = self.class_weight, self.classes_[goals]
        if given is None:
            return None
        if isinstance(given, Mapping):
            if not all(math.isfinite(real("class_weight", weight)) and weight >= 0 for weight in given.values()):
                raise ValueError(f"class_weight={given!r} cannot be used; give finite weights of at least 0")
            unknown = [label for label in given if label not in self.classes_.tolist()]
            if unknown:
                raise ValueError(
                    f"class_weight={given!r} has labels {unknown} that are not among the classes "
                    f"{self.classes_.tolist()}; leave them out"
                )
            return compute_class_weight(dict(given), classes=self.classes_, y=y)[goals].astype(np.float64)
        if not (isinstance(given, str) and given == "balanced"):
            raise ValueError(f"class_weight={given!r} cannot be used; give a dict of labels, 'balanced' or None")
        if partial:
            raise ValueError(
                "class_weight='balanced' cannot be used with partial_fit, which does not see all samples; give a dict"
            )
        return np.asarray(compute_sample_weight("balanced", y))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of the probabilities, (n_samples, n_classes).

        Parameters
        ----------
        X : array-like
            Samples, flat or shaped as those of `fit`.
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
            Samples, flat or shaped as those of `fit`.
        """
        return np.exp(self.predict_log_proba(X))

    @public
    def predict(self, X: Any) -> Array:
        """Return the labels, (n_samples,).

        Parameters
        ----------
        X : array-like
            Samples, flat or shaped as those of `fit`.
        """
        numbers = self._outputs(X).argmax(axis=1)
        return self.classes_[numbers]

    @public
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy: the share of samples whose label is predicted.

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
    """Predict numbers from images, sequences or fields by a network of locally connected layers.

    The loss is the mean of half the squared error, as in scikit-learn's `MLPRegressor`. All parameters and attributes
    are those of `LocallyConnectedClassifier`, but for `class_weight` and `classes_`. `alpha` is 0.0001 by default, as
    there: "auto" is a strong penalty where targets are small numbers, so scale them to about 1 before. With "loss",
    scores are half the mean squared errors, negative; with None, coefficients of determination.

    Parameters
    ----------
    filters, kernel_size, strides, padding, image_shape, activation, implementation, n_threads
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
        """Say what the estimator can do."""
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
            raise ValueError(f"y has {goals.shape[1]} outputs; the network was made for {self.n_outputs_}")
        return goals, goals.shape[1]

    @public
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go on training with one pass over these samples.

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
            Samples, flat or shaped as those of `fit`.
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
    """Whether a scorer can be given sample_weight: one of scikit-learn by its metric, a function by its arguments."""
    if hasattr(scorer, "_accept_sample_weight"):
        return bool(scorer._accept_sample_weight())
    try:
        parameters = inspect.signature(scorer).parameters
    except (TypeError, ValueError):  # compiled code may not tell
        return False
    return "sample_weight" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _alike(one: Any, other: Any, module: Any) -> bool:
    """Whether two settings are the same object, or ones of the library's own that are equal."""
    if one is other:
        return True
    built = [module.get(_ACTIVATIONS.get(x, x) if isinstance(x, str) else x) for x in (one, other)]
    return all(map(module.is_built_in, built)) and bool(built[0] == built[1])


def _refuse_change(name: str, value: Any, was: Any) -> NoReturn:
    """Raise for a setting that the weights of a network depend on."""
    was = was[0] if isinstance(was, list) and len(was) == 1 else was
    raise ValueError(
        f"{name}={value!r} does not fit the network, which was made with {name}={was!r}; set it back, or begin anew "
        "with warm_start=False and fit"
    )


def _unread(layers: Any, shape: tuple[int, ...]) -> int:
    """How many features of samples of a shape, its channels last, no output of these layers depends on."""
    geometries, inputs = [], (None, *shape)
    for layer in layers:
        geometries.append(layer._geometry_of(inputs))
        inputs = layer.compute_output_shape(inputs)
    read = 1
    for dimension in range(len(shape) - 1):
        needed: Any = slice(None)
        for geometry in reversed(geometries):
            taps = geometry._taps(dimension)[needed]
            needed = np.unique(taps[taps >= 0])
        read *= len(needed) if geometries else shape[dimension]
    return (math.prod(shape[:-1]) - read) * shape[-1]


def _reads_all(layers: Any, shape: tuple[int, ...], padding: str) -> bool:
    """Whether these layers would read all features with this padding."""
    others = [type(layer).from_config({**layer.get_config(), "padding": padding}) for layer in layers]
    try:
        return not _unread(others, shape)
    except ValueError:  # a window larger than its input
        return False


def _kept(X: Any) -> Any:
    """The dtypes that samples are kept in; float16 becomes the first of them that holds it."""
    dtype = getattr(X, "dtype", None)
    if not isinstance(dtype, np.dtype):
        return _KEPT
    native = dtype.newbyteorder("=")  # samples from files may be in the other order of bytes
    if native == np.float16:
        return np.float32
    return native.type if native != dtype and native in _KEPT else _KEPT


def _by_layer(name: str, value: Any, layers: int) -> list[Any]:
    """An entry for each layer: those of a list, or one that is meant for all."""
    if not isinstance(value, list):
        return [value] * layers
    if len(value) != layers:
        raise ValueError(
            f"{name}={value!r} has {len(value)} entries, and filters asks for {layers} layers; give a list of one "
            "entry a layer, or one integer or tuple for all of them"
        )
    return value


def _spoiled(model: Sequential) -> str:
    """What of a network is not finite any more, in words; nothing if all is."""
    if not all(np.isfinite(weight).all() for weight in model.live_weights()):
        return "the weights became infinite or NaN"
    states = [state for layer in model.get_training_state() if isinstance(layer, dict) for state in layer.values()]
    arrays = [array for state in states if isinstance(state, dict) for array in state.values()]
    kept = [array for array in arrays if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
    return "" if all(np.isfinite(array).all() for array in kept) else "the solver's state became infinite or NaN"


def _flat(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Shaped samples as a table, with their shape; anything else as it is."""
    if getattr(X, "ndim", 0) <= 2 and not (isinstance(X, list | tuple) and np.ndim(X) > 2):
        return X, None
    values = check_array(X, allow_nd=True, dtype=_kept(X))
    if not 3 <= values.ndim <= 5 or not values[0].size:
        raise ValueError(
            f"X has shape {values.shape}; give (n_samples, n_features), (n_samples, height, width), with a last axis "
            "of channels, or with a depth before them"
        )
    return values.reshape(len(values), -1), values.shape[1:]


def __dir__() -> list[str]:
    return __all__
