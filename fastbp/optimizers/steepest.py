"""Steepest descent, plain and with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastbp.optimizers.base import Optimizer

__all__ = ["SGD"]


def begin_sgd(step, learning_rate, carry, settings):
    momentum, _ = settings
    return (learning_rate, momentum), carry


def update_plain(parameter, gradient, slots, coefficients, is_weight):
    learning_rate, _ = coefficients
    return parameter - learning_rate * gradient, slots


def update_momentum(parameter, gradient, slots, coefficients, is_weight):
    (velocity,) = slots
    learning_rate, momentum = coefficients
    velocity = momentum * velocity + gradient
    return parameter - learning_rate * velocity, (velocity,)


def update_nesterov(parameter, gradient, slots, coefficients, is_weight):
    (velocity,) = slots
    learning_rate, momentum = coefficients
    velocity = momentum * velocity + gradient
    return parameter - learning_rate * (gradient + momentum * velocity), (velocity,)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent.

    v = momentum * v + g;  p = p - learning_rate * v, or with nesterov
    p = p - learning_rate * (g + momentum * v).

    Source: Sutskever, Martens, Dahl and Hinton, On the importance of initialization and momentum in
    deep learning, 2013, in the form that PyTorch uses.
    """

    step_follows: ClassVar[str] = "gradient"

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: expected a momentum above 0 with it; got momentum=0")

    @property
    def slots(self):
        return ("velocity",) if self.momentum else ()

    @property
    def begin(self):
        return begin_sgd

    @property
    def update(self):
        if not self.momentum:
            return update_plain
        return update_nesterov if self.nesterov else update_momentum
