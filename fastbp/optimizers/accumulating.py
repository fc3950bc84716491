"""Optimizers that divide by a running size of the gradient: RMSprop, Adagrad, Adadelta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastbp.elementary import constant, sqrt
from fastbp.optimizers.base import Optimizer

__all__ = ["Adadelta", "Adagrad", "RMSprop"]


def begin_rmsprop(step, learning_rate, carry, settings):
    rho, momentum, _, epsilon = settings
    return (learning_rate, rho, 1.0 - rho, momentum, epsilon), carry


def update_rmsprop(parameter, gradient, slots, coefficients, is_weight):
    (square,) = slots
    learning_rate, rho, fresh, _, epsilon = coefficients
    square = rho * square + fresh * gradient * gradient
    return parameter - learning_rate * gradient / (sqrt(square) + epsilon), (square,)


def update_rmsprop_momentum(parameter, gradient, slots, coefficients, is_weight):
    square, velocity = slots
    learning_rate, rho, fresh, momentum, epsilon = coefficients
    square = rho * square + fresh * gradient * gradient
    velocity = momentum * velocity + gradient / (sqrt(square) + epsilon)
    return parameter - learning_rate * velocity, (square, velocity)


def update_rmsprop_centered(parameter, gradient, slots, coefficients, is_weight):
    square, mean = slots
    learning_rate, rho, fresh, _, epsilon = coefficients
    square = rho * square + fresh * gradient * gradient
    mean = rho * mean + fresh * gradient
    variance = square - mean * mean
    # Rounding may take the variance a little below zero; a NaN must stay one.
    variance = constant(0.0, square) if variance < constant(0.0, square) else variance
    step = gradient / (sqrt(variance) + epsilon)
    return parameter - learning_rate * step, (square, mean)


def update_rmsprop_centered_momentum(parameter, gradient, slots, coefficients, is_weight):
    square, mean, velocity = slots
    learning_rate, rho, fresh, momentum, epsilon = coefficients
    square = rho * square + fresh * gradient * gradient
    mean = rho * mean + fresh * gradient
    variance = square - mean * mean
    variance = constant(0.0, square) if variance < constant(0.0, square) else variance
    velocity = momentum * velocity + gradient / (sqrt(variance) + epsilon)
    return parameter - learning_rate * velocity, (square, mean, velocity)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Divide by a running root mean square of the gradient.

    s = rho * s + (1 - rho) * g**2;  p = p - learning_rate * g / (sqrt(s) + epsilon); centered
    subtracts the square of the running mean from s, momentum accumulates the step.

    Source: Tieleman and Hinton, lecture 6.5 of Neural networks for machine learning, 2012;
    centered: Graves, Generating sequences with recurrent neural networks, 2013.
    """

    step_follows: ClassVar[str] = "root_mean_square"

    learning_rate: float = 0.01
    rho: float = 0.99
    momentum: float = 0.0
    centered: bool = False
    epsilon: float = 1e-8

    @property
    def slots(self):
        extra = (("mean",) if self.centered else ()) + (("velocity",) if self.momentum else ())
        return ("square", *extra)

    @property
    def begin(self):
        return begin_rmsprop

    @property
    def update(self):
        if self.centered:
            return update_rmsprop_centered_momentum if self.momentum else update_rmsprop_centered
        return update_rmsprop_momentum if self.momentum else update_rmsprop


def begin_adagrad(step, learning_rate, carry, settings):
    (epsilon,) = settings
    return (learning_rate, epsilon), carry


def update_adagrad(parameter, gradient, slots, coefficients, is_weight):
    (total,) = slots
    learning_rate, epsilon = coefficients
    total = total + gradient * gradient
    return parameter - learning_rate * gradient / (sqrt(total) + epsilon), (total,)


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Divide by the root of the sum of all squared gradients so far.

    s = s + g**2;  p = p - learning_rate * g / (sqrt(s) + epsilon).

    Source: Duchi, Hazan and Singer, Adaptive subgradient methods, 2011.
    """

    step_follows: ClassVar[str] = "root_mean_square"

    learning_rate: float = 0.01
    epsilon: float = 1e-10

    @property
    def slots(self):
        return ("total",)

    @property
    def begin(self):
        return begin_adagrad

    @property
    def update(self):
        return update_adagrad


def begin_adadelta(step, learning_rate, carry, settings):
    rho, epsilon = settings
    return (learning_rate, rho, 1.0 - rho, epsilon), carry


def update_adadelta(parameter, gradient, slots, coefficients, is_weight):
    square, square_step = slots
    learning_rate, rho, fresh, epsilon = coefficients
    square = rho * square + fresh * gradient * gradient
    step = sqrt(square_step + epsilon) / sqrt(square + epsilon) * gradient
    square_step = rho * square_step + fresh * step * step
    return parameter - learning_rate * step, (square, square_step)


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Scale each step by the ratio of running sizes of steps and gradients.

    s = rho * s + (1 - rho) * g**2;  d = sqrt(u + epsilon) / sqrt(s + epsilon) * g;
    u = rho * u + (1 - rho) * d**2;  p = p - learning_rate * d.

    Source: Zeiler, ADADELTA: an adaptive learning rate method, 2012.
    """

    learning_rate: float = 1.0
    rho: float = 0.9
    epsilon: float = 1e-6

    @property
    def slots(self):
        return ("square", "square_step")

    @property
    def begin(self):
        return begin_adadelta

    @property
    def update(self):
        return update_adadelta
