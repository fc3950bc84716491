"""What a layer does to one row, without register tiles, whose arguments would take longer to pass.

The sums are those of `product` and `reductions`, to the bit. Whole lines are stored, because what
reads a row next reads lines, and a line that was stored in pieces has to reach the cache first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from fastbp.backends.cpu.reductions import add_up
from fastbp.backends.cpu.tuning import FEW_LINES, FEW_ROWS, PANEL_LINES
from fastbp.backends.cpu.vectors import (
    I64,
    LINE_BYTES,
    at,
    fused_multiply_add,
    lanes_of,
    load,
    loop,
    minimum,
    splat,
    store,
    vector_type,
    zero,
)

__all__ = ["go_one_by_one", "multiply_row", "multiply_row_thin", "scaled_outer_product"]


@register_jitable(forceinline=True)
def go_one_by_one(rows, lines):
    """Whether rows of a layer are done sooner without tiles; a row takes some lines of products."""
    return rows == 1 or (rows <= FEW_ROWS and rows * lines <= FEW_LINES)


def for_each_width(builder: Any, width: Any, lanes: int, emit: Callable[[int], None]) -> None:
    """Emit ``emit(lines)`` for panels of every number of lines; that of `width` runs."""
    for lines in range(1, PANEL_LINES + 1):
        with builder.if_then(builder.icmp_signed("==", width, I64(lines * lanes))):
            emit(lines)


def over_panels(
    builder: Any,
    matrix: tuple[Any, Any, Any, Any],
    end: Any,
    carried: Sequence[Any],
    body: Callable[[Any, Any, list[Any]], Sequence[Any]],
) -> list[Any]:
    """Emit ``carried = body(place, count, carried)`` for the panels of one row of a matrix.

    `matrix`: its first element, the rows of its panels, its padded columns, and which row. A panel
    has `count` of the row's first `end` columns, and `place` points at them.
    """
    base, height, padded, row = matrix
    panel = PANEL_LINES * lanes_of(base.type.pointee)

    def each(number: Any, carried: list[Any]) -> Sequence[Any]:
        column = builder.mul(number, I64(panel))
        width = minimum(builder, I64(panel), builder.sub(padded, column))
        place = builder.add(builder.mul(column, height), builder.mul(row, width))
        count = minimum(builder, I64(panel), builder.sub(end, column))
        return body(at(builder, base, place), count, carried)

    panels = builder.udiv(builder.add(end, I64(panel - 1)), I64(panel))
    return loop(builder, panels, carried, each)


@intrinsic
def multiply_row(typing_context, target, start, scales, row, depth, b, width):
    """target[j] = start[j] + sum over k of row[k] b[k, j], for the j of a panel, k below `depth`.

    With `scales`, what target held before is multiplied into it. `row` is a tuple: a matrix, the
    height of its panels, its padded columns, and the number of its row.
    """

    def generate(context, builder, signature, arguments):
        target, start, scales, row, depth, b, width = arguments
        matrix = tuple(builder.extract_value(row, i) for i in range(4))
        lanes = lanes_of(target.type.pointee)

        def product(lines: int) -> None:
            def line(base: Any, i: int) -> Any:
                return load(builder, at(builder, base, i * lanes), lanes, LINE_BYTES)

            def panel(place: Any, count: Any, carried: list[Any]) -> list[Any]:
                def step(k: Any, carried: list[Any]) -> list[Any]:
                    b, *sums = carried
                    factor = splat(builder, builder.load(at(builder, place, k)), lanes)
                    changed = [
                        fused_multiply_add(builder, factor, line(b, i), value)
                        for i, value in enumerate(sums)
                    ]
                    return [at(builder, b, lines * lanes), *changed]

                return loop(builder, count, carried, step)

            sums = [line(start, i) for i in range(lines)]
            _, *sums = over_panels(builder, matrix, depth, [b, *sums], panel)
            for i, value in enumerate(sums):
                scaled = builder.fmul(line(target, i), value)
                result = builder.select(scales, scaled, value)
                store(builder, result, at(builder, target, i * lanes), LINE_BYTES)

        for_each_width(builder, width, lanes, product)
        return context.get_dummy_value()

    return types.void(target, start, scales, row, depth, b, width), generate


@intrinsic
def multiply_row_thin(typing_context, target, bias, row, weight, units):
    """target[u] = bias[u] + sum over f of row[f] weight[u, f], and zero in the rest of a line.

    `row` as for `multiply_row`; the sums are those of `reductions.thin_product`.
    """

    def generate(context, builder, signature, arguments):
        target, bias, row, weight, units = arguments
        matrix = tuple(builder.extract_value(row, i) for i in range(4))
        padded = matrix[2]
        real = target.type.pointee
        lanes = lanes_of(real)
        kind = vector_type(real, lanes)
        lane = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))

        def unit(u: Any, carried: list[Any]) -> list[Any]:
            def panel(place: Any, count: Any, carried: list[Any]) -> list[Any]:
                def line(i: Any, carried: list[Any]) -> list[Any]:
                    (value,) = carried
                    shift = builder.mul(i, I64(lanes))
                    left, right = (
                        load(builder, at(builder, base, shift), lanes, LINE_BYTES)
                        for base in (place, at(builder, begin, builder.mul(u, count)))
                    )
                    return [fused_multiply_add(builder, left, right, value)]

                begin, value = carried
                (value,) = loop(builder, builder.udiv(count, I64(lanes)), [value], line)
                return [at(builder, begin, builder.mul(units, count)), value]

            _, value = over_panels(builder, matrix, padded, [weight, zero(kind)], panel)
            (sums,) = carried
            here = builder.icmp_signed("==", lane, splat(builder, u, lanes))
            one = builder.extract_element(add_up(builder, [value]), ir.IntType(32)(0))
            return [builder.select(here, splat(builder, one, lanes), sums)]

        (sums,) = loop(builder, units, [zero(kind)], unit)
        outputs = builder.fadd(load(builder, bias, lanes, LINE_BYTES), sums)
        store(builder, outputs, target, LINE_BYTES)
        return context.get_dummy_value()

    return types.void(target, bias, row, weight, units), generate


@intrinsic
def scaled_outer_product(typing_context, target, a, rows, b, width, scale):
    """target[i, j] = scale (0 + a[i] b[j]) for the j of a panel."""

    def generate(context, builder, signature, arguments):
        target, a, rows, b, width, scale = arguments
        lanes = lanes_of(target.type.pointee)
        scales = splat(builder, scale, lanes)

        def product(lines: int) -> None:
            vectors = [
                load(builder, at(builder, b, i * lanes), lanes, LINE_BYTES) for i in range(lines)
            ]

            def row(index: Any, _: list[Any]) -> list[Any]:
                factor = splat(builder, builder.load(at(builder, a, index)), lanes)
                place = at(builder, target, builder.mul(index, I64(lines * lanes)))
                for i, vector in enumerate(vectors):
                    value = fused_multiply_add(builder, factor, vector, zero(vector.type))
                    scaled = builder.fmul(value, scales)
                    store(builder, scaled, at(builder, place, i * lanes), LINE_BYTES)
                return []

            loop(builder, rows, [], row)

        for_each_width(builder, width, lanes, product)
        return context.get_dummy_value()

    return types.void(target, a, rows, b, width, scale), generate
