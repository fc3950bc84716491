"""erf.

``erf(x) = x + x P(x**2)`` for small x, else ``1 - exp(Q(abs(x)))``, where the polynomial Q
approximates log(1 - erf): the errors of Q and of the exponential are relative to 1 - erf, so that
they shrink beside the result, and neither a square in the exponent nor a division is needed.
"""

from __future__ import annotations

from typing import Any

from fastbp.backends.cpu.elementary import coefficients
from fastbp.backends.cpu.elementary.exponential import POWERS_OF_TWO, REDUCTIONS
from fastbp.backends.cpu.elementary.instructions import (
    FORMATS,
    Format,
    inline,
    magnitude,
    polynomial,
    select,
    with_sign_of,
)
from fastbp.backends.cpu.intrinsics import fma

__all__ = ["ERF"]


def make_erf(form: Format) -> Any:
    """erf(x); beyond the bound it is 1 to the last bit."""
    real = form.real
    reduction, power_of_two = REDUCTIONS[form.kind], POWERS_OF_TWO[form.kind]
    one = real(1)
    near, highest = real(coefficients.ERF_NEAR[real]), real(coefficients.ERF_FAR[real])
    bend = polynomial(coefficients.ERF_SMALL[real])
    exponent = polynomial(coefficients.ERF_LARGE[real])

    @inline
    def erf(x):
        size = magnitude(x)
        small = fma(size, bend(size * size), size)
        bounded = select(size > highest, highest, size)
        n, high, tail = reduction(exponent(bounded))
        scale = power_of_two(n)
        large = fma(-scale, high + tail, one - scale)
        return with_sign_of(select(size < near, small, large), x)

    return erf


ERF = {form.kind: make_erf(form) for form in FORMATS}
