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


# Of so many lines: the sum of the squares, of the magnitudes, and of the squares after each element
# was multiplied by a factor.
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


THIN_ROWS = 4  # rows that share a load of the weights, and whose lanes are added up together


def fold(builder: Any, a: Any, b: Any, group: int) -> Any:
    """Halve groups of lanes of two vectors at once: the groups of a first, then those of b."""
    lanes = a.type.count
    both = range(0, 2 * lanes, group)
    lower = [start + i for start in both for i in range(group // 2)]
    upper = [lane + group // 2 for lane in lower]
    return builder.fadd(shuffle(builder, a, b, lower), shuffle(builder, a, b, upper))


def add_up(builder: Any, vectors: list[Any]) -> list[Any]:
    """The sum of the lanes of each vector, as scalars, in the order of `total`."""
    if len(vectors) == 1:
        return [total(builder, vectors[0])]
    lanes = vectors[0].type.count
    group = lanes
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
    return [
        builder.extract_element(vector, ir.Constant(ir.IntType(32), i))
        for i in range(vector.type.count)
    ]


@intrinsic
def thin_product(typing_context, target, bias, inputs, weight, sizes):
    """target[i, u] = bias[u] + sum over f of inputs[i, f] weight[u, f], for few units u.

    `inputs` and `weight` lie in panels whose padding is zero; each lane of a panel's lines carries
    a sum of its own. `sizes`: first row of the inputs, rows, rows of the inputs' panels,
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
        left = builder.sdiv(builder.srem(padded, I64(panel)), I64(lanes))
        input_panel = builder.mul(height, I64(panel))
        weight_panel = builder.mul(units, I64(panel))

        def group_of_rows(first: Any, count: int) -> None:
            def unit(u: Any, _: list[Any]) -> list[Any]:
                def chains(lines: int) -> Any:
                    def step(_: Any, carried: list[Any]) -> list[Any]:
                        x, w, *sums = carried
                        weights = at(builder, w, builder.mul(u, I64(lines * lanes)))
                        changed = list(sums)
                        for line in range(lines):
                            factor = load(
                                builder, at(builder, weights, line * lanes), lanes, LINE_BYTES
                            )
                            for i in range(count):
                                row = builder.add(builder.add(begin, first), I64(i))
                                place = builder.mul(row, I64(lines * lanes))
                                place = builder.add(place, I64(line * lanes))
                                value = load(builder, at(builder, x, place), lanes, LINE_BYTES)
                                k = PANEL_LINES * i + line
                                changed[k] = fused_multiply_add(builder, value, factor, sums[k])
                        return [at(builder, x, input_panel), at(builder, w, weight_panel), *changed]

                    return step

                sums = [zero(kind)] * (PANEL_LINES * count)
                state = loop(builder, panels, [inputs, weight, *sums], chains(PANEL_LINES))
                for lines in range(1, PANEL_LINES):  # the last panel, where it is narrower
                    is_last = builder.zext(builder.icmp_signed("==", left, I64(lines)), I64)
                    state = loop(builder, is_last, state, chains(lines))
                sums = state[2:]
                while len(sums) > count:  # neighbouring lines, then neighbouring pairs
                    pairs = zip(sums[::2], sums[1::2], strict=True)
                    sums = [builder.fadd(a, b) for a, b in pairs]
                start = builder.load(at(builder, bias, u))
                for i, value in enumerate(add_up(builder, sums)):
                    row = builder.mul(builder.add(first, I64(i)), I64(lanes))
                    place = at(builder, target, builder.add(row, u))
                    builder.store(builder.fadd(start, value), place)
                return []

            loop(builder, units, [], unit)

        whole = builder.sdiv(rows, I64(THIN_ROWS))

        def four(index: Any, _: list[Any]) -> list[Any]:
            group_of_rows(builder.mul(index, I64(THIN_ROWS)), THIN_ROWS)
            return []

        loop(builder, whole, [], four)
        done = builder.mul(whole, I64(THIN_ROWS))

        def one(index: Any, _: list[Any]) -> list[Any]:
            group_of_rows(builder.add(done, index), 1)
            return []

        loop(builder, builder.sub(rows, done), [], one)
        return context.get_dummy_value()

    return types.void(target, bias, inputs, weight, sizes), generate
