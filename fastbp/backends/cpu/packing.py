"""A few columns of many rows, packed without gaps, so that a law runs over no padding.

The number of columns is settled once a call and each case is code without an inner loop: LLVM makes
calls of memcpy of short copying loops, which cost more than all the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from fastbp.backends.cpu.vectors import I64, at, loop

__all__ = ["MOST_COLUMNS", "pack_rows", "scale_rows", "sum_rows"]

MOST_COLUMNS = 4


def for_each_row(
    builder: Any, rows: Any, columns: Any, row: Callable[[Any, Any, int], None]
) -> None:
    """Emit ``row(i, i * columns, columns)`` for all rows, once for each number of columns."""
    for count in range(1, MOST_COLUMNS + 1):
        with builder.if_then(builder.icmp_signed("==", columns, I64(count))):

            def step(i: Any, _: list[Any], count: int = count) -> list[Any]:
                row(i, builder.mul(i, I64(count)), count)
                return []

            loop(builder, rows, [], step)


@intrinsic
def pack_rows(typing_context, target, source, source_stride, index, rows, columns):
    """target[i * columns + j] = source[index[i], j]; index may be None: the rows as they lie."""

    in_order = isinstance(index, types.NoneType)

    def generate(context, builder, signature, arguments):
        target, source, source_stride, index, rows, columns = arguments

        def row(i: Any, place: Any, count: int) -> None:
            number = i if in_order else builder.load(at(builder, index, i))
            begin = at(builder, source, builder.mul(number, source_stride))
            for j in range(count):
                value = builder.load(at(builder, begin, j))
                builder.store(value, at(builder, at(builder, target, place), j))

        for_each_row(builder, rows, columns, row)
        return context.get_dummy_value()

    return types.void(target, source, source_stride, index, rows, columns), generate


@intrinsic
def scale_rows(typing_context, target, target_stride, factors, rows, columns):
    """target[i, j] *= factors[i * columns + j]."""

    def generate(context, builder, signature, arguments):
        target, target_stride, factors, rows, columns = arguments

        def row(i: Any, place: Any, count: int) -> None:
            begin = at(builder, target, builder.mul(i, target_stride))
            for j in range(count):
                factor = builder.load(at(builder, at(builder, factors, place), j))
                value = builder.load(at(builder, begin, j))
                builder.store(builder.fmul(value, factor), at(builder, begin, j))

        for_each_row(builder, rows, columns, row)
        return context.get_dummy_value()

    return types.void(target, target_stride, factors, rows, columns), generate


@intrinsic
def sum_rows(typing_context, target, source, rows, columns):
    """target[i] = the sum over j, ascending, of source[i * columns + j]."""

    def generate(context, builder, signature, arguments):
        target, source, rows, columns = arguments

        def row(i: Any, place: Any, count: int) -> None:
            begin = at(builder, source, place)
            total = builder.load(begin)
            for j in range(1, count):
                total = builder.fadd(total, builder.load(at(builder, begin, j)))
            builder.store(total, at(builder, target, i))

        for_each_row(builder, rows, columns, row)
        return context.get_dummy_value()

    return types.void(target, source, rows, columns), generate
