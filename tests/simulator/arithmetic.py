"""Fused multiply-adds of the simulator.

Of float32, the product is exact in float64 and the sum is rounded twice, to float64 and to float32.
Of float64, product and sum are rounded to `longdouble`, of 80 bits on most processors, and then to
float64. Both differ from a true fma rarely, and then in the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fma", "outer_product"]

float32, float64, longdouble = np.float32, np.float64, np.longdouble
WIDER = {np.dtype(float32): float64, np.dtype(float64): longdouble}

# Storing in an array converts several times as fast as calling a type does.
rounded = np.zeros(1, float32)
extended = np.zeros(1, longdouble)


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c in the kind of a."""
    if type(a) is float32:
        rounded[0] = float(a) * float(b) + float(c)
        return rounded[0]
    extended[0] = a
    return float64(extended[0] * b + c)


def outer_product(sums: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """sums[i, j] += left[i] * right[j], for which `sums` may be flat."""
    wider = WIDER[sums.dtype]
    table = sums.reshape(len(left), len(right))
    products = np.multiply.outer(left, right, dtype=wider)
    np.add(table, products, out=table, dtype=wider, casting="same_kind")
