"""sin and cos for arguments of any size.

The argument is ``a = M * 2**q`` with an integer M. Only a window of the bits of 2/pi matters for
``a * 2/pi`` modulo 4: those above give multiples of 4, those below too little (Payne and Hanek,
Radian reduction for trigonometric functions, 1983; Muller, Elementary Functions, 3rd edition, 2016,
section 11.4). A table gives the window's words for each exponent; M times the window, in integer
arithmetic, gives the quadrant in its two leading bits and below them the distance from the nearest
multiple of pi/2, without cancellation however small it is. Every argument takes this path, so that
nothing branches; arguments below pi/4 then replace the result of the reduction by themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbp.backends.cpu.elementary import coefficients
from fastbp.backends.cpu.elementary.instructions import (
    DOUBLE,
    FORMATS,
    SINGLE,
    Format,
    add,
    bit_and,
    bit_or,
    bit_xor,
    bits,
    inline,
    magnitude,
    multiply,
    narrow,
    number,
    polynomial,
    select,
    shift_left,
    shift_right,
    shift_right_unsigned,
    subtract,
    table,
    widen,
)
from fastbp.backends.cpu.intrinsics import fma

__all__ = ["COS", "SIN", "two_over_pi"]

WORD = 2**32 - 1


def inverse_tangent_of_inverse(n: int, bits: int) -> int:
    """atan(1/n) * 2**bits by its series, rounded down term by term."""
    power = (1 << bits) // n
    total, k = power, 1
    while power:
        power //= n * n
        k += 2
        total += power // k if k % 4 == 1 else -(power // k)
    return total


def two_over_pi(bits: int) -> int:
    """2/pi * 2**bits, rounded down; pi by Machin's formula, 16 atan(1/5) - 4 atan(1/239)."""
    guarded = bits + 64
    fifth = inverse_tangent_of_inverse(5, guarded)
    pi = 16 * fifth - 4 * inverse_tangent_of_inverse(239, guarded)
    return (2 << (bits + guarded)) // pi


def windows(form: Format, words: int, first: int) -> list[Any]:
    """For each exponent field from `first`: 2/pi * 2**q modulo 4 in 32-bit words, highest first."""
    size = 32 * words
    precision = 2 * form.bias + size
    inverse = two_over_pi(precision)
    numbers = []
    for field in range(first, 2 * form.bias + 2):
        q = field - form.bias - form.fraction_bits
        numbers.append((inverse >> (precision - (size - 2) - q)) & ((1 << size) - 1))
    return [
        np.array([(x >> (size - 32 - 32 * i)) & WORD for x in numbers], dtype=np.uint32)
        for i in range(words)
    ]


def make_decomposition(form: Format) -> Any:
    """``a -> (index, M)``: the place of a's window in the tables and the integer significand.

    Numbers below 1/2 get the first window; their reduction is not used.
    """
    integer = form.integer
    fraction_bits, leading = integer(form.fraction_bits), integer(2**form.fraction_bits)
    fraction, first, none = integer(2**form.fraction_bits - 1), integer(form.bias - 1), integer(0)

    @inline
    def decomposition(a):
        pattern = bits(a)
        index = subtract(shift_right(pattern, fraction_bits), first)
        return select(index < none, none, index), bit_or(bit_and(pattern, fraction), leading)

    return decomposition


def make_angle(form: Format) -> Any:
    """``(p, q, r) -> (high, low)``, the pieces of a fraction of pi/2 as an angle in two parts.

    Each piece is a non-negative integer of at most `fraction_bits` bits, which becomes a number by
    setting the exponent field. They are added smallest first; none is negative, so that nothing
    cancels however many leading pieces are zero.
    """
    real = form.real
    base = real(2.0**form.fraction_bits)
    base_bits = base.view(form.integer)
    high_unit, middle_unit = real(2.0**-form.fraction_bits), real(2.0 ** (-2 * form.fraction_bits))
    low_unit = real(2.0 ** -(2 * form.fraction_bits + LAST_PIECE[form.kind]))
    quarter_high, quarter_low = form.split(coefficients.PI / 2)

    @inline
    def angle(p, q, r):
        p = number(bit_or(p, base_bits)) - base
        q = number(bit_or(q, base_bits)) - base
        r = number(bit_or(r, base_bits)) - base
        rest = fma(q, middle_unit, r * low_unit)
        turn = fma(p, high_unit, rest)
        missing = rest - fma(-p, high_unit, turn)
        high = turn * quarter_high
        low = fma(turn, quarter_high, -high)
        return high, low + fma(turn, quarter_low, missing * quarter_high)

    return angle


# The fraction of a quarter turn has 64 bits in float32, 128 in float64: two pieces of as many bits
# as a number holds, and a last one.
LAST_PIECE = {SINGLE.kind: 64 - 2 * SINGLE.fraction_bits, DOUBLE.kind: 128 - 2 * 52}
DECOMPOSITIONS = {form.kind: make_decomposition(form) for form in FORMATS}
ANGLES = {form.kind: make_angle(form) for form in FORMATS}


def make_single_reduction() -> Any:
    """``a -> (quadrant, sign, high, low)``: a is ``quadrant * pi/2`` plus or minus high + low.

    For float32: 24 bits times a window of 96, the product in units of 2**-62. The sign is that of
    the integer `sign`.
    """
    decomposition, angle = DECOMPOSITIONS[SINGLE.kind], ANGLES[SINGLE.kind]
    first, second, third = (
        table(words.view(np.int32)) for words in windows(SINGLE, 3, SINGLE.bias - 1)
    )
    piece = np.int32(2**23 - 1)
    last_piece = np.int32(2**18 - 1)

    @inline
    def reduction(a):
        index, m = decomposition(a)
        m = widen(m)
        lowest = shift_right_unsigned(multiply(m, widen(third(index))), 32)
        product = add(multiply(m, widen(second(index))), lowest)
        product = add(product, shift_left(multiply(m, widen(first(index))), 32))
        # Rounded to the nearest quadrant, the distance is what its 62 bits say when signed.
        quadrant = narrow(shift_right_unsigned(add(product, 1 << 61), 62))
        distance = shift_left(product, 2)
        distance = bit_xor(distance, shift_right(distance, 63))
        high, low = angle(
            narrow(shift_right(distance, 41)),
            bit_and(narrow(shift_right(distance, 18)), piece),
            bit_and(narrow(distance), last_piece),
        )
        return quadrant, narrow(shift_right(product, 30)), high, low

    return reduction


def make_double_reduction() -> Any:
    """The same for float64: 53 bits times a window of 192, the product in units of 2**-126.

    Long multiplication of two words by six; partial products below the last unit are left out.
    """
    decomposition, angle = DECOMPOSITIONS[DOUBLE.kind], ANGLES[DOUBLE.kind]
    words = windows(DOUBLE, 6, DOUBLE.bias - 1)
    first, second, third = (
        table(((words[i].astype(np.uint64) << 32) | words[i + 1]).view(np.int64)) for i in (0, 2, 4)
    )

    @inline
    def times(m, a, b, c, d, e):
        """The words of m times five words, highest first, without the lowest two."""
        t = add(multiply(m, d), shift_right_unsigned(multiply(m, e), 32))
        u = add(multiply(m, c), shift_right_unsigned(t, 32))
        v = add(multiply(m, b), shift_right_unsigned(u, 32))
        w = add(multiply(m, a), shift_right_unsigned(v, 32))
        return w, bit_and(v, WORD), bit_and(u, WORD), bit_and(t, WORD)

    @inline
    def reduction(a):
        index, m = decomposition(a)
        pair = first(index)
        w0, w1 = shift_right_unsigned(pair, 32), bit_and(pair, WORD)
        pair = second(index)
        w2, w3 = shift_right_unsigned(pair, 32), bit_and(pair, WORD)
        pair = third(index)
        w4, w5 = shift_right_unsigned(pair, 32), bit_and(pair, WORD)
        a0, a1, a2, a3 = times(bit_and(m, WORD), w0, w1, w2, w3, w4)
        b0, b1, b2, b3 = times(shift_right_unsigned(m, 32), w1, w2, w3, w4, w5)
        s3 = add(a3, b3)
        s2 = add(add(a2, b2), shift_right_unsigned(s3, 32))
        s1 = add(add(a1, b1), shift_right_unsigned(s2, 32))
        upper = add(shift_left(add(a0, b0), 32), s1)
        lower = bit_or(shift_left(s2, 32), bit_and(s3, WORD))
        quadrant = shift_right_unsigned(add(upper, 1 << 61), 62)
        sign = shift_left(upper, 2)
        negative = shift_right(sign, 63)
        distance = bit_xor(bit_or(sign, shift_right_unsigned(lower, 62)), negative)
        lower = bit_xor(shift_left(lower, 2), negative)
        high, low = angle(
            shift_right_unsigned(distance, 12),
            bit_or(shift_left(bit_and(distance, 4095), 40), shift_right_unsigned(lower, 24)),
            bit_and(lower, 2**24 - 1),
        )
        return quadrant, sign, high, low

    return reduction


REDUCTIONS = {SINGLE.kind: make_single_reduction(), DOUBLE.kind: make_double_reduction()}


def make_sine(form: Format, is_cosine: bool) -> Any:
    """sin(x) or cos(x) = sin(abs(x) + pi/2), by polynomials on [-pi/4, pi/4]."""
    real, integer = form.real, form.integer
    reduction = REDUCTIONS[form.kind]
    zero, one, half = real(0), real(1), real(0.5)
    infinity, near = real(np.inf), real(np.pi / 4)
    sine_bend = polynomial(coefficients.SIN[real])
    cosine_bend = polynomial(coefficients.COS[real])
    none, odd, ahead = integer(0), integer(1), integer(1 if is_cosine else 0)
    sign_bit = np.iinfo(integer).min
    sign_bit = integer(sign_bit)
    to_sign = integer(8 * np.dtype(integer).itemsize - 2)

    @inline
    def sine(x):
        size = magnitude(x)
        quadrant, sign, high, low = reduction(size)
        unreduced = size <= near
        quadrant = add(select(unreduced, none, quadrant), ahead)
        sign = select(unreduced, none, sign)
        high = select(unreduced, size, high)
        low = select(unreduced, zero, low)
        square = high * high
        odd_part = high + fma(high * square, sine_bend(square), low)
        even_part = fma(square, fma(square, cosine_bend(square), -half), one)
        is_even = bit_and(quadrant, odd) == none
        flips = bit_xor(select(is_even, sign, none), shift_left(quadrant, to_sign))
        if not is_cosine:
            flips = bit_xor(flips, bits(x))
        value = select(is_even, odd_part, even_part)
        value = number(bit_xor(bits(value), bit_and(flips, sign_bit)))
        return select(size < infinity, value, x - x)

    return sine


SIN = {form.kind: make_sine(form, False) for form in FORMATS}
COS = {form.kind: make_sine(form, True) for form in FORMATS}
