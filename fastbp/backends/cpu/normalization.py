"""Layer normalisation.

The sums over a row have a chain for each lane of a line, lines ascending, and then the tree of
`reductions`; they are taken for several rows at a time, whose trees are one. Mean and variance come
in two passes: the first gives a mean, the second what is left of it and the variance about it, so
that a common mean which is large beside the deviations costs no digits.

Source: Chan, Golub and LeVeque, Algorithms for computing the sample variance: analysis and
recommendations, 1983 (the corrected two-pass algorithm).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.backends.cpu.elementwise import map_elements, multiplied
from fastbp.backends.cpu.intrinsics import (
    height,
    is_present,
    offset,
    padded_columns,
    pointer,
    size,
    stack_array,
)
from fastbp.backends.cpu.panels import first_lanes, panel_width, set_to_one
from fastbp.backends.cpu.reductions import add_up
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import (
    I64,
    LINE_BYTES,
    SUFFIXES,
    at,
    fused_multiply_add,
    lanes_of,
    load,
    loop,
    minimum,
    shuffle,
    splat,
    store,
    vector_type,
    zero,
)

__all__ = ["layer_norm_backward", "layer_norm_forward"]

TOGETHER = 8  # rows whose sums are taken at a time
HALF = TOGETHER // 2  # the same where two sums are
NUMBERS = 3 * TOGETHER  # that `moments` leaves


def over_lines(
    builder: Any,
    real: Any,
    sizes: tuple[Any, Any],
    rows: Sequence[Any],
    carried: Sequence[Any],
    body: Callable[[list[Any], Any, list[Any]], Sequence[Any]],
) -> list[Any]:
    """Emit ``carried = body(places, column, carried)`` for the lines of some rows of a matrix.

    `sizes`: the rows of its panels and its padded columns. `places` says at which element of the
    matrix the line of each row begins, and `column` is the line's first one.
    """
    height, padded = sizes
    lanes = lanes_of(real)
    panel = PANEL_LINES * lanes

    def over_panel(number: Any, carried: list[Any]) -> list[Any]:
        column = builder.mul(number, I64(panel))
        width = minimum(builder, I64(panel), builder.sub(padded, column))
        begin = builder.mul(column, height)
        starts = [builder.add(begin, builder.mul(row, width)) for row in rows]

        def line(index: Any, carried: list[Any]) -> Sequence[Any]:
            shift = builder.mul(index, I64(lanes))
            places = [builder.add(start, shift) for start in starts]
            return body(places, builder.add(column, shift), carried)

        return loop(builder, builder.udiv(width, I64(lanes)), carried, line)

    panels = builder.udiv(builder.add(padded, I64(panel - 1)), I64(panel))
    return loop(builder, panels, carried, over_panel)


def line_at(builder: Any, base: Any, place: Any) -> Any:
    """The line that begins at some element."""
    return load(builder, at(builder, base, place), lanes_of(base.type.pointee), LINE_BYTES)


def mean_of(builder: Any, sums: list[Any], count: Any) -> Any:
    """The means of some rows, as a vector, of the sums that their lanes carry."""
    totals = add_up(builder, sums)
    return builder.fdiv(totals, splat(builder, count, totals.type.count))


def lane(builder: Any, vector: Any, index: int, lanes: int) -> Any:
    """A lane of a vector in all lanes of another one."""
    return shuffle(builder, vector, vector, [index] * lanes)


def square_root(builder: Any, vector: Any) -> Any:
    kind = vector.type
    name = f"llvm.sqrt.v{kind.count}{SUFFIXES[str(kind.element)]}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind]), name)
    return builder.call(function, [vector])


@intrinsic(prefer_literal=True)
def moments(typing_context, result, inputs, sizes, first, epsilon, rows):
    """What normalises some rows (a literal): means, what to take away yet, 1 / sigma.

    The three stand `TOGETHER` apart in `result`. `sizes`: the rows of the panels of `inputs`, its
    padded columns, its columns.
    """
    count = rows.literal_value

    def generate(context, builder, signature, arguments):
        result, inputs, sizes, first, epsilon = arguments[:5]
        high, padded, features = (builder.extract_value(sizes, i) for i in range(3))
        real = inputs.type.pointee
        lanes = lanes_of(real)
        nothing = zero(vector_type(real, lanes))
        size = builder.sitofp(features, real)
        numbers = [builder.add(first, I64(r)) for r in range(count)]

        def add(places: list[Any], column: Any, sums: list[Any]) -> list[Any]:
            return [
                builder.fadd(value, line_at(builder, inputs, place))
                for value, place in zip(sums, places, strict=True)
            ]

        def add_deviations(places: list[Any], column: Any, carried: list[Any]) -> list[Any]:
            inside = first_lanes(builder, real, builder.sub(features, column))
            sums, squares = [], []
            for r, place in enumerate(places):
                deviation = builder.fsub(line_at(builder, inputs, place), centres[r])
                deviation = builder.select(inside, deviation, nothing)
                sums.append(builder.fadd(carried[r], deviation))
                square = fused_multiply_add(builder, deviation, deviation, carried[count + r])
                squares.append(square)
            return sums + squares

        sums = over_lines(builder, real, (high, padded), numbers, [nothing] * count, add)
        means = mean_of(builder, sums, size)
        centres = [lane(builder, means, r, lanes) for r in range(count)]
        sums = over_lines(
            builder, real, (high, padded), numbers, [nothing] * (2 * count), add_deviations
        )
        left = mean_of(builder, sums[:count], size)
        variance = mean_of(builder, sums[count:], size)
        variance = builder.fsub(variance, builder.fmul(left, left))
        none = zero(variance.type)
        variance = builder.select(builder.fcmp_ordered("<", variance, none), none, variance)
        variance = builder.fadd(variance, splat(builder, epsilon, count))
        one = ir.Constant(variance.type, [1.0] * count)
        scales = builder.fdiv(one, square_root(builder, variance))
        for i, vector in enumerate((means, left, scales)):
            store(builder, vector, at(builder, result, i * TOGETHER))
        return context.get_dummy_value()

    return types.void(result, inputs, sizes, first, epsilon, rows), generate


@intrinsic(prefer_literal=True)
def normalize(typing_context, output, normalized, inputs, law, moments, sizes, first, rows, keep):
    """normalized = (inputs - mean) / sigma, output = gain * normalized + bias, for some rows.

    `law`: gain and bias. `keep` (a literal) says whether there is a matrix for `normalized`.
    """
    is_kept = bool(keep.literal_value)

    def generate(context, builder, signature, arguments):
        output, normalized, inputs, law, moments, sizes, first, rows, _ = arguments
        gain, bias = (builder.extract_value(law, i) for i in range(2))
        high, padded, features = (builder.extract_value(sizes, i) for i in range(3))
        real = inputs.type.pointee
        lanes = lanes_of(real)

        def row(index: Any, _: list[Any]) -> list[Any]:
            mean, left, scale = (
                splat(
                    builder,
                    builder.load(at(builder, moments, builder.add(index, I64(i * TOGETHER)))),
                    lanes,
                )
                for i in range(3)
            )

            def line(places: list[Any], column: Any, _: list[Any]) -> list[Any]:
                (place,) = places
                inside = first_lanes(builder, real, builder.sub(features, column))
                value = builder.fsub(line_at(builder, inputs, place), mean)
                value = builder.fmul(builder.fsub(value, left), scale)
                value = builder.select(inside, value, zero(value.type))
                if is_kept:
                    store(builder, value, at(builder, normalized, place), LINE_BYTES)
                factor, start = (line_at(builder, base, column) for base in (gain, bias))
                result = fused_multiply_add(builder, factor, value, start)
                store(builder, result, at(builder, output, place), LINE_BYTES)
                return []

            number = builder.add(first, index)
            over_lines(builder, real, (high, padded), [number], [], line)
            return []

        loop(builder, rows, [], row)
        return context.get_dummy_value()

    taken = (output, normalized, inputs, law, moments, sizes, first, rows, keep)
    return types.void(*taken), generate


def layer_norm_forward(real):
    """output = gain * (inputs - mean) / sqrt(variance + epsilon) + bias, row by row.

    Where they are not absent, `normalized` is that without gain and bias, `scale` the reciprocal of
    the square root, and the derivative 1.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def layer_norm_forward(arguments, first_row, last_row):
        output, rows_high = pointer(arguments, 0, real), height(arguments, 0)
        padded = padded_columns(arguments, 0)
        normalized, is_kept = pointer(arguments, 2, real), is_present(arguments, 2)
        inputs = pointer(arguments, 4, real)
        law = (pointer(arguments, 5, real), pointer(arguments, 6, real))
        epsilon = pointer(arguments, 7, real)[0]
        features = size(arguments, 8, 0)
        sizes = (rows_high, padded, features)
        found = stack_array(NUMBERS, real)
        row = first_row
        while row < last_row:
            rows = TOGETHER
            if last_row - row >= TOGETHER:
                moments(found, inputs, sizes, row, epsilon, TOGETHER)
            else:
                rows = 1
                moments(found, inputs, sizes, row, epsilon, 1)
            if is_kept:
                normalize(output, normalized, inputs, law, found, sizes, row, rows, 1)
            else:
                normalize(output, normalized, inputs, law, found, sizes, row, rows, 0)
            if is_present(arguments, 3):
                for i in range(rows):
                    pointer(arguments, 3, real)[row + i] = found[2 * TOGETHER + i]
            row += rows
        if is_present(arguments, 1):
            for column in range(0, padded, panel):
                width = panel_width(padded, column, lanes)
                place = column * rows_high + first_row * width
                slopes = offset(pointer(arguments, 1, real), place)
                set_to_one(slopes, last_row - first_row, width, features - column)

    return layer_norm_forward


@intrinsic(prefer_literal=True)
def slopes_of(typing_context, result, delta, normalized, gain, sizes, first, rows):
    """The means of delta * gain, and of delta * gain * normalized, of some rows (a literal).

    The second ones stand `HALF` after the first ones in `result`.
    """
    count = rows.literal_value

    def generate(context, builder, signature, arguments):
        result, delta, normalized, gain, sizes, first = arguments[:6]
        high, padded, features = (builder.extract_value(sizes, i) for i in range(3))
        real = delta.type.pointee
        nothing = zero(vector_type(real, lanes_of(real)))
        numbers = [builder.add(first, I64(r)) for r in range(count)]

        def add(places: list[Any], column: Any, carried: list[Any]) -> list[Any]:
            factor = line_at(builder, gain, column)
            sums, products = [], []
            for r, place in enumerate(places):
                through = builder.fmul(line_at(builder, delta, place), factor)
                sums.append(builder.fadd(carried[r], through))
                value = line_at(builder, normalized, place)
                product = fused_multiply_add(builder, through, value, carried[count + r])
                products.append(product)
            return sums + products

        sums = over_lines(builder, real, (high, padded), numbers, [nothing] * (2 * count), add)
        means = mean_of(builder, sums, builder.sitofp(features, real))
        for i in range(2):
            part = shuffle(builder, means, means, range(i * count, (i + 1) * count))
            store(builder, part, at(builder, result, i * HALF))
        return context.get_dummy_value()

    return types.void(result, delta, normalized, gain, sizes, first, rows), generate


@intrinsic
def carry_back(
    typing_context, input_delta, delta, normalized, scale, gain, slopes, sizes, first, rows
):
    """input_delta (*)= (delta * gain - mean - normalized * slope) * scale, for some rows.

    `sizes` as for `moments`, and whether what was there is multiplied.
    """

    def generate(context, builder, signature, arguments):
        input_delta, delta, normalized, scale, gain, slopes, sizes, first, rows = arguments
        high, padded, features, multiplies = (builder.extract_value(sizes, i) for i in range(4))
        real = delta.type.pointee
        lanes = lanes_of(real)

        def row(index: Any, _: list[Any]) -> list[Any]:
            number = builder.add(first, index)
            mean, slope, factor = (
                splat(builder, builder.load(at(builder, base, place)), lanes)
                for base, place in (
                    (slopes, index),
                    (slopes, builder.add(index, I64(HALF))),
                    (scale, number),
                )
            )
            slope = builder.fneg(slope)

            def line(places: list[Any], column: Any, _: list[Any]) -> list[Any]:
                (place,) = places
                inside = first_lanes(builder, real, builder.sub(features, column))
                through = line_at(builder, delta, place)
                through = builder.fmul(through, line_at(builder, gain, column))
                value = builder.fsub(through, mean)
                value = fused_multiply_add(
                    builder, line_at(builder, normalized, place), slope, value
                )
                value = builder.fmul(value, factor)
                met = builder.fmul(line_at(builder, input_delta, place), value)
                value = builder.select(multiplies, met, value)
                value = builder.select(inside, value, zero(value.type))
                store(builder, value, at(builder, input_delta, place), LINE_BYTES)
                return []

            over_lines(builder, real, (high, padded), [number], [], line)
            return []

        loop(builder, rows, [], row)
        return context.get_dummy_value()

    taken = (input_delta, delta, normalized, scale, gain, slopes, sizes, first, rows)
    return types.void(*taken), generate


def layer_norm_backward(real):
    """input_delta *= the delta carried back, or = with `replace`; gain_delta = delta * normalized.

    Either may be absent.
    """
    lanes = LINE_BYTES * 8 // real.bitwidth
    panel = PANEL_LINES * lanes

    def layer_norm_backward(arguments, first_row, last_row):
        input_delta, is_wanted = pointer(arguments, 0, real), is_present(arguments, 0)
        delta, rows_high = pointer(arguments, 2, real), height(arguments, 2)
        padded = padded_columns(arguments, 2)
        normalized, scale = pointer(arguments, 3, real), pointer(arguments, 4, real)
        gain = pointer(arguments, 5, real)
        features, replace = size(arguments, 6, 0), size(arguments, 6, 1)
        if is_present(arguments, 1):
            for column in range(0, padded, panel):
                width = panel_width(padded, column, lanes)
                place = column * rows_high + first_row * width
                lines = (last_row - first_row) * width // lanes
                factors = (offset(delta, place), offset(normalized, place))
                target = offset(pointer(arguments, 1, real), place)
                map_elements(multiplied, factors, (), (target,), lines)
        sizes = (rows_high, padded, features)
        found = stack_array(TOGETHER, real)
        row = first_row if is_wanted else last_row
        while row < last_row:
            rows = HALF
            if last_row - row >= HALF:
                slopes_of(found, delta, normalized, gain, sizes, row, HALF)
            else:
                rows = 1
                slopes_of(found, delta, normalized, gain, sizes, row, 1)
            more = (rows_high, padded, features, replace == 0)
            carry_back(input_delta, delta, normalized, scale, gain, found, more, row, rows)
            row += rows

    return layer_norm_backward
