"""Where the elementary functions' coefficients come from: ``python -m benchmarks.lab.polynomials``.

Derives every polynomial, says whether `fastbp.backends.cpu.elementary.coefficients` holds the same
numbers, then measures the functions: the largest error in units in the last place over samples of
the whole range, and nanoseconds an element in a loop that LLVM vectorises, beside the functions of
the C library (through Numba) and NumPy's. With ``--write`` prints the coefficients instead.
"""

from __future__ import annotations

import math
import platform
import sys
import time

import mpmath
import numpy as np
from mpmath import mpf
from numba import njit

from benchmarks.lab.minimax import fit
from fastbp import elementary

REALS = (np.float32, np.float64)
ERF_NEAR = {np.float32: 0.5, np.float64: 0.75}
ERF_FAR = {np.float32: 3.95, np.float64: 5.95}
TANH_NEAR = 0.55


def octave():
    """Half of ln(2), with a little room for the rounding of the reduction."""
    return mpmath.log(2) / 2 * mpf("1.0001")


def root(function):
    """An odd or even function of x as a function of u = x**2."""
    return lambda u: function(mpmath.sqrt(u))


# Name: what the polynomial approximates, the relative error of the function that a unit of error
# costs, the interval, and the number of coefficients for float32 and float64. Zero itself, where
# the quotients are undefined, is left out.
POLYNOMIALS = {
    "EXP": (
        lambda r: (mpmath.expm1(r) - r) / r**2,
        lambda r: abs(r**2 / mpmath.expm1(r)),
        lambda real: (-octave(), octave()),
        (5, 11),
    ),
    "LOG": (
        lambda f: (mpmath.log1p(f) - f + f**2 / 2) / f**3,
        lambda f: abs(f**3 / mpmath.log1p(f)),
        lambda real: (mpmath.sqrt(mpf(1) / 2) - 1, mpmath.sqrt(2) - 1),
        (8, 20),
    ),
    "TANH": (
        root(lambda x: (mpmath.tanh(x) / x - 1) / x**2),
        root(lambda x: x**3 / mpmath.tanh(x)),
        lambda real: (mpf("1e-12"), mpf(TANH_NEAR) ** 2),
        (5, 11),
    ),
    "ERF_SMALL": (
        root(lambda x: mpmath.erf(x) / x - 1),
        root(lambda x: x / mpmath.erf(x)),
        lambda real: (mpf("1e-12"), mpf(ERF_NEAR[real]) ** 2),
        (5, 11),
    ),
    "ERF_LARGE": (
        lambda x: mpmath.log(mpmath.erfc(x)),
        lambda x: mpmath.erfc(x) / mpmath.erf(x),
        lambda real: (mpf(ERF_NEAR[real]), mpf(ERF_FAR[real])),
        (7, 20),
    ),
    "SIN": (
        root(lambda x: (mpmath.sin(x) / x - 1) / x**2),
        root(lambda x: x**3 / mpmath.sin(x)),
        lambda real: (mpf("1e-12"), (mpmath.pi / 4) ** 2),
        (3, 6),
    ),
    "COS": (
        root(lambda x: (mpmath.cos(x) - 1 + x**2 / 2) / x**4),
        root(lambda x: x**4 / mpmath.cos(x)),
        lambda real: (mpf("1e-9"), (mpmath.pi / 4) ** 2),
        (3, 6),
    ),
}


def derive():
    """{name: {real: (coefficients, largest error)}}."""
    with mpmath.workdps(60):
        return {
            name: {
                real: fit(function, weight, interval(real), count, real)
                for real, count in zip(REALS, counts, strict=True)
            }
            for name, (function, weight, interval, counts) in POLYNOMIALS.items()
        }


def write(derived):
    """The coefficients as Python source."""
    for name, fits in derived.items():
        print(f"{name} = {{")
        for real, (numbers, _) in fits.items():
            print(f"    np.{real.__name__}: (")
            for number in numbers:
                print(f"        {float(number)!r},")
            print("    ),")
        print("}")
