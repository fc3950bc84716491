"""Laws that break the rule to be formulas. (Pytest rewrites an assert in a file of tests.)"""

from numba import njit


def limited(z, settings):
    if z > 1:
        raise ValueError("too large")
    return z, z


def asserted(z, settings):
    assert z < 1
    return z, z


limited_too = njit(limited)


@njit
def calling(z, settings):
    return limited_too(z, settings)
