"""What early stopping and schedules watch: a loss, or a metric of the predictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.losses import Loss
from fastbp.metrics import METRICS

__all__ = ["Metric", "Monitor"]

LOSSES = ("loss", "validation_loss")


@dataclass(frozen=True)
class Metric:
    """A measure of predictions, for `monitor=` of `fastbp.train`.

    Parameters
    ----------
    function : callable
        ``function(targets, predictions) -> float``. Predictions are what the loss says of the
        outputs, in float64: values in the units of y, rates or probabilities, (rows, outputs).
        Targets are those of the user, as the training has them: (rows, outputs), or labels (rows,).
    larger_is_better : bool
    name : str, optional
        In messages; that of the function by default.

    Raises
    ------
    TypeError
        For what cannot be called, for another kind of flag or name.
    """

    function: Callable[[NDArray[Any], NDArray[Any]], float]
    larger_is_better: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            kind = type(self.function).__name__
            raise TypeError(f"function: expected a callable; got {kind}")
        if not isinstance(self.larger_is_better, bool):
            kind = type(self.larger_is_better).__name__
            raise TypeError(f"larger_is_better: expected True or False; got {kind}")
        if not isinstance(self.name, str):
            raise TypeError(f"name: expected a string; got {type(self.name).__name__}")
        name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        object.__setattr__(self, "name", name)

    def evaluate(self, targets: NDArray[Any], predictions: NDArray[Any]) -> float:
        """The metric, checked.

        Parameters
        ----------
        targets, predictions : array
            As for `function`.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            If it is no number, or NaN.
        """
        try:
            found = float(self.function(targets, predictions))
        except (TypeError, ValueError) as error:
            raise type(error)(f"monitor: {self.name} failed: {error}") from error
        if math.isnan(found):
            raise ValueError(f"monitor: expected a number from {self.name}; got NaN")
        return found


@dataclass(frozen=True)
class Monitor:
    """What a run watches.

    Attributes
    ----------
    name : str
        A field of the history (``"loss"``, ``"validation_loss"``), or that of the metric.
    metric : Metric or None
        None for a loss.
    """

    name: str
    metric: Metric | None = None

    @classmethod
    def resolve(cls, monitor: Any, loss: Loss, has_validation: bool) -> Monitor:
        """What a `monitor=` argument means.

        Parameters
        ----------
        monitor : None, str, callable or Metric
            None is the validation loss where there is one, and the training loss otherwise.
        loss : Loss
        has_validation : bool

        Returns
        -------
        Monitor

        Raises
        ------
        TypeError, ValueError
            For what is neither, for unknown names, for a validation loss without validation data,
            and for a metric of classes with a loss that knows none.
        """
        if monitor is None:
            return cls("validation_loss" if has_validation else "loss")
        if isinstance(monitor, Metric):
            return cls(monitor.name, monitor)
        if callable(monitor):
            return cls.resolve(Metric(monitor), loss, has_validation)
        if not isinstance(monitor, str):
            kind = type(monitor).__name__
            raise TypeError(f"monitor: expected a name, a callable or a Metric; got {kind}")
        if monitor in LOSSES:
            if monitor == "validation_loss" and not has_validation:
                raise ValueError("monitor: expected validation data for validation_loss; got none")
            return cls(monitor)
        if monitor not in METRICS:
            names = ", ".join((*LOSSES, *METRICS))
            raise ValueError(f"monitor: expected one of {names}, or a callable; got {monitor!r}")
        function, larger_is_better, targets = METRICS[monitor]
        if loss.targets not in targets:
            raise ValueError(f"monitor: {monitor} is not for targets of the loss {loss.name}")
        return cls(monitor, Metric(function, larger_is_better, monitor))

    @property
    def needs_outputs(self) -> bool:
        """Whether it is a metric of predictions."""
        return self.metric is not None

    def watched(self, row: np.void) -> float:
        """What a row of the history says, as a number that is better the smaller it is."""
        if self.metric is None:
            return float(row[self.name])
        value = float(row["metric"])
        return -value if self.metric.larger_is_better else value
