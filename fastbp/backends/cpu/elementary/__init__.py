"""The CPU's versions of `fastbp.elementary`: importing this package lets Numba compile laws.

Every function is branch-free arithmetic, so that LLVM turns a loop over it into vector code, and
every multiply-add that is fused says so, so that the bits are the same whatever the vector width.
The errors of all of them, over the whole range of both precisions, are below 2 units in the last
place; ``tests/test_elementary.py`` holds them to it, and ``benchmarks/lab/polynomials.py`` derives
their coefficients.
"""

from __future__ import annotations

import math

from numba import types
from numba.extending import overload

from fastbp import elementary
from fastbp.backends.cpu.elementary import (
    error_function,
    exponential,
    instructions,
    logarithm,
    trigonometric,
)
from fastbp.backends.cpu.intrinsics import fma

__all__: list[str] = []

IMPLEMENTATIONS = {
    "cos": trigonometric.COS,
    "erf": error_function.ERF,
    "exp": exponential.EXP,
    "expm1": exponential.EXPM1,
    "log": logarithm.LOG,
    "log1p": logarithm.LOG1P,
    "sigmoid": exponential.SIGMOID,
    "sin": trigonometric.SIN,
    "tanh": exponential.TANH,
}
OPTIONS = {"error_model": "numpy", "forceinline": True}


@overload(elementary.constant, inline="always")
def constant(value, like):
    kind = like
    if not isinstance(kind, types.Float):
        return None

    def implementation(value, like):
        return kind(value)

    return implementation


def supply(name, implementations):
    """Register the compiled versions of a function of one scalar, one for each number type."""

    @overload(getattr(elementary, name), jit_options=OPTIONS)
    def choose(x):
        return implementations.get(x)


for _name, _implementations in IMPLEMENTATIONS.items():
    supply(_name, _implementations)


@overload(elementary.sqrt, jit_options=OPTIONS)
def sqrt(x):
    return lambda x: math.sqrt(x)


@overload(elementary.multiply_add, jit_options=OPTIONS)
def multiply_add(a, b, c):
    return lambda a, b, c: fma(a, b, c)


@overload(elementary.power, jit_options=OPTIONS)
def power(x, y):
    return lambda x, y: math.pow(x, y)


@overload(elementary.sign, jit_options=OPTIONS)
def sign(x):
    kind = x

    def implementation(x):
        below = instructions.select(x < kind(0.0), kind(-1.0), x)
        return instructions.select(x > kind(0.0), kind(1.0), below)

    return implementation
