"""sin and cos for arguments of any size, without memory of the thread's own.

The argument is brought to [-pi/4, pi/4] by subtracting a multiple of pi/2. Below `BOUND` that is
``x - k * pi/2`` with pi/2 in three parts (Cody and Waite, Software Manual for the Elementary
Functions, 1980): the first product leaves no error, since the difference has few enough bits, and
the third is small beside any remainder that occurs. A larger argument is ``M * 2**q`` with an
integer M, and only a window of the bits of 2/pi matters for its quotient by pi/2 modulo 4: those
above give multiples of 4, those below too little (Payne and Hanek, Radian reduction for
trigonometric functions, 1983; Muller, Elementary Functions, 3rd edition, 2016, section 11.4).

The window is picked by masks rather than from a table, which would be memory: for each bit of its
place, all words move up by a power of two or stay. That is written out, since the compiler takes
ten times as long over loops and tuples. Words of 32 bits are held in integers of 64; what wraps
there when compiled changes no bit, because it is used only in its lowest 32 bits after at most one
shift by 32.

No product is added to anything but by `fma`, or the compiler would be free to fuse the two.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from fastbp.backends.cuda.language import float_bits, fma

__all__ = ["make_sine"]

BOUND_EXPONENT = 16
BOUND = 2.0**BOUND_EXPONENT
MASK = 0xFFFFFFFF
QUARTER = 2**30 - 1  # of the leading word of a fraction of four quarter turns
EIGHTH = 2**29


class Format(NamedTuple):
    """A binary floating-point format, and what depends on its precision.

    Attributes
    ----------
    fraction_bits, bias : int
        Stored bits of the significand; what the exponent field exceeds the exponent by.
    words : int
        Of 64 bits, that hold all windows.
    sine, cosine : tuple of float
        ``(sin(x) - x) / x**3`` and ``(cos(x) - 1 + x**2 / 2) / x**4`` as polynomials in x**2,
        lowest first, as the CPU has them.
    """

    fraction_bits: int
    bias: int
    words: int
    sine: tuple[float, ...]
    cosine: tuple[float, ...]


FORMATS = {
    "float32": Format(
        fraction_bits=23,
        bias=127,
        words=4,
        sine=(-0.16666655242443085, 0.008332189172506332, -0.00019518291810527444),
        cosine=(0.04166664555668831, -0.0013887309469282627, 2.4432327336398885e-05),
    ),
    "float64": Format(
        fraction_bits=52,
        bias=1023,
        words=19,
        sine=(
            -0.1666666666666663,
            0.00833333333332184,
            -0.00019841269829358541,
            2.755731353852319e-06,
            -2.5050734390870846e-08,
            1.589543337111022e-10,
        ),
        cosine=(
            0.041666666666666595,
            -0.0013888888888873342,
            2.480158728900206e-05,
            -2.755731421702404e-07,
            2.0875705392425457e-09,
            -1.1358748959545805e-11,
        ),
    ),
}


def inverse_tangent_of_inverse(n: int, bits: int) -> int:
    """atan(1/n) * 2**bits by its series, rounded down term by term."""
    power = (1 << bits) // n
    total, k = power, 1
    while power:
        power //= n * n
        k += 2
        total += power // k if k % 4 == 1 else -(power // k)
    return total


def scaled_pi(bits: int) -> int:
    """pi * 2**bits, but for the last bits, by Machin's formula: 16 atan(1/5) - 4 atan(1/239)."""
    fifth = inverse_tangent_of_inverse(5, bits)
    return 16 * fifth - 4 * inverse_tangent_of_inverse(239, bits)


PI_BITS = 1400
PI = scaled_pi(PI_BITS)


def half_pi_parts(dtype: str, count: int) -> list[float]:
    """pi/2 as a sum of numbers of a kind, each the nearest to what those before leave."""
    rest = Fraction(PI, 2 << PI_BITS)
    parts = []
    for _ in range(count):
        parts.append(float(np.dtype(dtype).type(float(rest))))
        rest -= Fraction(parts[-1])
    return parts


def quotient_words(form: Format) -> tuple[int, ...]:
    """The bits of 2/pi in signed words of 64, from the window for 2**BOUND_EXPONENT on.

    The first bit of the window for ``M * 2**q`` has the value ``2**(1 - q)``, so that their product
    modulo 4 is in units of the window's last bit.
    """
    first = BOUND_EXPONENT - form.fraction_bits - 1
    bits = first + 64 * form.words - 1
    number = (2 << (PI_BITS + bits)) // PI
    words = [(number >> 64 * i) % 2**64 for i in reversed(range(form.words))]
    return tuple(word - (word >> 63 << 64) for word in words)


SINGLE_WORDS, DOUBLE_WORDS = (quotient_words(FORMATS[dtype]) for dtype in ("float32", "float64"))


def single_window(place):
    """Three words of 32 bits from a bit of `SINGLE_WORDS` on."""
    t0, t1, t2, t3 = SINGLE_WORDS
    mask = -((place >> 6) & 1)
    a0 = t0 ^ ((t0 ^ t1) & mask)
    a1 = t1 ^ ((t1 ^ t2) & mask)
    a2 = t2 ^ ((t2 ^ t3) & mask)
    mask = -((place >> 5) & 1)
    b0, b1, b2, b3, b4 = a0 >> 32, a0, a1 >> 32, a1, a2 >> 32
    c0 = (b0 ^ ((b0 ^ b1) & mask)) & MASK
    c1 = (b1 ^ ((b1 ^ b2) & mask)) & MASK
    c2 = (b2 ^ ((b2 ^ b3) & mask)) & MASK
    c3 = (b3 ^ ((b3 ^ b4) & mask)) & MASK
    back = 32 - (place & 31)
    d0 = ((c0 << 32 | c1) >> back) & MASK
    d1 = ((c1 << 32 | c2) >> back) & MASK
    d2 = ((c2 << 32 | c3) >> back) & MASK
    return d0, d1, d2


def double_words(place):
    """Four words of 64 bits, from one of `DOUBLE_WORDS` on, that hold the window."""
    t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15, t16, t17, t18 = (
        DOUBLE_WORDS
    )
    mask = -((place >> 9) & 1)
    a0 = t0 ^ ((t0 ^ t8) & mask)
    a1 = t1 ^ ((t1 ^ t9) & mask)
    a2 = t2 ^ ((t2 ^ t10) & mask)
    a3 = t3 ^ ((t3 ^ t11) & mask)
    a4 = t4 ^ ((t4 ^ t12) & mask)
    a5 = t5 ^ ((t5 ^ t13) & mask)
    a6 = t6 ^ ((t6 ^ t14) & mask)
    a7 = t7 ^ ((t7 ^ t15) & mask)
    a8 = t8 ^ ((t8 ^ t16) & mask)
    a9 = t9 ^ ((t9 ^ t17) & mask)
    a10 = t10 ^ ((t10 ^ t18) & mask)
    mask = -((place >> 8) & 1)
    b0 = a0 ^ ((a0 ^ a4) & mask)
    b1 = a1 ^ ((a1 ^ a5) & mask)
    b2 = a2 ^ ((a2 ^ a6) & mask)
    b3 = a3 ^ ((a3 ^ a7) & mask)
    b4 = a4 ^ ((a4 ^ a8) & mask)
    b5 = a5 ^ ((a5 ^ a9) & mask)
    b6 = a6 ^ ((a6 ^ a10) & mask)
    mask = -((place >> 7) & 1)
    c0 = b0 ^ ((b0 ^ b2) & mask)
    c1 = b1 ^ ((b1 ^ b3) & mask)
    c2 = b2 ^ ((b2 ^ b4) & mask)
    c3 = b3 ^ ((b3 ^ b5) & mask)
    c4 = b4 ^ ((b4 ^ b6) & mask)
    mask = -((place >> 6) & 1)
    d0 = c0 ^ ((c0 ^ c1) & mask)
    d1 = c1 ^ ((c1 ^ c2) & mask)
    d2 = c2 ^ ((c2 ^ c3) & mask)
    d3 = c3 ^ ((c3 ^ c4) & mask)
    return d0, d1, d2, d3


def double_window(place):
    """Six words of 32 bits from a bit of `DOUBLE_WORDS` on."""
    a0, a1, a2, a3 = double_words(place)
    mask = -((place >> 5) & 1)
    b0, b2, b4, b6 = a0 >> 32, a1 >> 32, a2 >> 32, a3 >> 32
    c0 = (b0 ^ ((b0 ^ a0) & mask)) & MASK
    c1 = (a0 ^ ((a0 ^ b2) & mask)) & MASK
    c2 = (b2 ^ ((b2 ^ a1) & mask)) & MASK
    c3 = (a1 ^ ((a1 ^ b4) & mask)) & MASK
    c4 = (b4 ^ ((b4 ^ a2) & mask)) & MASK
    c5 = (a2 ^ ((a2 ^ b6) & mask)) & MASK
    c6 = (b6 ^ ((b6 ^ a3) & mask)) & MASK
    back = 32 - (place & 31)
    d0 = ((c0 << 32 | c1) >> back) & MASK
    d1 = ((c1 << 32 | c2) >> back) & MASK
    d2 = ((c2 << 32 | c3) >> back) & MASK
    d3 = ((c3 << 32 | c4) >> back) & MASK
    d4 = ((c4 << 32 | c5) >> back) & MASK
    d5 = ((c5 << 32 | c6) >> back) & MASK
    return d0, d1, d2, d3, d4, d5


def single_product(m, window):
    """Three words times 24 bits: the two words above the lowest, and two of zeros."""
    a, b, c = window
    low = m * b + ((m * c) >> 32)
    return (m * a + (low >> 32)) & MASK, low & MASK, 0, 0


def double_product(m, window):
    """Six words times 53 bits: the four words above the lowest two.

    Partial products below the last of them are left out.
    """
    a, b, c, d, e, f = window
    m0, m1 = m & MASK, m >> 32
    p3 = m0 * d + (((m0 * e) >> 32) & MASK)
    p2 = m0 * c + ((p3 >> 32) & MASK)
    p1 = m0 * b + ((p2 >> 32) & MASK)
    p0 = m0 * a + ((p1 >> 32) & MASK)
    q3 = m1 * e + ((m1 * f) >> 32)
    q2 = m1 * d + (q3 >> 32)
    q1 = m1 * c + (q2 >> 32)
    q0 = m1 * b + (q1 >> 32)
    s3 = (p3 & MASK) + (q3 & MASK)
    s2 = (p2 & MASK) + (q2 & MASK) + (s3 >> 32)
    s1 = (p1 & MASK) + (q1 & MASK) + (s2 >> 32)
    s0 = (p0 & MASK) + (q0 & MASK) + (s1 >> 32)
    return s0 & MASK, s1 & MASK, s2 & MASK, s3 & MASK


WINDOWS = {"float32": single_window, "float64": double_window}
PRODUCTS = {"float32": single_product, "float64": double_product}


def make_large_reduction(dtype: str, real: Any) -> Callable[..., Any]:
    """Make ``reduce(x) -> (quadrant, r)`` for x of at least `BOUND`: x is quadrant * pi/2 + r."""
    form = FORMATS[dtype]
    window, product = WINDOWS[dtype], PRODUCTS[dtype]
    fraction_bits, exponent_mask = form.fraction_bits, 2 * form.bias + 1
    first, leading = form.bias + BOUND_EXPONENT, 1 << form.fraction_bits
    unit = 2.0**-62
    half_pi, half_pi_rest = (unit * part for part in half_pi_parts(dtype, 2))
    is_single = dtype == "float32"
    word_unit, second_word_unit = 2.0**-32, 2.0**-64

    def reduce(x):
        pattern = float_bits(x)
        place = ((pattern >> fraction_bits) & exponent_mask) - first
        m = (pattern & (leading - 1)) | leading
        first_word, second_word, third_word, last_word = product(m, window(place))
        # Of the quarter turns, the nearest integer, and the distance from it in units of 2**-62.
        quadrant = (first_word + EIGHTH) >> 30
        distance = ((((first_word + EIGHTH) & QUARTER) - EIGHTH) << 32) | second_word
        # The same as a sum of two numbers, and that times pi/2 as one.
        turn = real(distance)
        rest = real(distance - int(turn))
        if not is_single:
            below = real(last_word) * real(second_word_unit)
            rest = rest + fma(real(third_word), real(word_unit), below)
        rounded = turn + rest
        missing = rest - (rounded - turn)
        low = fma(rounded, real(half_pi_rest), missing * real(half_pi))
        return quadrant, fma(rounded, real(half_pi), low)

    return reduce


def make_reduction(dtype: str, real: Any) -> Callable[..., Any]:
    """Make ``reduce(x) -> (quadrant, r)`` for x >= 0; the last two bits of the quadrant count."""
    first, second, third = half_pi_parts(dtype, 3)
    # Added to a small number, it leaves the nearest integer in the last bits of the sum.
    magic = 1.5 * 2.0 ** FORMATS[dtype].fraction_bits
    inverse = 1.0 / half_pi_parts("float64", 1)[0]
    reduce_large = make_large_reduction(dtype, real)

    def reduce(x):
        if x < real(BOUND):
            shifted = fma(x, real(inverse), real(magic))
            count = real(magic) - shifted
            r = fma(count, real(first), x)
            r = fma(count, real(second), r)
            r = fma(count, real(third), r)
            quadrant = float_bits(shifted)
        else:
            quadrant, r = reduce_large(x)
        return quadrant, r

    return reduce


def make_polynomial(coefficients: tuple[float, ...], real: Any) -> Callable[..., Any]:
    """Make the polynomial with these three or six coefficients, lowest first."""
    c0, c1, c2 = coefficients[:3]

    def quadratic(x):
        return fma(fma(real(c2), x, real(c1)), x, real(c0))

    if len(coefficients) == 3:
        return quadratic
    higher = make_polynomial(coefficients[3:], real)

    def quintic(x):
        return fma(x * x * x, higher(x), quadratic(x))

    return quintic


def make_sine(dtype: str, real: Any, is_cosine: bool) -> Callable[..., Any]:
    """Make sin(x), or cos(x) = sin(abs(x) + pi/2).

    `real` is the compiler's type for `dtype`, or NumPy's. The errors are below 1.55 units in the
    last place: in float32 for all arguments, in float64 for all that were tried.
    """
    reduce = make_reduction(dtype, real)
    sine_bend = make_polynomial(FORMATS[dtype].sine, real)
    cosine_bend = make_polynomial(FORMATS[dtype].cosine, real)
    ahead = 1 if is_cosine else 0
    infinity = float("inf")

    def sine(x):
        size = abs(x)
        quadrant, r = reduce(size)
        quadrant = quadrant + ahead
        square = r * r
        odd_part = fma(r * square, sine_bend(square), r)
        bend = fma(square, cosine_bend(square), real(-0.5))
        even_part = fma(square, bend, real(1.0))
        value = odd_part if quadrant & 1 == 0 else even_part
        value = value if quadrant & 2 == 0 else -value
        if not is_cosine:
            value = value if float_bits(x) >= 0 else -value
        # An infinity has no sine, and a NaN goes through.
        return value if size < real(infinity) else x - x

    return sine
