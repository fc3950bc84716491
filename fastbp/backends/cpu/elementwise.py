"""Laws on whole vectors: a loop over elements that LLVM is told to vectorise.

A law is scalar code. `map_elements` emits the loop round it: load, call, store, with the promise
that elements do not meet (so no checks for overlap) and a vector length of one line. A law of
arithmetic, selects and `fastbp.elementary` becomes vector instructions; any other stays a scalar
loop with the same results.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from fastbp.backends.cpu.vectors import I64, at, distinct_node, lanes_of, loop_properties

__all__ = ["map_elements", "multiplied"]


def flat(kind: Any) -> list[Any]:
    """The leaves of nested tuple types."""
    if isinstance(kind, types.BaseTuple):
        return [leaf for member in kind for leaf in flat(member)]
    return [kind]


def leaves(builder: Any, kind: Any, value: Any) -> list[Any]:
    """The leaves of a nested tuple value."""
    if not isinstance(kind, types.BaseTuple):
        return [value]
    found = []
    for i, member in enumerate(kind):
        found += leaves(builder, member, builder.extract_value(value, i))
    return found


def elements_of(kind: Any) -> Any:
    """The types of the elements that nested tuples of pointers point at."""
    if isinstance(kind, types.BaseTuple):
        return types.Tuple([elements_of(member) for member in kind])
    return kind.dtype


def packed(context: Any, builder: Any, kind: Any, values: list[Any]) -> Any:
    """A nested tuple made of leaves, which are taken from the front of a list."""
    if not isinstance(kind, types.BaseTuple):
        return values.pop(0)
    members = [packed(context, builder, member, values) for member in kind]
    return context.make_tuple(builder, kind, members)


@intrinsic
def map_elements(typing_context, function, inputs, extra, outputs, lines):
    """outputs[j] = function(*inputs[j], *extra) for the elements j of so many lines.

    `inputs` and `outputs` are tuples (of tuples) of pointers to numbers of one type; `function`
    takes and returns the elements in the same nesting. An output may be an input.
    """
    taken = [elements_of(member) for member in inputs]
    signature = function.get_call_type(typing_context, (*taken, *extra), {})
    if len(flat(signature.return_type)) != len(flat(outputs)):
        return None

    def generate(context, builder, call_signature, arguments):
        _, sources, constants, targets, lines = arguments
        module = builder.module
        sources = leaves(builder, inputs, sources)
        targets = leaves(builder, outputs, targets)
        lanes = lanes_of(sources[0].type.pointee)
        count = builder.mul(lines, I64(lanes))
        group = distinct_node(module)
        constants = [builder.extract_value(constants, i) for i in range(len(extra))]
        implementation = context.get_function(function, signature)

        before = builder.block
        inside, after = (builder.append_basic_block(name) for name in ("element", "after"))
        builder.cbranch(builder.icmp_signed(">", count, I64(0)), inside, after)
        builder.position_at_end(inside)
        index = builder.phi(I64)
        index.add_incoming(I64(0), before)
        values = []
        for source in sources:
            value = builder.load(at(builder, source, index))
            value.set_metadata("llvm.access.group", group)
            values.append(value)
        passed = [packed(context, builder, kind, values) for kind in taken]
        result = implementation(builder, [*passed, *constants])
        # The tables that a law reads are no obstacle either, once it is inlined.
        for instruction in inside.instructions:
            if isinstance(instruction, ir.CallInstr):
                instruction.set_metadata("llvm.access.group", group)
        results = leaves(builder, signature.return_type, result)
        for kind, value, target in zip(flat(signature.return_type), results, targets, strict=True):
            cast = context.cast(builder, value, kind, flat(outputs)[0].dtype)
            instruction = builder.store(cast, at(builder, target, index))
            instruction.set_metadata("llvm.access.group", group)
        following = builder.add(index, I64(1))
        index.add_incoming(following, builder.block)
        branch = builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
        one, width = ir.Constant(ir.IntType(1), 1), ir.Constant(ir.IntType(32), lanes)
        properties = loop_properties(
            module,
            ("llvm.loop.parallel_accesses", group),
            ("llvm.loop.vectorize.enable", one),
            ("llvm.loop.vectorize.width", width),
            ("llvm.loop.interleave.count", ir.Constant(ir.IntType(32), 1)),
        )
        branch.set_metadata("llvm.loop", properties)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(function, inputs, extra, outputs, lines), generate


@register_jitable(forceinline=True)
def multiplied(a, b):
    """The law that multiplies."""
    return (a * b,)
