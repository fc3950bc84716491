"""Laws as a user would write them."""

from dataclasses import dataclass

import fastbp as fb
from fastbp.elementary import constant, sign


@dataclass(frozen=True)
class Cube(fb.Activation):
    """f(z) = z + scale * z**3."""

    scale: float = 1.0

    @staticmethod
    def law(z, settings):
        (scale,) = settings
        return z + scale * z * z * z, constant(1.0, z) + constant(3.0, z) * scale * z * z


@dataclass(frozen=True)
class Quartic(fb.Loss):
    """(o - y)**4."""

    @staticmethod
    def law(output, target, settings):
        residual = output - target
        cube = residual * residual * residual
        return cube * residual, constant(4.0, output) * cube


def update_sign(parameter, gradient, slots, coefficients, is_weight):
    (learning_rate,) = coefficients
    return parameter - learning_rate * sign(gradient), slots


@dataclass(frozen=True)
class SignDescent(fb.Optimizer):
    """p = p - learning_rate * sign(g)."""

    learning_rate: float = 0.01

    @property
    def update(self):
        return update_sign
