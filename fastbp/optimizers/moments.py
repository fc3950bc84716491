"""The Adam family: running first and second moments of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastbp.elementary import constant, power, sqrt
from fastbp.optimizers.base import Optimizer

__all__ = ["Adam", "AdamW", "Adamax", "NAdam", "RAdam"]


def begin_adam(step, learning_rate, carry, settings):
    beta1, beta2, epsilon, _ = settings
    step_size = learning_rate / (1.0 - power(beta1, step))
    root = sqrt(1.0 - power(beta2, step))
    return (step_size, 1.0 / root, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon, 0.0), carry


def begin_adamw(step, learning_rate, carry, settings):
    beta1, beta2, epsilon, _, weight_decay = settings
    step_size = learning_rate / (1.0 - power(beta1, step))
    root = sqrt(1.0 - power(beta2, step))
    decay = learning_rate * weight_decay
    return (step_size, 1.0 / root, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon, decay), carry


def update_adam(parameter, gradient, slots, coefficients, is_weight):
    first, second = slots
    step_size, scale, beta1, fresh1, beta2, fresh2, epsilon, decay = coefficients
    parameter = parameter - decay * is_weight * parameter
    first = beta1 * first + fresh1 * gradient
    second = beta2 * second + fresh2 * gradient * gradient
    return parameter - step_size * first / (sqrt(second) * scale + epsilon), (first, second)


def update_amsgrad(parameter, gradient, slots, coefficients, is_weight):
    first, second, largest = slots
    step_size, scale, beta1, fresh1, beta2, fresh2, epsilon, decay = coefficients
    parameter = parameter - decay * is_weight * parameter
    first = beta1 * first + fresh1 * gradient
    second = beta2 * second + fresh2 * gradient * gradient
    largest = largest if second <= largest else second
    step = step_size * first / (sqrt(largest) * scale + epsilon)
    return parameter - step, (first, second, largest)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moment estimation.

    m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g**2;
    p = p - learning_rate * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + epsilon);
    amsgrad takes the largest v so far.

    Source: Kingma and Ba, Adam: a method for stochastic optimization, 2015; amsgrad: Reddi, Kale
    and Kumar, On the convergence of Adam and beyond, 2018.
    """

    step_follows: ClassVar[str] = "root_mean_square"

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False

    @property
    def slots(self):
        return ("first", "second", "largest") if self.amsgrad else ("first", "second")

    @property
    def begin(self):
        return begin_adam

    @property
    def update(self):
        return update_amsgrad if self.amsgrad else update_adam


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with the weights (not the biases) decayed apart from the gradient.

    p = p - learning_rate * weight_decay * p before Adam's step.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, 2019.
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float = 0.01

    @property
    def begin(self):
        return begin_adamw


def begin_adamax(step, learning_rate, carry, settings):
    beta1, beta2, epsilon = settings
    return (learning_rate / (1.0 - power(beta1, step)), beta1, 1.0 - beta1, beta2, epsilon), carry


def update_adamax(parameter, gradient, slots, coefficients, is_weight):
    first, size = slots
    step_size, beta1, fresh1, beta2, epsilon = coefficients
    zero = constant(0.0, gradient)
    magnitude = (-gradient if gradient < zero else gradient) + epsilon
    first = beta1 * first + fresh1 * gradient
    faded = beta2 * size
    size = faded if magnitude <= faded else magnitude
    return parameter - step_size * first / size, (first, size)


@dataclass(frozen=True)
class Adamax(Optimizer):
    """Adam with the infinity norm.

    u = max(beta2 * u, abs(g) + epsilon);  p = p - learning_rate / (1 - beta1**t) * m / u.

    Source: Kingma and Ba, Adam: a method for stochastic optimization, 2015, section 7.1.
    """

    step_follows: ClassVar[str] = "root_mean_square"

    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @property
    def slots(self):
        return ("first", "size")

    @property
    def begin(self):
        return begin_adamax

    @property
    def update(self):
        return update_adamax


def begin_nadam(step, learning_rate, carry, settings):
    (product,) = carry
    beta1, beta2, epsilon, momentum_decay = settings
    now = beta1 * (1.0 - 0.5 * power(0.96, step * momentum_decay))
    next_one = beta1 * (1.0 - 0.5 * power(0.96, (step + 1.0) * momentum_decay))
    product = product * now
    from_gradient = learning_rate * (1.0 - now) / (1.0 - product)
    from_moment = learning_rate * next_one / (1.0 - product * next_one)
    scale = 1.0 / sqrt(1.0 - power(beta2, step))
    coefficients = (
        from_gradient,
        from_moment,
        scale,
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        epsilon,
    )
    return coefficients, (product,)


def update_nadam(parameter, gradient, slots, coefficients, is_weight):
    first, second = slots
    from_gradient, from_moment, scale, beta1, fresh1, beta2, fresh2, epsilon = coefficients
    first = beta1 * first + fresh1 * gradient
    second = beta2 * second + fresh2 * gradient * gradient
    size = sqrt(second) * scale + epsilon
    return parameter - (from_gradient * gradient + from_moment * first) / size, (first, second)


@dataclass(frozen=True)
class NAdam(Optimizer):
    """Adam with Nesterov's momentum, the momentum warmed up by mu_t.

    mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2).

    Source: Dozat, Incorporating Nesterov momentum into Adam, 2016.
    """

    step_follows: ClassVar[str] = "root_mean_square"

    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum_decay: float = 4e-3

    carry: ClassVar[tuple[float, ...]] = (1.0,)  # the product of all mu_t so far

    @property
    def slots(self):
        return ("first", "second")

    @property
    def begin(self):
        return begin_nadam

    @property
    def update(self):
        return update_nadam


def begin_radam(step, learning_rate, carry, settings):
    beta1, beta2, epsilon = settings
    fade = power(beta2, step)
    step_size = learning_rate / (1.0 - power(beta1, step))
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * step * fade / (1.0 - fade)
    rectified = 0.0  # 1 once the variance of the second moment is tractable
    if length > 5.0:
        rectified = 1.0
        step_size = step_size * sqrt(
            (1.0 - fade)
            * ((length - 4.0) * (length - 2.0) * longest)
            / ((longest - 4.0) * (longest - 2.0) * length)
        )
    return (step_size, rectified, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon), carry


def update_radam(parameter, gradient, slots, coefficients, is_weight):
    first, second = slots
    step_size, rectified, beta1, fresh1, beta2, fresh2, epsilon = coefficients
    first = beta1 * first + fresh1 * gradient
    second = beta2 * second + fresh2 * gradient * gradient
    one = constant(1.0, gradient)
    size = sqrt(second) + epsilon if rectified == one else one
    return parameter - step_size * first / size, (first, second)


@dataclass(frozen=True)
class RAdam(Optimizer):
    """Adam that leaves out the second moment until its variance is tractable.

    Source: Liu et al., On the variance of the adaptive learning rate and beyond, 2020.
    """

    step_follows: ClassVar[str] = "root_mean_square"

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @property
    def slots(self):
        return ("first", "second")

    @property
    def begin(self):
        return begin_radam

    @property
    def update(self):
        return update_radam
