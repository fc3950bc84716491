"""The CPU's versions of `fastbp.elementary`: importing this module lets Numba compile laws."""

from __future__ import annotations

import math

from numba import types
from numba.extending import overload

from fastbp import elementary

__all__: list[str] = []


@overload(elementary.constant, inline="always")
def constant(value, like):
    kind = like
    if not isinstance(kind, types.Float):
        return None

    def implementation(value, like):
        return kind(value)

    return implementation


def supply(name, implementation):
    """Register the compiled version of a function of one or two scalars."""
    overload(getattr(elementary, name), jit_options={"error_model": "numpy"})(implementation)


def exp(x):
    return lambda x: math.exp(x)


def expm1(x):
    return lambda x: math.expm1(x)


def log(x):
    return lambda x: math.log(x)


def log1p(x):
    return lambda x: math.log1p(x)


def tanh(x):
    return lambda x: math.tanh(x)


def erf(x):
    return lambda x: math.erf(x)


def sin(x):
    return lambda x: math.sin(x)


def cos(x):
    return lambda x: math.cos(x)


def sqrt(x):
    return lambda x: math.sqrt(x)


def power(x, y):
    return lambda x, y: math.pow(x, y)


def sigmoid(x):
    kind = x

    def implementation(x):
        one = kind(1.0)
        decayed = math.exp(-x if x >= kind(0.0) else x)
        share = one / (one + decayed)
        return share if x >= kind(0.0) else decayed * share

    return implementation


def sign(x):
    kind = x

    def implementation(x):
        if x > kind(0.0):
            return kind(1.0)
        if x < kind(0.0):
            return kind(-1.0)
        return x

    return implementation


for _name in elementary.NAMES:
    supply(_name, globals()[_name])
