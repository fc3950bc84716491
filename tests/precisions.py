"""What tests of products on tensor cores share: factors of fewer bits, and how near sums are."""

import numpy as np
import pytest

__all__ = ["BITS", "DEPTH", "precisions", "product", "rounded"]

PRECISIONS = ["tf32", "bf16"]
BITS = {"tf32": 11, "bf16": 8}  # significant ones
DEPTH = {"tf32": 8, "bf16": 16}  # of one instruction
precisions = pytest.mark.parametrize("precision", PRECISIONS)


def rounded(values, precision):
    """The nearest numbers of so many bits; ties away from zero in tf32, to even in bf16."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    scaled = mantissa * 2.0 ** BITS[precision]
    away = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    return np.ldexp(away if precision == "tf32" else np.rint(scaled), exponent - BITS[precision])


def product(left, right, precision):
    """left @ right of rounded factors, and how far a sum may be from it.

    Each instruction rounds each sum once.
    """
    left, right = rounded(left, precision), rounded(right, precision)
    roundings = left.shape[1] // DEPTH[precision] + 1
    return left @ right, roundings * 2.0**-24 * (np.abs(left) @ np.abs(right))
