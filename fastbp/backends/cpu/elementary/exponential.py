"""exp, expm1, sigmoid and tanh.

The argument is written as ``x = n ln(2) + r`` with an integer n and abs(r) <= ln(2) / 2, ln(2) in
two parts (Cody and Waite, Software Manual for the Elementary Functions, 1980; Muller, Elementary
Functions, 3rd edition, 2016, section 11.2); ``exp(r) - 1 = r + r**2 P(r)`` with a minimax
polynomial P; and multiplication by 2**n is arithmetic on the exponent field.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types

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
    polynomial_of_square,
    select,
    shift_left,
    shift_right,
    subtract,
    with_sign_of,
)
from fastbp.backends.cpu.intrinsics import fma

__all__ = ["EXP", "EXPM1", "POWERS_OF_TWO", "REDUCTIONS", "SIGMOID", "TANH"]


def make_reduction(form: Format) -> Any:
    """``x -> (n, high, tail)`` with ``exp(x) = 2**n * (1 + (high + tail))``.

    `high` is ``x - n * ln(2)`` with the leading part of ln(2): the fused multiply-add leaves it
    without error, since n is an integer of few bits. `tail` is all the rest, so that the sum
    ``high + tail`` suffers a single rounding.
    """
    real = form.real
    magic, magic_bits = form.magic, form.magic_bits
    per_octave = real(1 / math.log(2))
    octave_high, octave_low = form.split(coefficients.LN2)
    bend = polynomial(coefficients.EXP[real])

    @inline
    def reduction(x):
        shifted = fma(x, per_octave, magic)
        count = shifted - magic
        high = fma(count, -octave_high, x)
        r = fma(count, -octave_low, high)
        tail = fma(count, -octave_low, r * r * bend(r))
        return subtract(bits(shifted), magic_bits), high, tail

    return reduction


def make_power_of_two(form: Format) -> Any:
    """``n -> 2**n`` for exponents of normal numbers."""
    bias, fraction_bits = form.integer(form.bias), form.integer(form.fraction_bits)

    @inline
    def power_of_two(n):
        return number(shift_left(add(n, bias), fraction_bits))

    return power_of_two


REDUCTIONS = {form.kind: make_reduction(form) for form in FORMATS}
POWERS_OF_TWO = {form.kind: make_power_of_two(form) for form in FORMATS}


def make_exp(form: Format) -> Any:
    """exp(x).

    Beyond the bounds the result is infinity or zero; a comparison with NaN is false, which lets
    NaN through. 2**n is applied in two factors: both are normal numbers, and a result that is not
    is rounded once.
    """
    real = form.real
    reduction, power_of_two = REDUCTIONS[form.kind], POWERS_OF_TWO[form.kind]
    single = form.integer(1)
    highest = real((form.bias + 2) * math.log(2))
    lowest = real(-(form.bias + form.fraction_bits + 1) * math.log(2))

    @inline
    def exp(x):
        bounded = select(x > highest, highest, x)
        bounded = select(bounded < lowest, lowest, bounded)
        n, high, tail = reduction(bounded)
        half = shift_right(n, single)
        scale = power_of_two(half)
        return fma(scale, high + tail, scale) * power_of_two(subtract(n, half))

    return exp


def make_expm1(form: Format) -> Any:
    """exp(x) - 1, as ``2**n * p + (2**n - 1)`` with ``p = exp(r) - 1`` in one rounding.

    All is done at half its size, or 2**n would overflow before the result does; where x is so
    small that the result is x, halving could lose its last bit, so that x is taken itself.
    """
    real = form.real
    reduction, power_of_two = REDUCTIONS[form.kind], POWERS_OF_TWO[form.kind]
    half, single = real(0.5), form.integer(1)
    highest = real((form.bias + 1.25) * math.log(2))
    lowest = real(-(form.fraction_bits + 3) * math.log(2))
    tiny = real(2.0 ** -(form.fraction_bits + 2))

    @inline
    def expm1(x):
        bounded = select(x > highest, highest, x)
        bounded = select(bounded < lowest, lowest, bounded)
        n, high, tail = reduction(bounded)
        scale = power_of_two(subtract(n, single))
        result = fma(scale, high + tail, scale - half)
        return select(magnitude(x) < tiny, x, result + result)

    return expm1


def make_sigmoid(form: Format) -> Any:
    """1 / (1 + exp(-x)), numerator and denominator divided by a power of two.

    With ``exp(-x) = 2**n (1 + r)`` they are ``2**-h`` and ``2**(n - h) + 2**-h + 2**(n - h) r``,
    h being half of n, so that neither overflows and a subnormal result is rounded once. What the
    sum of the two powers loses is added to the product, and only the last sum is rounded at full
    size: exp(-x) itself would lose a bit where it is just above a power of two.
    """
    real = form.real
    reduction, power_of_two = REDUCTIONS[form.kind], POWERS_OF_TWO[form.kind]
    none, single = form.integer(0), form.integer(1)
    bound = real((form.bias + form.fraction_bits + 1) * math.log(2))

    @inline
    def sigmoid(x):
        bounded = select(x > bound, bound, x)
        bounded = select(bounded < -bound, -bound, bounded)
        n, high, tail = reduction(-bounded)
        half = shift_right(n, single)
        scale, unit = power_of_two(subtract(n, half)), power_of_two(subtract(none, half))
        total = scale + unit
        lost = (scale - total) + unit
        return unit / (total + fma(scale, high, fma(scale, tail, lost)))

    return sigmoid


def make_tanh(form: Format) -> Any:
    """tanh(x) = h / (h + 1) with ``h = (exp(2 abs(x)) - 1) / 2``, and the sign of x.

    With ``abs(x) = n ln(2) / 2 + u``, h is ``2**n g + (2**n - 1) / 2``, where g is
    ``(exp(2 u) - 1) / 2 = u + u**2 P(u)``. What the reduction of x loses is felt less the larger x
    is; in float32 that hides the last digits of ln(2). For small h, ``h - h q`` with ``q = h / (h
    + 1)`` is the same without the rounding of ``h + 1``, which would be as large as that of h.
    """
    real = form.real
    power_of_two = POWERS_OF_TWO[form.kind]
    one, half = real(1), real(0.5)
    near = real(coefficients.TANH_NEAR)
    highest = real((form.fraction_bits + 4) * math.log(2) / 2)
    magic, magic_bits = form.magic, form.magic_bits
    per_step = real(2 / math.log(2))
    step_high, step_low = form.split(coefficients.LN2 / 2)
    exact = form.kind == types.float64
    scaled = [2 * 2**k * float(c) for k, c in enumerate(coefficients.EXP[real])]
    bend = polynomial_of_square(scaled)

    @inline
    def tanh(x):
        size = magnitude(x)
        bounded = select(size > highest, highest, size)
        shifted = fma(bounded, per_step, magic)
        count = shifted - magic
        u = fma(count, -step_high, bounded)
        if exact:
            u = fma(count, -step_low, u)
        square = u * u
        grown = fma(square, bend(u, square), u)
        scale = power_of_two(subtract(bits(shifted), magic_bits))
        h = fma(scale, grown, fma(scale, half, -half))
        quotient = h / (h + one)
        return with_sign_of(select(size < near, fma(-h, quotient, h), quotient), x)

    return tanh


EXP = {form.kind: make_exp(form) for form in FORMATS}
EXPM1 = {form.kind: make_expm1(form) for form in FORMATS}
SIGMOID = {form.kind: make_sigmoid(form) for form in FORMATS}
TANH = {form.kind: make_tanh(form) for form in FORMATS}
