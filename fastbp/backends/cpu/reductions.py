"""Sums in a fixed order, on explicit vectors.

Each lane of a line (16 float32 or 8 float64) carries a sum of its own, elements ascending; at the
end the upper half of the lanes is added to the lower half until one is left. The order is the same
on every machine, and short enough chains keep the rounding small.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.backends.cpu.vectors import (
    I64,
    LINE_BYTES,
    at,
    fused_multiply_add,
    lanes_of,
    load,
    loop,
    shuffle,
    splat,
    store,
    vector_type,
    zero,
)

__all__ = [
    "add_columns",
    "scale_and_square",
    "sum_of_magnitudes",
    "sum_of_squares",
    "sum_of_values",
    "thin_product",
]

DOUBLE = ir.DoubleType()


def halve(builder: Any, vector: Any) -> Any:
    """The lower lanes plus the upper lanes: a vector of half the length."""
    half = vector.type.count // 2
    lower = shuffle(builder, vector, vector, range(half))
    upper = shuffle(builder, vector, vector, range(half, 2 * half))
    return builder.fadd(lower, upper)


def total(builder: Any, vector: Any) -> Any:
    """The sum of all lanes."""
    while vector.type.count > 1:
        vector = halve(builder, vector)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


CHAINS = 4  # line i adds to chain i mod 4, so that four sums are under way at a time


def sum_over_lines(term: Any, *, scaled: bool) -> Any:
    """An operation that adds up a term of every element, in float64.

    With `scaled`, the elements are first multiplied by a factor, in place.
    """

    def emit(builder: Any, base: Any, lines: Any, factor: Any) -> Any:
        lanes = lanes_of(base.type.pointee)
        wide = vector_type(DOUBLE, lanes)

        def add(line: Any, total_so_far: Any) -> Any:
            place = at(builder, base, builder.mul(line, I64(lanes)))
            values = load(builder, place, lanes, LINE_BYTES)
            if factor is not None:
                values = builder.fmul(values, splat(builder, factor, lanes))
                store(builder, values, place, LINE_BYTES)
            if values.type != wide:
                values = builder.fpext(values, wide)
            return term(builder, values, total_so_far)

        def step(group: Any, carried: list[Any]) -> list[Any]:
            first = builder.mul(group, I64(CHAINS))
            return [add(builder.add(first, I64(c)), carried[c]) for c in range(CHAINS)]

        groups = builder.sdiv(lines, I64(CHAINS))
        sums = loop(builder, groups, [zero(wide)] * CHAINS, step)
        first = builder.mul(groups, I64(CHAINS))
        for c in range(CHAINS - 1):  # the lines that are left, each in its chain
            line = builder.add(first, I64(c))
            one = builder.zext(builder.icmp_signed("<", line, lines), I64)

            def last(_: Any, carried: list[Any], line: Any = line) -> list[Any]:
                return [add(line, carried[0])]

            (sums[c],) = loop(builder, one, [sums[c]], last)
        return total(builder, builder.fadd(builder.fadd(*sums[:2]), builder.fadd(*sums[2:])))

    if scaled:

        @intrinsic
        def operation(typing_context, base, lines, factor):
            def generate(context, builder, signature, arguments):
                return emit(builder, *arguments)

            return types.float64(base, lines, factor), generate

        return operation

    @intrinsic
    def plain(typing_context, base, lines):
        def generate(context, builder, signature, arguments):
            return emit(builder, arguments[0], arguments[1], None)

        return types.float64(base, lines), generate

    return plain


def add_square(builder: Any, values: Any, sums: Any) -> Any:
    return fused_multiply_add(builder, values, values, sums)


def add_magnitude(builder: Any, values: Any, sums: Any) -> Any:
    kind = values.type
    name = f"llvm.fabs.v{kind.count}f64"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind]), name)
    return builder.fadd(sums, builder.call(function, [values]))


def add_value(builder: Any, values: Any, sums: Any) -> Any:
    return builder.fadd(sums, values)


# Of so many lines: the sum of the elements, of the squares, of the magnitudes, and of the squares
# after each element was multiplied by a factor.
sum_of_values = sum_over_lines(add_value, scaled=False)
sum_of_squares = sum_over_lines(add_square, scaled=False)
sum_of_magnitudes = sum_over_lines(add_magnitude, scaled=False)
scale_and_square = sum_over_lines(add_square, scaled=True)


@intrinsic(prefer_literal=True)
def add_columns(typing_context, target, source, panel, rows, panels, lines):
    """target[j] += sum over i of source[i, j], i ascending, for some panels of some lines each.

    `panel` is the distance between the panels of `source`; `panels` and `lines` are literals.
    Several lines at once keep several chains of additions under way.
    """
    many, wide = panels.literal_value, lines.literal_value

    def generate(context, builder, signature, arguments):
        target, source, panel, rows = arguments[:4]
        lanes = lanes_of(target.type.pointee)
        places = [at(builder, target, i * lanes) for i in range(many * wide)]
        starts = [at(builder, source, builder.mul(panel, I64(i))) for i in range(many)]

        def step(row: Any, carried: list[Any]) -> list[Any]:
            changed = []
            for i, total_so_far in enumerate(carried):
                shift = builder.add(builder.mul(row, I64(wide * lanes)), I64(i % wide * lanes))
                values = load(builder, at(builder, starts[i // wide], shift), lanes, LINE_BYTES)
                changed.append(builder.fadd(total_so_far, values))
            return changed

        sums = loop(builder, rows, [load(builder, p, lanes, LINE_BYTES) for p in places], step)
        for value, place in zip(sums, places, strict=True):
            store(builder, value, place, LINE_BYTES)
        return context.get_dummy_value()

    return types.void(target, source, panel, rows, panels, lines), generate


def fold(builder: Any, a: Any, b: Any, group: int) -> Any:
    """Halve groups of lanes of two vectors at once: the groups of a first, then those of b."""
    lanes = a.type.count
    both = range(0, 2 * lanes, group)
    lower = [start + i for start in both for i in range(group // 2)]
    upper = [lane + group // 2 for lane in lower]
    return builder.fadd(shuffle(builder, a, b, lower), shuffle(builder, a, b, upper))


def add_up(builder: Any, vectors: list[Any]) -> Any:
    """The sums of the lanes of some vectors as one vector, each in the order of `total`."""
    group = vectors[0].type.count
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [fold(builder, a, b, group) for a, b in pairs]
        group //= 2
    (vector,) = vectors
    while group > 1:  # one vector left: halve each of its groups
        starts = range(0, vector.type.count, group)
        lower = [start + i for start in starts for i in range(group // 2)]
        upper = [lane + group // 2 for lane in lower]
        vector = builder.fadd(
            shuffle(builder, vector, vector, lower), shuffle(builder, vector, vector, upper)
        )
        group //= 2
    return vector


@intrinsic
def thin_product(typing_context, target, bias, inputs, weight, sizes):
    """target[i, u] = bias[u] + sum over f of inputs[i, f] weight[u, f], for few units u.

    `inputs` and `weight` lie in panels whose padding is zero; each lane of a line carries a sum of
    its own, lines ascending. `sizes`: first row of the inputs, rows, rows of the inputs' panels,
    units, padded features. Row i of `target` begins i lines further on.
    """

    def generate(context, builder, signature, arguments):
        target, bias, inputs, weight, sizes = arguments
        begin, rows, height, units, padded = (builder.extract_value(sizes, i) for i in range(5))
        real = target.type.pointee
        lanes = lanes_of(real)
        kind = vector_type(real, lanes)
        panel = PANEL_LINES * lanes
        panels = builder.sdiv(padded, I64(panel))
        narrow = builder.srem(padded, I64(panel))
        one_if_narrow = builder.zext(builder.icmp_signed(">", narrow, I64(0)), I64)
        # Full panels, then the last one: how many, and their width.
        parts = [(panels, I64(panel)), (one_if_narrow, narrow)]

        def tile(first: Any, unit: Any, high: int, wide: int) -> None:
            """The outputs of `high` rows and `wide` units: their sums fill one vector at most."""
            state = [inputs, weight, *[zero(kind)] * (high * wide)]
            units_here = [builder.add(unit, I64(u)) for u in range(wide)]
            begun = builder.add(begin, first)
            rows_here = [builder.add(begun, I64(i)) for i in range(high)]
            for count, width in parts:

                def over_panels(_: Any, carried: list[Any], width: Any = width) -> list[Any]:
                    x, w, *sums = carried
                    lefts = [at(builder, x, builder.mul(row, width)) for row in rows_here]
                    rights = [at(builder, w, builder.mul(u, width)) for u in units_here]

                    def over_lines(line: Any, sums: list[Any]) -> list[Any]:
                        shift = builder.mul(line, I64(lanes))
                        factors = [
                            load(builder, at(builder, right, shift), lanes, LINE_BYTES)
                            for right in rights
                        ]
                        changed = []
                        for i, left in enumerate(lefts):
                            value = load(builder, at(builder, left, shift), lanes, LINE_BYTES)
                            for u, factor in enumerate(factors):
                                total_so_far = sums[i * wide + u]
                                changed.append(
                                    fused_multiply_add(builder, value, factor, total_so_far)
                                )
                        return changed

                    sums = loop(builder, builder.sdiv(width, I64(lanes)), sums, over_lines)
                    following = [
                        at(builder, x, builder.mul(height, width)),
                        at(builder, w, builder.mul(units, width)),
                    ]
                    return [*following, *sums]

                state = loop(builder, count, state, over_panels)
            sums = add_up(builder, state[2:])
            start = load(builder, at(builder, bias, unit), wide)
            for i in range(high):
                place = builder.add(builder.mul(builder.add(first, I64(i)), I64(lanes)), unit)
                outputs = shuffle(builder, sums, sums, range(i * wide, (i + 1) * wide))
                store(builder, builder.fadd(start, outputs), at(builder, target, place))

        def rows_of_tiles(done: Any, high: int, wide: int) -> Any:
            """All units of as many rows as tiles of a height cover; the row that comes next."""
            count = builder.sdiv(builder.sub(rows, done), I64(high))

            def some_rows(index: Any, _: list[Any]) -> list[Any]:
                first = builder.add(done, builder.mul(index, I64(high)))
                groups = builder.sdiv(units, I64(wide))

                def some_units(group: Any, _: list[Any]) -> list[Any]:
                    tile(first, builder.mul(group, I64(wide)), high, wide)
                    return []

                def one_unit(u: Any, _: list[Any]) -> list[Any]:
                    tile(first, builder.add(builder.mul(groups, I64(wide)), u), high, 1)
                    return []

                loop(builder, groups, [], some_units)
                loop(builder, builder.srem(units, I64(wide)), [], one_unit)
                return []

            loop(builder, count, [], some_rows)
            return builder.add(done, builder.mul(count, I64(high)))

        # Tiles of 4 rows, as many units as fill a vector with their outputs; then single rows.
        rows_of_tiles(rows_of_tiles(I64(0), 4, lanes // 4), 1, lanes // 4)
        return context.get_dummy_value()

    return types.void(target, bias, inputs, weight, sizes), generate
