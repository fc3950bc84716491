"""Where the elementary functions' coefficients come from: ``python -m benchmarks.lab.polynomials``.

Derives every polynomial, says whether `fastbp.backends.cpu.elementary.coefficients` holds the same
numbers, then measures the functions: the largest error in units in the last place over samples of
the whole range, and nanoseconds an element in a loop that LLVM vectorises, beside the functions of
the C library (through Numba) and NumPy's. ``--write`` only prints the coefficients as source,
``--measure`` only measures.
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
from fastbp.backends.cpu.elementary import coefficients
from fastbp.backends.cpu.elementary.coefficients import ERF_FAR, ERF_NEAR

REALS = (np.float32, np.float64)
LENGTH, REPETITIONS = 1024, 1000
DENSE, SPARSE = 2_000_000, 4_000


def half_octave():
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
        lambda real: (-half_octave(), half_octave()),
        (5, 11),
    ),
    "LOG": (
        lambda f: (mpmath.log1p(f) - f + f**2 / 2) / f**3,
        lambda f: abs(f**3 / mpmath.log1p(f)),
        lambda real: (mpmath.sqrt(mpf(1) / 2) - 1, mpmath.sqrt(2) - 1),
        (8, 20),
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
            for value in numbers:
                print(f"        {float(value)!r},")
            print("    ),")
        print("}")


def stored(name):
    """The coefficients that the package uses."""
    return getattr(coefficients, name)


def report_polynomials(derived):
    """A table of the polynomials, with the largest relative error each causes."""
    print("| polynomial | type | coefficients | log2 of the relative error | as stored |")
    print("|---" * 5 + "|")
    for name, fits in derived.items():
        for real, (numbers, error) in fits.items():
            same = tuple(map(float, numbers)) == stored(name)[real]
            print(
                f"| {name} | {real.__name__} | {len(numbers)} | {math.log2(error):.1f} "
                f"| {'yes' if same else 'NO'} |"
            )
    print()


def looped(function):
    """A function over contiguous arrays, several times over."""

    @njit
    def run(x, out, times):
        for _ in range(times):
            for i in range(x.size):
                out[i] = function(x[i])

    return run


def c_sigmoid(x):
    """With the C library's exponential."""
    return 1 / (1 + math.exp(-x))


# Name: the C library's function, NumPy's (None: it has none), arguments timed.
FUNCTIONS = {
    "exp": (math.exp, np.exp, (-5, 5)),
    "expm1": (math.expm1, np.expm1, (-5, 5)),
    "log": (math.log, np.log, (0.01, 10)),
    "log1p": (math.log1p, np.log1p, (-0.9, 10)),
    "tanh": (math.tanh, np.tanh, (-3, 3)),
    "erf": (math.erf, None, (-3, 3)),
    "sigmoid": (njit(c_sigmoid), None, (-5, 5)),
    "sin": (math.sin, np.sin, (-10, 10)),
    "cos": (math.cos, np.cos, (-10, 10)),
}


def nanoseconds(run):
    """The least nanoseconds an element of many short runs; `run` takes a number of repetitions."""
    run(1)
    least = math.inf
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        run(8)
        least = min(least, time.perf_counter() - started)
    return least / 8 / LENGTH * 1e9


def numpy_loop(function, x, out):
    """NumPy's function, several times over."""

    def run(times):
        for _ in range(times):
            function(x, out=out)

    return run


def many_digits(name, x):
    """The function in many digits."""
    if name == "sigmoid":
        return 1 / (1 + mpmath.exp(-x))
    return getattr(mpmath, name)(x)


def arguments(name, real, count):
    """Arguments over all exponents and over the busy part, where the function is real."""
    rng = np.random.default_rng(0)
    words = {np.float32: np.uint32, np.float64: np.uint64}[real]
    spread = 1.1 * math.log(float(np.finfo(real).max))
    anything = rng.integers(0, np.iinfo(words).max, count, dtype=words, endpoint=True)
    parts = [anything.view(real)]
    for end in (1, 8, spread):
        parts.append(rng.uniform(-end, end, count).astype(real))
    x = np.concatenate(parts)
    x = x[np.isfinite(x)]
    return {"log": np.abs(x[x != 0]), "log1p": x[x > -1]}.get(name, x)


def largest_error(name, run, real):
    """The largest error in units in the last place of the exact results.

    float32 is first swept densely against float64, and the worst places are then looked at in many
    digits.
    """
    info = np.finfo(real)
    x = arguments(name, real, DENSE if real is np.float32 else SPARSE)
    out = np.empty_like(x)
    run(x, out, 1)
    if real is np.float32:
        reference = np.empty(x.size)
        looped(FUNCTIONS[name][0])(x.astype(np.float64), reference, 1)
        with np.errstate(all="ignore"):
            exponent = np.maximum(np.frexp(reference)[1] - 1, info.minexp)
            rough = np.abs(np.ldexp(out - reference, info.nmant - exponent))
        worst = np.argsort(np.where(np.isfinite(rough), rough, 0))[-50:]
        x, out = x[worst], out[worst]
    largest = 0.0
    with mpmath.workprec(1400 if name in ("sin", "cos") else 200):
        for argument, value in zip(x.tolist(), out.tolist(), strict=True):
            if name in ("tanh", "erf", "sigmoid", "exp", "expm1") and abs(argument) > 1100:
                continue  # saturated; the tests look at these
            truth = many_digits(name, mpf(argument))
            if not truth or not math.isfinite(value) or abs(truth) > float(info.max):
                continue
            exponent = max(truth.exp + truth.bc - 1, info.minexp)
            error = mpmath.ldexp(abs(mpf(value) - truth), info.nmant - exponent)
            largest = max(largest, float(error))
    return largest


def report_functions():
    """A table of errors and times."""
    print(f"{platform.machine()}, loops over {LENGTH} elements, the least of {REPETITIONS} runs.\n")
    print("| function | type | largest error, ulp | ns | C library, ns | NumPy, ns |")
    print("|---" * 6 + "|")
    for name, (c_function, numpy_function, (low, high)) in FUNCTIONS.items():
        for real in REALS:
            x = np.linspace(low, high, LENGTH).astype(real)
            out = np.empty_like(x)
            own, c_loop = looped(getattr(elementary, name)), looped(c_function)
            times = [
                nanoseconds(lambda times, run=run, x=x, out=out: run(x, out, times))
                for run in (own, c_loop)
            ]
            cells = [f"{largest_error(name, own, real):.2f}", *(f"{t:.2f}" for t in times)]
            with_numpy = numpy_function and nanoseconds(numpy_loop(numpy_function, x, out))
            cells.append(f"{with_numpy:.2f}" if with_numpy else "-")
            print(f"| {name} | {real.__name__} | " + " | ".join(cells) + " |", flush=True)


def main():
    """Derive, compare, measure; or only write the coefficients."""
    if "--measure" not in sys.argv:
        derived = derive()
        if "--write" in sys.argv:
            write(derived)
            return
        report_polynomials(derived)
    report_functions()


if __name__ == "__main__":
    main()
