"""Loss and metrics of a model on data."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lcnumba import losses
from lcnumba.callbacks import Logs
from lcnumba.metrics import Metric, needs_all_samples
from lcnumba.protocol import Model
from lcnumba.training.config import TrainingConfig, config_of_call
from lcnumba.training.data import Batch
from lcnumba.training.inputs import Data, dataset
from lcnumba.utils.arrays import read_only
from lcnumba.utils.messages import warn
from lcnumba.utils.types import Array
from lcnumba.utils.validation import integer

__all__ = ["BatchResult", "RunningMean", "evaluate", "evaluate_batches", "loss_and_metrics", "value_and_slope"]

Collected = dict[str, tuple[Array, ...]]


class BatchResult(NamedTuple):
    """Loss and metrics of a batch.

    Attributes
    ----------
    logs : dict of str to float
        Loss and metrics that are averaged over batches.
    collected : dict of str to tuple of arrays
        What `metric.collect` returned, of metrics that need all samples.
    penalty : float
        The part of the loss that regularizers add.
    """

    logs: Logs
    collected: Collected
    penalty: float

    def all_logs(self, metrics: Mapping[str, Metric]) -> Logs:
        """Loss and all metrics of this batch."""
        return self.logs | _compute(metrics, self.collected)


class RunningMean:
    """Mean of loss and metrics over batches, weighted by samples; also what metrics of all samples have collected."""

    def __init__(self, samples: int = 0, sums: Logs | None = None, collected: Collected | None = None) -> None:
        self.samples = samples
        self.sums = sums or {}
        self.penalty = 0.0  # summed like the loss
        self._collected = {name: [arrays] for name, arrays in (collected or {}).items()}

    def add(self, samples: int, result: BatchResult) -> None:
        """Add a batch."""
        self.samples += samples
        self.penalty += result.penalty * samples
        for name, value in result.logs.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples
        for name, arrays in result.collected.items():
            self._collected.setdefault(name, []).append(arrays)

    def collected(self) -> Collected:
        """What metrics of all samples have collected, concatenated over batches."""
        return {
            name: tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            for name, parts in self._collected.items()
        }

    def result(self, metrics: Mapping[str, Metric] | None = None) -> Logs:
        """The means and, if metrics are given, the values of those that need all samples."""
        means = {name: total / self.samples for name, total in self.sums.items()}
        return means if metrics is None else means | _compute(metrics, self.collected())


def _compute(metrics: Mapping[str, Metric], collected: Collected) -> Logs:
    """Values of the metrics that need all samples."""
    logs: Logs = {}
    for name, metric in metrics.items():
        if name in collected and needs_all_samples(metric):
            logs[name] = float(metric.compute(*collected[name]))
    return logs


def evaluate(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    loss: Any = None,
    metrics: Iterable[Any] | None = None,
    sample_weight: Any = None,
    batch_size: int = 256,
) -> Logs:
    """Loss and metrics of a model on data; `lcnumba.Sequential.evaluate` documents the arguments."""
    with model.share.together():
        config = config_of_call(model, loss, metrics)
        size = integer("batch_size", batch_size)
        data = dataset(model, config, x, y, sample_weight, size, None)
    return evaluate_batches(model, data, config, warn_of_loss=True)


def loss_and_metrics(
    model: Model, activity: float, batch: Batch, prediction: Array, config: TrainingConfig, warn_of_loss: bool = False
) -> tuple[BatchResult, Array]:
    """Loss and metrics of a batch, and the gradient of the loss, without penalties, by the prediction.

    The loss and the metrics get read-only arrays: backward uses the prediction, and y may be the user's own array.
    """
    y, view, share = read_only(batch.y), read_only(prediction), model.share
    value, dy = value_and_slope(config.loss, share.loss(config.loss, y, view, batch.weights))
    if warn_of_loss and (text := share.doubt(config.loss, view)) is not None:
        warn(text)
    penalty = model.penalties() + activity
    logs, collected = {"loss": value + penalty}, {}
    if isinstance(config.loss, losses.Masked) and config.metrics:
        y = read_only(config.loss.with_unknown(y, view))
    for name, metric in config.metrics.items():
        if needs_all_samples(metric):
            # Copied, because a generator of batches may reuse its arrays.
            collected[name] = tuple(np.array(array) for array in share.collect(metric, y, view))
            continue
        found = share.metric(metric, y, view)
        try:
            logs[name] = float(found)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"metric {name!r} must return a scalar, got {found!r:.80} of type {type(found).__name__}"
            ) from error
    return BatchResult(logs, collected, penalty), dy


def value_and_slope(loss: Any, found: Any) -> tuple[float, Any]:
    """What a loss has returned, as a number and the gradient; a TypeError if it is no such pair."""
    try:
        value, dy = found
        return float(value), dy
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"loss {loss!r} must return a pair (value, dy_pred) with a scalar value, got {found!r:.80}"
        ) from error


def evaluate_batches(model: Model, data: Data, config: TrainingConfig, warn_of_loss: bool = False) -> Logs:
    """Loss and metrics over all batches."""
    mean = RunningMean()
    for batch in model.share.batches(data.batches()):
        prediction, activity = model.call_penalised(batch.x)
        first = warn_of_loss and not mean.samples
        mean.add(len(batch.x), loss_and_metrics(model, activity, batch, prediction, config, first)[0])
    if not mean.samples:
        raise ValueError("the evaluation data has no batches; at least one is required")
    return mean.result(config.metrics)
