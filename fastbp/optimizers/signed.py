"""Optimizers that follow the sign of the gradient: Rprop and Lion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastbp.elementary import constant, sign
from fastbp.optimizers.base import Optimizer
from fastbp.registry import finite

__all__ = ["Lion", "Rprop"]


def begin_rprop(step, learning_rate, carry, settings):
    increase, decrease, minimum, maximum = settings
    return (increase, decrease, minimum, maximum), carry


def update_rprop(parameter, gradient, slots, coefficients, is_weight):
    previous, size = slots
    increase, decrease, minimum, maximum = coefficients
    zero = constant(0.0, gradient)
    agreement = gradient * previous
    if agreement > zero:
        size = size * increase
    elif agreement < zero:
        size = size * decrease
        gradient = zero  # the step that overshot is not followed by another
    size = minimum if size < minimum else (maximum if size > maximum else size)
    return parameter - sign(gradient) * size, (gradient, size)


@dataclass(frozen=True)
class Rprop(Optimizer):
    """Resilient backpropagation: a step size for each parameter, grown while the sign holds.

    The learning rate is the first step size and nothing else, so a schedule has no effect. For full
    batches.

    Source: Riedmiller and Braun, A direct adaptive method for faster backpropagation learning: the
    RPROP algorithm, 1993.
    """

    learning_rate: float = 0.01
    increase: float = 1.2
    decrease: float = 0.5
    minimum: float = 1e-6
    maximum: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        finite("increase", self.increase, 1.0)
        finite("decrease", self.decrease, 0.0, 1.0, open_low=True)
        if self.minimum > self.maximum:
            raise ValueError(
                f"minimum: expected at most maximum ({self.maximum!r}); got {self.minimum!r}"
            )

    @property
    def slots(self):
        return ("previous", "size")

    def initial_slot(self, slot):
        return float(self.learning_rate) if slot == "size" else 0.0

    @property
    def begin(self):
        return begin_rprop

    @property
    def update(self):
        return update_rprop


def begin_lion(step, learning_rate, carry, settings):
    beta1, beta2, weight_decay = settings
    decay = learning_rate * weight_decay
    return (learning_rate, beta1, 1.0 - beta1, beta2, 1.0 - beta2, decay), carry


def update_lion(parameter, gradient, slots, coefficients, is_weight):
    (first,) = slots
    learning_rate, beta1, fresh1, beta2, fresh2, decay = coefficients
    direction = sign(beta1 * first + fresh1 * gradient)
    parameter = parameter - decay * is_weight * parameter
    return parameter - learning_rate * direction, (beta2 * first + fresh2 * gradient,)


@dataclass(frozen=True)
class Lion(Optimizer):
    """p = p - learning_rate * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p).

    Then m = beta2 * m + (1 - beta2) * g. Weight decay leaves biases alone.

    Source: Chen et al., Symbolic discovery of optimization algorithms, 2023.
    """

    step_follows: ClassVar[str] = "root_mean_square"

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    @property
    def slots(self):
        return ("first",)

    @property
    def begin(self):
        return begin_lion

    @property
    def update(self):
        return update_lion
