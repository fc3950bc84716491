"""The matrix product behind every dense pass.

One routine adds A B to a tile of accumulators. Forward, backward through the data and the gradient
of the weights are all this product; they differ in what the tile holds before and after, and in the
two strides with which A is read (the weight gradient reads it transposed).
"""

from __future__ import annotations

from fastbp.backends.cpu.intrinsics import fma, offset
from fastbp.backends.cpu.tuning import PRODUCT_COLUMNS, PRODUCT_ROWS

__all__ = ["multiply_tile"]


def multiply_tile(real, sources):
    """Make ``multiply_tile`` for a number type."""

    def multiply_tile(tile, a, a_row_stride, a_column_stride, rows, b, b_stride, depth, columns):
        """tile[i, j] += sum over k of a[i, k] b[k, j], one fused multiply-add chain, k ascending.

        `tile` (PRODUCT_ROWS, PRODUCT_COLUMNS) is updated in its first `rows` rows and `columns`
        columns; a[i, k] is element ``i * a_row_stride + k * a_column_stride``, b[k, j] element
        ``k * b_stride + j``. Every path below runs the same chain for an element, so the bits do
        not depend on how many rows there are.
        """
        sources  # noqa: B018  (names the package's digest in the cache key)
        step = a_column_stride
        whole = depth - depth % 4
        if rows == PRODUCT_ROWS:
            tile1 = offset(tile, PRODUCT_COLUMNS)
            tile2 = offset(tile, 2 * PRODUCT_COLUMNS)
            tile3 = offset(tile, 3 * PRODUCT_COLUMNS)
            for k in range(0, whole, 4):
                b0 = offset(b, k * b_stride)
                b1 = offset(b0, b_stride)
                b2 = offset(b1, b_stride)
                b3 = offset(b2, b_stride)
                at = k * step
                a00, a01, a02, a03 = a[at], a[at + step], a[at + 2 * step], a[at + 3 * step]
                at += a_row_stride
                a10, a11, a12, a13 = a[at], a[at + step], a[at + 2 * step], a[at + 3 * step]
                at += a_row_stride
                a20, a21, a22, a23 = a[at], a[at + step], a[at + 2 * step], a[at + 3 * step]
                at += a_row_stride
                a30, a31, a32, a33 = a[at], a[at + step], a[at + 2 * step], a[at + 3 * step]
                for j in range(columns):
                    v0, v1, v2, v3 = b0[j], b1[j], b2[j], b3[j]
                    tile[j] = fma(a03, v3, fma(a02, v2, fma(a01, v1, fma(a00, v0, tile[j]))))
                    tile1[j] = fma(a13, v3, fma(a12, v2, fma(a11, v1, fma(a10, v0, tile1[j]))))
                    tile2[j] = fma(a23, v3, fma(a22, v2, fma(a21, v1, fma(a20, v0, tile2[j]))))
                    tile3[j] = fma(a33, v3, fma(a32, v2, fma(a31, v1, fma(a30, v0, tile3[j]))))
        else:
            for i in range(rows):
                row = offset(tile, i * PRODUCT_COLUMNS)
                for k in range(0, whole, 4):
                    b0 = offset(b, k * b_stride)
                    b1 = offset(b0, b_stride)
                    b2 = offset(b1, b_stride)
                    b3 = offset(b2, b_stride)
                    at = i * a_row_stride + k * step
                    a0, a1, a2, a3 = a[at], a[at + step], a[at + 2 * step], a[at + 3 * step]
                    for j in range(columns):
                        row[j] = fma(
                            a3, b3[j], fma(a2, b2[j], fma(a1, b1[j], fma(a0, b0[j], row[j])))
                        )
        for k in range(whole, depth):
            bk = offset(b, k * b_stride)
            for i in range(rows):
                row = offset(tile, i * PRODUCT_COLUMNS)
                ai = a[i * a_row_stride + k * step]
                for j in range(columns):
                    row[j] = fma(ai, bk[j], row[j])

    return multiply_tile
