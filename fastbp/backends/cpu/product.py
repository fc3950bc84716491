"""The matrix product behind every dense pass: register tiles of explicit vectors.

Forward, backward through the data and the gradient of the weights are all this product; they differ
in the strides with which A is read and in what is done with the tile afterwards. A tile's
accumulators stay in registers for the whole depth; each is one chain of fused multiply-adds, depth
ascending, so that neither the shape of the tile nor the width of the registers shows in the bits.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from fastbp.backends.cpu.tuning import TileShape
from fastbp.backends.cpu.vectors import (
    I64,
    at,
    fused_multiply_add,
    lanes_of,
    load,
    loop,
    minimum,
    splat,
    store,
)

__all__ = ["PRODUCT_ARGUMENTS", "multiply"]

# Tiles of these heights, where they are lower than the full tile, finish the rows that it leaves.
LOWER_HEIGHTS = (8, 4, 2, 1)

PRODUCT_ARGUMENTS = (
    "target",
    "start",
    "start_stride",
    "a",
    "a_row_stride",
    "a_step",
    "a_block",
    "a_block_stride",
    "rows",
    "b",
    "depth",
)


def emit_tile(builder: Any, height: int, vectors: int, lanes: int, alignment: int, p: Any) -> None:
    """One register tile: height rows x vectors vectors, through the whole depth."""

    def accumulators_at(base: Any, stride: Any) -> list[Any]:
        rows = [at(builder, base, builder.mul(stride, I64(i))) for i in range(height)]
        return [at(builder, row, v * lanes) for row in rows for v in range(vectors)]

    sums = [
        load(builder, s, lanes, alignment) for s in accumulators_at(p["start"], p["start_stride"])
    ]
    offsets = [builder.mul(p["a_row_stride"], I64(i)) for i in range(height)]

    def step(_: Any, carried: list[Any]) -> list[Any]:
        a, b, *sums = carried
        vector = [
            load(builder, at(builder, b, v * lanes), lanes, alignment) for v in range(vectors)
        ]
        changed = []
        for i in range(height):
            factor = splat(builder, builder.load(at(builder, a, offsets[i])), lanes)
            for v in range(vectors):
                total = sums[i * vectors + v]
                changed.append(fused_multiply_add(builder, factor, vector[v], total))
        return [at(builder, a, p["a_step"]), at(builder, b, p["b_stride"]), *changed]

    def block(_: Any, carried: list[Any]) -> list[Any]:
        a_block, b, left, *sums = carried
        depth = minimum(builder, left, p["a_block"])
        _, b, *sums = loop(builder, depth, [a_block, b, *sums], step)
        return [at(builder, a_block, p["a_block_stride"]), b, builder.sub(left, depth), *sums]

    above = builder.add(p["depth"], builder.sub(p["a_block"], I64(1)))
    blocks = builder.sdiv(above, p["a_block"])
    _, _, _, *sums = loop(builder, blocks, [p["a"], p["b"], p["depth"], *sums], block)
    for value, place in zip(sums, accumulators_at(p["target"], p["target_stride"]), strict=True):
        store(builder, value, place, alignment)


def emit_rows(builder: Any, shape: TileShape, lanes: int, p: Any) -> None:
    """All rows of one column of tiles: the highest tiles first, then the lower ones."""
    position = {name: p[name] for name in ("target", "start", "a")}
    strides = {"target": "target_stride", "start": "start_stride", "a": "a_row_stride"}
    left = p["rows"]
    for height in (shape.height, *(lower for lower in LOWER_HEIGHTS if lower < shape.height)):
        count = builder.sdiv(left, I64(height))

        def tile(_: Any, carried: list[Any], height: int = height) -> list[Any]:
            here = dict(zip(strides, carried, strict=True))
            emit_tile(builder, height, shape.vectors, lanes, shape.vector_bytes, {**p, **here})
            return [
                at(builder, here[name], builder.mul(p[stride], I64(height)))
                for name, stride in strides.items()
            ]

        moved = loop(builder, count, list(position.values()), tile)
        position = dict(zip(strides, moved, strict=True))
        left = builder.sub(left, builder.mul(count, I64(height)))


def emit_product(builder: Any, real: Any, shape: TileShape, p: dict[str, Any]) -> None:
    """The product for every number of rows, and as many columns of tiles as the panel is wide."""
    lanes = lanes_of(real, shape.vector_bytes)
    width = shape.vectors * lanes
    panel = I64(shape.lines * lanes_of(real))
    strides = {"target_stride": panel, "b_stride": panel}

    def column(index: Any, _: list[Any]) -> list[Any]:
        shift = builder.mul(index, I64(width))
        here = {name: at(builder, p[name], shift) for name in ("target", "start", "b")}
        emit_rows(builder, shape, lanes, {**p, **strides, **here})
        return []

    loop(builder, I64(panel.constant // width), [], column)


@intrinsic(prefer_literal=True)
def product(typing_context, arguments, vector_bytes, vectors, height, lines):
    """The product with tiles of a shape that is known when compiling."""
    shape = TileShape(*(n.literal_value for n in (vector_bytes, vectors, height, lines)))

    def generate(context, builder, signature, values):
        unpacked = [builder.extract_value(values[0], i) for i in range(len(PRODUCT_ARGUMENTS))]
        p = dict(zip(PRODUCT_ARGUMENTS, unpacked, strict=True))
        emit_product(builder, p["b"].type.pointee, shape, p)
        return context.get_dummy_value()

    return types.void(arguments, vector_bytes, vectors, height, lines), generate


def multiply(real, vector_bytes, vectors, height, lines):
    """Make ``multiply`` for a number type and the numbers of a `TileShape`."""

    def multiply(
        target,
        start,
        start_stride,
        a,
        a_row_stride,
        a_step,
        a_block,
        a_block_stride,
        rows,
        b,
        depth,
    ):
        """target[i, j] = start[i, j] + sum over k of a[i, k] b[k, j] for the columns j of a panel.

        `target` and `b` are panels of the shape's `lines`, aligned to 64 bytes. Row i of `start`
        and `a` is i strides further on (a start stride of 0 gives every row the same start, and
        start may be target). a[i, k] is ``a_step`` further for each k, and after every ``a_block``
        of them the next block begins ``a_block_stride`` after the last.
        """
        product(
            (
                target,
                start,
                start_stride,
                a,
                a_row_stride,
                a_step,
                a_block,
                a_block_stride,
                rows,
                b,
                depth,
            ),
            vector_bytes,
            vectors,
            height,
            lines,
        )

    return multiply
