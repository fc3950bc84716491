"""The elementary functions that laws may call.

A law (activation, loss, optimizer) is plain scalar Python. It calls these names, and each backend
supplies its own compiled version of every one of them; the versions here make a law callable in
the interpreter, one scalar at a time, which is what the tests and a curious reader do.

All take and return one real scalar and keep its precision: a float32 argument gives a float32
result in every backend.
"""

from __future__ import annotations

import math

__all__ = [
    "NAMES",
    "constant",
    "cos",
    "erf",
    "exp",
    "expm1",
    "log",
    "log1p",
    "multiply_add",
    "power",
    "sigmoid",
    "sign",
    "sin",
    "sqrt",
    "tanh",
]


def constant(value: float, like: float) -> float:
    """The literal `value` in the precision of `like`.

    A bare literal is float64 and would drag a float32 law into float64 arithmetic.
    """
    return type(like)(value)


def exp(x: float) -> float:
    """e**x, infinity on overflow."""
    try:
        return type(x)(math.exp(x))
    except OverflowError:
        return type(x)(math.inf)


def expm1(x: float) -> float:
    """e**x - 1 without cancellation near zero, infinity on overflow."""
    try:
        return type(x)(math.expm1(x))
    except OverflowError:
        return type(x)(math.inf)


def log(x: float) -> float:
    """Natural logarithm: -infinity at 0, NaN below."""
    if x > 0:
        return type(x)(math.log(x))
    return type(x)(-math.inf if x == 0 else math.nan)


def log1p(x: float) -> float:
    """Logarithm of 1 + x for x > -1, without cancellation near zero."""
    return type(x)(math.log1p(x))


def tanh(x: float) -> float:
    """Hyperbolic tangent."""
    return type(x)(math.tanh(x))


def erf(x: float) -> float:
    """Error function, 2/sqrt(pi) times the integral of exp(-t**2) from 0 to x."""
    return type(x)(math.erf(x))


def sin(x: float) -> float:
    """Sine of x radians."""
    return type(x)(math.sin(x))


def cos(x: float) -> float:
    """Cosine of x radians."""
    return type(x)(math.cos(x))


def sqrt(x: float) -> float:
    """Square root of x >= 0."""
    return type(x)(math.sqrt(x))


def power(x: float, y: float) -> float:
    """x**y for x > 0."""
    return type(x)(math.pow(x, y))


def multiply_add(a: float, b: float, c: float) -> float:
    """a * b + c, rounded once where it is compiled."""
    return type(a)(float(a) * float(b) + float(c))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), never overflowing."""
    if x >= 0:
        return type(x)(1 / (1 + math.exp(-x)))
    decayed = math.exp(x)
    return type(x)(decayed / (1 + decayed))


def sign(x: float) -> float:
    """-1, 0 or 1; zero keeps its sign and NaN stays NaN."""
    if x > 0:
        return type(x)(1)
    if x < 0:
        return type(x)(-1)
    return x


NAMES = (
    "exp",
    "expm1",
    "log",
    "log1p",
    "tanh",
    "erf",
    "sin",
    "cos",
    "sqrt",
    "power",
    "multiply_add",
    "sigmoid",
    "sign",
)
