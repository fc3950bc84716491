"""Losses: the settings that users see and, beside them, the law that is compiled.

An element-wise loss has ``law(output, target, settings) -> (loss, derivative)``, the derivative by
the output. The loss of a row is the mean over its outputs; the loss of a batch is
``sum_i w_i loss_i / sum_i w_i``. Cross-entropy couples the outputs of a row, so its mathematics is
a kernel of each backend and its entry here says only what it takes.

Label smoothing is a law or a kernel of its own: who does not ask for it runs what has none of it.

A new element-wise loss is one class here (or in user code).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastbp.elementary import constant, exp, log1p, sigmoid, tanh
from fastbp.registry import Named, finite

__all__ = ["Loss"]


class Loss(Named):
    """What training makes small, by name or as an object with settings.

    Attributes
    ----------
    law : callable or None
        ``law(output, target, settings) -> (loss, derivative)`` on scalars; None for a loss that
        couples the outputs of a row.
    targets : str
        What y may hold: ``"real"``, ``"count"`` (not negative), ``"probability"`` (in [0, 1]),
        ``"sign"`` (-1 or 1) or ``"class"`` (integers from 0, one a row).
    """

    targets: ClassVar[str] = "real"
    law: ClassVar[Callable[..., Any] | None] = None

    @property
    def kernel(self) -> str:
        """Which of the backends' kernels works it out."""
        return "elementwise_loss"

    def response(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """What the outputs say in the target's units (rates, probabilities), in float64."""
        return np.asarray(outputs, dtype=np.float64)


@dataclass(frozen=True)
class Mse(Loss):
    """Squared error, (o - y)**2."""

    @staticmethod
    def law(output, target, settings):
        residual = output - target
        return residual * residual, residual + residual


@dataclass(frozen=True)
class Mae(Loss):
    """Absolute error, abs(o - y); the derivative at o = y is 0."""

    @staticmethod
    def law(output, target, settings):
        zero = constant(0.0, output)
        one = constant(1.0, output)
        residual = output - target
        if residual > zero:
            return residual, one
        if residual < zero:
            return -residual, -one
        return residual, residual  # zero, or a NaN that must stay visible


@dataclass(frozen=True)
class Huber(Loss):
    """r**2 / 2 for abs(r) <= delta, delta * (abs(r) - delta / 2) beyond; r = o - y.

    Source: Huber, Robust estimation of a location parameter, 1964.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        finite("delta", self.delta, 0.0, open_low=True)

    @staticmethod
    def law(output, target, settings):
        (delta,) = settings
        half = constant(0.5, output)
        residual = output - target
        if residual > delta:
            return delta * (residual - half * delta), delta
        if residual < -delta:
            return delta * (-residual - half * delta), -delta
        return half * residual * residual, residual


@dataclass(frozen=True)
class LogCosh(Loss):
    """log(cosh(o - y)), computed as abs(r) + log(1 + exp(-2 abs(r))) - log(2)."""

    @staticmethod
    def law(output, target, settings):
        zero = constant(0.0, output)
        residual = output - target
        magnitude = -residual if residual < zero else residual
        fall = log1p(exp(-(magnitude + magnitude)))
        return magnitude + (fall - constant(0.69314718055994530942, output)), tanh(residual)


@dataclass(frozen=True)
class Quantile(Loss):
    """max(q * (y - o), (q - 1) * (y - o)): the minimum is the q-quantile of y given x.

    Source: Koenker and Bassett, Regression quantiles, 1978. At o = y the derivative is the mean of
    its two sides.
    """

    quantile: float = 0.5

    def __post_init__(self) -> None:
        finite("quantile", self.quantile, 0.0, 1.0, open_low=True, open_high=True)

    @staticmethod
    def law(output, target, settings):
        (quantile,) = settings
        zero = constant(0.0, output)
        one = constant(1.0, output)
        residual = target - output
        if residual > zero:
            return quantile * residual, -quantile
        if residual < zero:
            return (quantile - one) * residual, one - quantile
        return residual, residual + (constant(0.5, output) - quantile)


@dataclass(frozen=True)
class Poisson(Loss):
    """exp(o) - y * o: the negative log-likelihood of a Poisson count, up to a term in y alone.

    The network's output is the logarithm of the rate.
    """

    targets: ClassVar[str] = "count"

    def response(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Rates, exp(o)."""
        return np.asarray(np.exp(super().response(outputs)))

    @staticmethod
    def law(output, target, settings):
        rate = exp(output)
        return rate - target * output, rate - target


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """-y log(sigmoid(o)) - (1 - y) log(1 - sigmoid(o)), from the logit o, y in [0, 1].

    With label smoothing s, y (1 - s) + s / 2 stands for y.

    Parameters
    ----------
    label_smoothing : float
        In [0, 1).

    Raises
    ------
    TypeError, ValueError
        For anything that is not such a number.

    Source: Szegedy et al., Rethinking the Inception architecture for computer vision, 2016.
    """

    targets: ClassVar[str] = "probability"

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        finite("label_smoothing", self.label_smoothing, 0.0, 1.0, open_high=True)
        if self.label_smoothing:
            object.__setattr__(self, "law", self.smoothed_law)

    @property
    def settings(self) -> tuple[float, ...]:
        """The label smoothing, if there is some."""
        return super().settings if self.label_smoothing else ()

    def response(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Probabilities, 1 / (1 + exp(-o))."""
        from scipy.special import expit

        return np.asarray(expit(super().response(outputs)))

    @staticmethod
    def law(output, target, settings):
        zero = constant(0.0, output)
        magnitude = -output if output < zero else output
        positive = zero if output < zero else output
        return (
            positive - output * target + log1p(exp(-magnitude)),
            sigmoid(output) - target,
        )

    @staticmethod
    def smoothed_law(output, target, settings):
        (smoothing,) = settings
        zero = constant(0.0, output)
        kept, spread = constant(1.0, output) - smoothing, constant(0.5, output) * smoothing
        smoothed = target * kept + spread
        magnitude = -output if output < zero else output
        positive = zero if output < zero else output
        return (
            positive - output * smoothed + log1p(exp(-magnitude)),
            sigmoid(output) - smoothed,
        )


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log(softmax(o)[y]), from logits o and the integer label y of the row.

    With label smoothing s and K outputs, the target is 1 - s of the label and s / K of all::

        loss = -(1 - s) log p[y] - s/K sum_k log p[k],  p = softmax(o)

    Parameters
    ----------
    label_smoothing : float
        In [0, 1).

    Raises
    ------
    TypeError, ValueError
        For anything that is not such a number.

    Source: Szegedy et al., Rethinking the Inception architecture for computer vision, 2016.
    """

    targets: ClassVar[str] = "class"

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        finite("label_smoothing", self.label_smoothing, 0.0, 1.0, open_high=True)

    @property
    def settings(self) -> tuple[float, ...]:
        """The label smoothing, if there is some."""
        return super().settings if self.label_smoothing else ()

    @property
    def kernel(self) -> str:
        """That without label smoothing, or that with it."""
        return "smoothed_cross_entropy_loss" if self.label_smoothing else "cross_entropy_loss"

    def response(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Probabilities of the classes, softmax(o), for every row."""
        from scipy.special import softmax

        return np.asarray(softmax(super().response(outputs), axis=1))


@dataclass(frozen=True)
class Hinge(Loss):
    """max(0, 1 - y * o), y = -1 or 1; the derivative at the kink is 0.

    Source: Cortes and Vapnik, Support-vector networks, 1995.
    """

    targets: ClassVar[str] = "sign"

    @staticmethod
    def law(output, target, settings):
        zero = constant(0.0, output)
        margin = constant(1.0, output) - target * output
        return (zero if margin <= zero else margin), (zero if margin <= zero else -target)


__all__ += [member.__name__ for member in Loss.registry.values()]
