"""Learning-rate schedules: the rate of every step, as a pure function of where training stands.

A schedule multiplies the optimizer's learning rate. Its rates for an epoch are computed before the
epoch starts, so nothing of it runs inside. A new schedule is one class here (or in user code).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastbp.registry import Named, finite

__all__ = ["Schedule"]

Factors = NDArray[np.float64]


class Schedule(Named):
    """How the learning rate moves during training."""

    is_same_every_epoch: ClassVar[bool] = False  # then the factors are asked for once
    depends_on_length: ClassVar[bool] = True  # whether `total_steps` counts for the factors

    def factors(
        self,
        steps: Factors,
        steps_per_epoch: int,
        total_steps: int,
        losses: Sequence[float],
    ) -> Factors:
        """The factors by which the learning rate of some steps is multiplied.

        Parameters
        ----------
        steps : array of float64
            Step numbers of the whole run, counted from 0.
        steps_per_epoch, total_steps : int
            Length of an epoch and of the whole run, in steps.
        losses : sequence of float
            The watched loss of every finished epoch: the validation loss where there is one,
            otherwise the training loss.

        Returns
        -------
        array of float64, shape of `steps`
        """
        raise NotImplementedError

    def checked_factors(
        self, epoch: int, epochs: int, steps_per_epoch: int, losses: Sequence[float]
    ) -> Factors:
        """The factors of one epoch's steps; a schedule may be the user's own.

        Parameters
        ----------
        epoch : int
            Counted from 0.
        epochs, steps_per_epoch : int
        losses : sequence of float
            As for `factors`.

        Raises
        ------
        ValueError
            For factors of another shape, below 0, infinite or NaN.
        """
        first = epoch * steps_per_epoch
        steps = np.arange(first, first + steps_per_epoch, dtype=np.float64)
        found = self.factors(steps, steps_per_epoch, steps_per_epoch * epochs, losses)
        factors = np.array(found, dtype=np.float64)
        if factors.shape != steps.shape:
            raise ValueError(
                f"schedule: expected {self.name} to give factors of shape {steps.shape}; "
                f"got {factors.shape}"
            )
        is_right = np.isfinite(factors) & (factors >= 0)
        if not is_right.all():
            raise ValueError(
                f"schedule: expected {self.name} to give finite factors of at least 0; "
                f"got {factors[~is_right][0]}"
            )
        return factors


@dataclass(frozen=True)
class Constant(Schedule):
    """The learning rate stays as it is."""

    depends_on_length = False
    is_same_every_epoch = True

    def factors(self, steps, steps_per_epoch, total_steps, losses):
        return np.ones_like(steps)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiply by `factor` every `every` epochs: factor**floor(epoch / every)."""

    depends_on_length = False

    every: int = 30
    factor: float = 0.1

    def __post_init__(self) -> None:
        finite("every", self.every, 1)
        finite("factor", self.factor, 0.0, open_low=True)

    def factors(self, steps, steps_per_epoch, total_steps, losses):
        epochs = np.floor(steps / steps_per_epoch)
        return self.factor ** np.floor(epochs / self.every)


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """Multiply by `factor` after every epoch: factor**epoch, epoch counted from 0."""

    depends_on_length = False

    factor: float = 0.99

    def __post_init__(self) -> None:
        finite("factor", self.factor, 0.0, open_low=True)

    def factors(self, steps, steps_per_epoch, total_steps, losses):
        return self.factor ** np.floor(steps / steps_per_epoch)


def half_cosine(progress: Factors, start: float, end: float) -> Factors:
    """From `start` at progress 0 to `end` at progress 1 along half a cosine."""
    along = np.clip(progress, 0.0, 1.0)
    return np.asarray(end + (start - end) * 0.5 * (1.0 + np.cos(np.pi * along)))


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """From 1 to `final` along half a cosine over the whole run.

    Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017,
    without restarts.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        finite("final", self.final, 0.0)

    def factors(self, steps, steps_per_epoch, total_steps, losses):
        return half_cosine(steps / total_steps, 1.0, self.final)


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """Rise linearly to 1 over the first `warmup` of the run, then fall along half a cosine.

    Source: Goyal et al., Accurate, large minibatch SGD, 2017, for the rise.
    """

    warmup: float = 0.1
    final: float = 0.0

    def __post_init__(self) -> None:
        finite("warmup", self.warmup, 0.0, 1.0, open_high=True)
        finite("final", self.final, 0.0)

    def factors(self, steps, steps_per_epoch, total_steps, losses):
        rise = self.warmup * total_steps
        falling = half_cosine((steps - rise) / max(total_steps - rise, 1.0), 1.0, self.final)
        return np.where(steps < rise, (steps + 1.0) / max(rise, 1.0), falling).clip(max=1.0)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rise from `initial` to 1 over the first `warmup` of the run, fall to `final`; half cosines.

    Source: Smith and Topin, Super-convergence: very fast training of neural networks using large
    learning rates, 2018.
    """

    warmup: float = 0.3
    initial: float = 0.04
    final: float = 1e-4

    def __post_init__(self) -> None:
        finite("warmup", self.warmup, 0.0, 1.0, open_low=True, open_high=True)
        finite("initial", self.initial, 0.0)
        finite("final", self.final, 0.0)

    def factors(self, steps, steps_per_epoch, total_steps, losses):
        peak = self.warmup * total_steps
        rising = half_cosine(steps / peak, self.initial, 1.0)
        falling = half_cosine((steps - peak) / (total_steps - peak), 1.0, self.final)
        return np.where(steps < peak, rising, falling)


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Multiply by `factor` whenever the watched loss has not fallen for `patience` epochs.

    A loss has fallen when it is below ``best * (1 - threshold)`` (for a negative best:
    ``best * (1 + threshold)``); the factor never goes below `minimum`.
    """

    depends_on_length = False

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    minimum: float = 0.0

    def __post_init__(self) -> None:
        finite("factor", self.factor, 0.0, 1.0, open_low=True, open_high=True)
        finite("patience", self.patience, 1)
        finite("threshold", self.threshold, 0.0)
        finite("minimum", self.minimum, 0.0)

    def factors(self, steps, steps_per_epoch, total_steps, losses):
        best = np.inf
        waited = 0
        current = 1.0
        for loss in losses:
            if loss < best - self.threshold * abs(best) or not np.isfinite(best):
                best = loss
                waited = 0
                continue
            waited += 1
            if waited >= self.patience:
                current = max(current * self.factor, self.minimum)
                waited = 0
        return np.full_like(steps, current)


__all__ += [member.__name__ for member in Schedule.registry.values()]
