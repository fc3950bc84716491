"""Activation functions: the settings that users see and, beside them, the law that is compiled.

A law is plain scalar Python, ``law(z, settings) -> (value, derivative)``: value and derivative
belong together because they share most of their work. Every backend compiles it into its own loops.
A new activation is one frozen dataclass below `Activation`, here or in user code.

Branches are written ``zero if z <= zero else z`` so that a NaN goes through, never into a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastbp.elementary import (
    constant,
    cos,
    erf,
    exp,
    expm1,
    log1p,
    multiply_add,
    sigmoid,
    sin,
    tanh,
)
from fastbp.registry import Named, finite

__all__ = ["Activation"]

FLAT = 0.05  # a law is flat where its derivative is less than this share of the largest
NOT_POSITIVE = (-math.inf, 0.0)


class Activation(Named):
    """An element-wise function between layers, by name or as an object with settings.

    Attributes
    ----------
    law : callable
        ``law(z, settings) -> (value, derivative)`` on scalars; `settings` is a tuple of floats.
    initializer : str
        The name of the initial values that suit a layer with this activation.
    idle_outputs : (low, high) or None
        The outputs where the law switches a unit off: a flat end, with a derivative of less than
        5 % of the largest. None for others, and where outputs do not tell: gelu, silu, mish.
    saturated_outputs : (low, high) or None
        Outputs of at most low and at least high lie where a bounded law is flat.
    """

    initializer: ClassVar[str] = "he_normal"
    law: ClassVar[Callable[..., Any]]
    idle_outputs: ClassVar[tuple[float, float] | None] = None
    saturated_outputs: ClassVar[tuple[float, float] | None] = None

    def idle(self, outputs: NDArray[Any]) -> NDArray[np.bool_] | None:
        """For each output whether the unit is switched off; None where outputs do not tell."""
        if self.idle_outputs is None:
            return None
        low, high = self.idle_outputs
        return np.asarray((outputs >= low) & (outputs <= high))

    def saturated(self, outputs: NDArray[Any]) -> NDArray[np.bool_] | None:
        """For each output whether it lies where a bounded law is flat; None for all others."""
        if self.saturated_outputs is None:
            return None
        low, high = self.saturated_outputs
        return np.asarray((outputs <= low) | (outputs >= high))


@dataclass(frozen=True)
class Identity(Activation):
    """f(z) = z: a linear layer."""

    initializer: ClassVar[str] = "glorot_uniform"

    @staticmethod
    def law(z, settings):
        return z, constant(1.0, z)


@dataclass(frozen=True)
class Relu(Activation):
    """f(z) = max(0, z); f'(0) = 0.

    Source: Nair and Hinton, Rectified linear units improve restricted Boltzmann machines, 2010.
    """

    idle_outputs = NOT_POSITIVE

    @staticmethod
    def law(z, settings):
        zero = constant(0.0, z)
        one = constant(1.0, z)
        return (zero if z <= zero else z), (zero if z <= zero else one)


@dataclass(frozen=True)
class LeakyRelu(Activation):
    """f(z) = z for z > 0, slope * z otherwise.

    Source: Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models,
    2013.
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        finite("slope", self.slope)

    @property
    def idle_outputs(self) -> tuple[float, float] | None:  # type: ignore[override]
        """Those of relu, where the slope is so small that a unit learns next to nothing."""
        return NOT_POSITIVE if 0 <= self.slope < FLAT else None

    @staticmethod
    def law(z, settings):
        (slope,) = settings
        zero = constant(0.0, z)
        one = constant(1.0, z)
        return (z * slope if z <= zero else z), (slope if z <= zero else one)


@dataclass(frozen=True)
class Elu(Activation):
    """f(z) = z for z > 0, alpha * (exp(z) - 1) otherwise.

    Source: Clevert, Unterthiner and Hochreiter, Fast and accurate deep network learning by
    exponential linear units, 2016.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        finite("alpha", self.alpha)

    @property
    def idle_outputs(self) -> tuple[float, float] | None:  # type: ignore[override]
        """The derivative below zero is the output plus alpha."""
        flat = min(FLAT * max(self.alpha, 1.0) - self.alpha, 0.0)
        return (-math.inf, flat) if self.alpha >= 0 else None

    @staticmethod
    def law(z, settings):
        (alpha,) = settings
        zero = constant(0.0, z)
        one = constant(1.0, z)
        below = alpha * expm1(zero if z > zero else z)
        return (below if z <= zero else z), (below + alpha if z <= zero else one)


@dataclass(frozen=True)
class Selu(Activation):
    """f(z) = scale * z for z > 0, scale * alpha * (exp(z) - 1) otherwise.

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, Self-normalizing neural networks, 2017;
    the two constants are those of its equation 14.
    """

    initializer: ClassVar[str] = "lecun_normal"

    # The derivative below zero is the output plus scale * alpha, which is also the largest.
    idle_outputs = (-math.inf, (FLAT - 1.0) * 1.7580993408473766)

    @staticmethod
    def law(z, settings):
        zero = constant(0.0, z)
        scale = constant(1.0507009873554804934193349852946, z)
        scaled_alpha = constant(
            1.0507009873554804934193349852946 * 1.6732632423543772848170429916717, z
        )
        below = scaled_alpha * expm1(zero if z > zero else z)
        return (
            (below if z <= zero else scale * z),
            (below + scaled_alpha if z <= zero else scale),
        )


@dataclass(frozen=True)
class Gelu(Activation):
    """f(z) = z * Phi(z), Phi the normal distribution function, by erf.

    Source: Hendrycks and Gimpel, Gaussian error linear units, 2016.
    """

    @staticmethod
    def law(z, settings):
        half = constant(0.5, z)
        one = constant(1.0, z)
        distribution = half * (one + erf(z * constant(0.70710678118654752440, z)))
        density = constant(0.39894228040143267794, z) * exp(-half * z * z)
        return z * distribution, distribution + z * density


@dataclass(frozen=True)
class GeluTanh(Activation):
    """f(z) = z/2 * (1 + tanh(sqrt(2/pi) * (z + 0.044715 z**3))).

    Source: Hendrycks and Gimpel, Gaussian error linear units, 2016, section 2.
    """

    @staticmethod
    def law(z, settings):
        half = constant(0.5, z)
        one = constant(1.0, z)
        rate = constant(0.79788456080286535588, z)
        cubic = constant(0.044715, z)
        # Beyond 10 the bend is 1 to the last bit; bounded, its square cannot overflow.
        bound = constant(10.0, z)
        near = bound if z > bound else (-bound if z < -bound else z)
        square = near * near
        bend = tanh(rate * near * (one + cubic * square))
        inner = rate * (one + constant(3.0, z) * cubic * square)
        return (
            half * z * (one + bend),
            half * (one + bend) + half * near * (one - bend * bend) * inner,
        )


@dataclass(frozen=True)
class Silu(Activation):
    """f(z) = z * sigmoid(z), also called swish.

    Source: Elfwing, Uchibe and Doya, Sigmoid-weighted linear units, 2018.
    """

    @staticmethod
    def law(z, settings):
        one = constant(1.0, z)
        gate = sigmoid(z)
        return z * gate, gate * (one + z * (one - gate))


@dataclass(frozen=True)
class Mish(Activation):
    """f(z) = z * tanh(log(1 + exp(z))).

    Source: Misra, Mish: a self regularized non-monotonic activation function, 2020.
    """

    @staticmethod
    def law(z, settings):
        zero = constant(0.0, z)
        one = constant(1.0, z)
        magnitude = -z if z < zero else z
        softened = log1p(exp(-magnitude)) + (zero if z < zero else z)
        gate = tanh(softened)
        return z * gate, gate + z * (one - gate * gate) * sigmoid(z)


@dataclass(frozen=True)
class Softplus(Activation):
    """f(z) = log(1 + exp(z)), beta = 1.

    Source: Dugas et al., Incorporating second-order functional knowledge for better option pricing,
    2001.
    """

    idle_outputs = (-math.inf, -math.log1p(-FLAT))  # the derivative is 1 - exp(-output)

    @staticmethod
    def law(z, settings):
        zero = constant(0.0, z)
        magnitude = -z if z < zero else z
        return log1p(exp(-magnitude)) + (zero if z < zero else z), sigmoid(z)


@dataclass(frozen=True)
class Softsign(Activation):
    """f(z) = z / (1 + abs(z)).

    Source: Bergstra, Desjardins, Lamblin and Bengio, Quadratic polynomials learn better image
    features, 2009.
    """

    initializer: ClassVar[str] = "glorot_uniform"

    # The derivative is (1 - |output|)**2.
    saturated_outputs = (math.sqrt(FLAT) - 1.0, 1.0 - math.sqrt(FLAT))

    @staticmethod
    def law(z, settings):
        zero = constant(0.0, z)
        one = constant(1.0, z)
        magnitude = -z if z < zero else z
        shrink = one / (one + magnitude)
        return z * shrink, shrink * shrink


@dataclass(frozen=True)
class Tanh(Activation):
    """f(z) = tanh(z), f'(z) = 1 - f(z)**2."""

    initializer: ClassVar[str] = "glorot_uniform"

    saturated_outputs = (-math.sqrt(1.0 - FLAT), math.sqrt(1.0 - FLAT))

    @staticmethod
    def law(z, settings):
        value = tanh(z)
        return value, multiply_add(-value, value, constant(1.0, z))


@dataclass(frozen=True)
class Sigmoid(Activation):
    """f(z) = 1 / (1 + exp(-z)), f'(z) = f(z) * (1 - f(z))."""

    initializer: ClassVar[str] = "glorot_uniform"

    # The derivative is at most 1/4.
    saturated_outputs = (0.5 - 0.5 * math.sqrt(1.0 - FLAT), 0.5 + 0.5 * math.sqrt(1.0 - FLAT))

    @staticmethod
    def law(z, settings):
        value = sigmoid(z)
        return value, value * (constant(1.0, z) - value)


@dataclass(frozen=True)
class Hardtanh(Activation):
    """f(z) = z clipped to [-1, 1]; the derivative at the two kinks is 0."""

    initializer: ClassVar[str] = "glorot_uniform"

    saturated_outputs = (-1.0, 1.0)

    @staticmethod
    def law(z, settings):
        zero = constant(0.0, z)
        one = constant(1.0, z)
        if z <= -one:
            return -one, zero
        if z >= one:
            return one, zero
        return z, one


@dataclass(frozen=True)
class Relu6(Activation):
    """f(z) = z clipped to [0, 6]; the derivative at the two kinks is 0.

    Source: Krizhevsky, Convolutional deep belief networks on CIFAR-10, 2010.
    """

    idle_outputs = NOT_POSITIVE
    saturated_outputs = (-math.inf, 6.0)

    @staticmethod
    def law(z, settings):
        zero = constant(0.0, z)
        six = constant(6.0, z)
        if z <= zero:
            return zero, zero
        if z >= six:
            return six, zero
        return z, constant(1.0, z)


@dataclass(frozen=True)
class Hardswish(Activation):
    """f(z) = z * relu6(z + 3) / 6.

    Source: Howard et al., Searching for MobileNetV3, 2019.
    """

    idle_outputs = (0.0, 0.0)  # for z <= -3, and at 0 itself

    @staticmethod
    def law(z, settings):
        zero = constant(0.0, z)
        three = constant(3.0, z)
        sixth = constant(1.0 / 6.0, z)
        if z <= -three:
            return zero, zero
        if z >= three:
            return z, constant(1.0, z)
        return z * (z + three) * sixth, (z + z + three) * sixth


@dataclass(frozen=True)
class Sine(Activation):
    """f(z) = sin(z).

    Source: Sitzmann et al., Implicit neural representations with periodic activation functions,
    2020.
    """

    initializer: ClassVar[str] = "glorot_uniform"

    @staticmethod
    def law(z, settings):
        return sin(z), cos(z)


__all__ += [member.__name__ for member in Activation.registry.values()]
