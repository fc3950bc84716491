"""log and log1p.

A positive number is written as ``2**k * (1 + f)`` with 1 + f in [sqrt(1/2), sqrt(2)), and
``log(1 + f) = f - f**2 / 2 + f**3 P(f)`` with a minimax polynomial P; ln(2) is in two parts
(Muller, Elementary Functions, 3rd edition, 2016, section 11.4). No division.
"""

from __future__ import annotations

import math
from typing import Any

from fastbp.backends.cpu.elementary import coefficients
from fastbp.backends.cpu.elementary.instructions import (
    FORMATS,
    Format,
    add,
    bits,
    inline,
    magnitude,
    number,
    polynomial,
    select,
    shift_left,
    shift_right,
    subtract,
)
from fastbp.backends.cpu.intrinsics import fma

__all__ = ["LOG", "LOG1P"]


def make_split(form: Format) -> Any:
    """``x -> (k, f)`` with ``x = 2**k * (1 + f)``, for positive normal numbers; f is exact."""
    real = form.real
    one = real(1)
    root_bits = real(math.sqrt(0.5)).view(form.integer)
    fraction_bits = form.integer(form.fraction_bits)

    @inline
    def split(x):
        k = shift_right(subtract(bits(x), root_bits), fraction_bits)
        return k, number(subtract(bits(x), shift_left(k, fraction_bits))) - one

    return split


def make_sum(form: Format) -> Any:
    """``(k, f, rest) -> k ln(2) + log(1 + f) + rest`` for a rest far below f's last bit.

    Small terms are gathered before they meet f, and f before it meets the multiple of ln(2).
    """
    real = form.real
    minus_half = real(-0.5)
    magic, magic_bits = form.magic, form.magic_bits
    octave_high, octave_low = form.split(coefficients.LN2)
    bend = polynomial(coefficients.LOG[real])

    @inline
    def summed(k, f, rest):
        count = number(add(k, magic_bits)) - magic
        small = fma(f * f, fma(f, bend(f), minus_half), fma(count, octave_low, rest))
        return fma(count, octave_high, f + small)

    return summed


SPLITS = {form.kind: make_split(form) for form in FORMATS}
SUMS = {form.kind: make_sum(form) for form in FORMATS}


def make_log(form: Format) -> Any:
    """log(x): -infinity at 0, NaN below; subnormal numbers are first made normal."""
    real = form.real
    split, summed = SPLITS[form.kind], SUMS[form.kind]
    zero, infinity, missing = real(0), real(math.inf), real(math.nan)
    normal = real(2.0 ** (1 - form.bias))
    lift, lifted = real(2.0 ** (form.fraction_bits + 1)), form.integer(form.fraction_bits + 1)
    none = form.integer(0)

    @inline
    def log(x):
        subnormal = x < normal
        k, f = split(select(subnormal, x * lift, x))
        result = summed(subtract(k, select(subnormal, lifted, none)), f, zero)
        result = select(x < infinity, result, x)
        result = select(x < zero, missing, result)
        return select(x == zero, -infinity, result)

    return log


def make_log1p(form: Format) -> Any:
    """log(1 + x).

    ``u + c = 1 + x`` without error (Knuth, The Art of Computer Programming, volume 2, section
    4.2.2); f of u is corrected by c, and what is lost by that is the rest: its division by 1 + f
    would change less than the last bit.
    """
    real = form.real
    split, summed = SPLITS[form.kind], SUMS[form.kind]
    one, infinity, missing = real(1), real(math.inf), real(math.nan)
    tiny = real(2.0 ** -(form.fraction_bits + 2))
    bias, fraction_bits = form.integer(form.bias), form.integer(form.fraction_bits)
    most = form.integer(2 * form.fraction_bits)

    @inline
    def log1p(x):
        u = one + x
        share = u - one
        c = (one - (u - share)) + (x - share)
        k, f = split(u)
        # Where 2**-k is no normal number, c is zero beside u.
        scale = number(shift_left(subtract(bias, select(k > most, most, k)), fraction_bits))
        c = c * scale
        corrected = f + c
        result = summed(k, corrected, c - (corrected - f))
        result = select((magnitude(x) >= tiny) & (x < infinity), result, x)
        result = select(x == -one, -infinity, result)
        return select(x < -one, missing, result)

    return log1p


LOG = {form.kind: make_log(form) for form in FORMATS}
LOG1P = {form.kind: make_log1p(form) for form in FORMATS}
