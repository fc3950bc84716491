"""Emitting LLVM instructions on explicit vectors: loads, splats, fused multiply-adds, loops.

What these functions emit does not depend on what an optimizer makes of a scalar loop: a vector of
64 bytes is a vector in the intermediate code, and LLVM splits it where registers are narrower. The
sum that each lane carries is therefore the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from llvmlite.ir.values import MDValue

__all__ = [
    "I64",
    "ITEM_BYTES",
    "LINE_BYTES",
    "SUFFIXES",
    "at",
    "distinct_node",
    "fused_multiply_add",
    "lanes_of",
    "load",
    "loop",
    "loop_properties",
    "minimum",
    "shuffle",
    "splat",
    "store",
    "vector_type",
    "zero",
]

I32, I64 = ir.IntType(32), ir.IntType(64)
LINE_BYTES = 64
ITEM_BYTES = {"float": 4, "double": 8, "i64": 8}
SUFFIXES = {"float": "f32", "double": "f64"}


def lanes_of(real: Any, vector_bytes: int = LINE_BYTES) -> int:
    """How many numbers of an LLVM type a vector of so many bytes holds."""
    return vector_bytes // ITEM_BYTES[str(real)]


def vector_type(real: Any, lanes: int) -> ir.VectorType:
    """The LLVM type of a vector."""
    return ir.VectorType(real, lanes)


def zero(kind: Any) -> ir.Constant:
    """A vector of zeros."""
    return ir.Constant(kind, [0.0] * kind.count)


def fused_multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding, on vectors (llvmlite declares it for scalars only)."""
    kind = a.type
    name = f"llvm.fma.v{kind.count}{SUFFIXES[str(kind.element)]}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [a, b, c])


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of equal lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(
        one, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    )


def shuffle(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    """The vector of the chosen lanes of a (0 and on) and of b (after those of a)."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def at(builder: Any, base: Any, elements: Any) -> Any:
    """The pointer so many elements further on."""
    return builder.gep(base, [elements if isinstance(elements, ir.Value) else I64(elements)])


def load(builder: Any, base: Any, lanes: int, alignment: int | None = None) -> Any:
    """The vector that lies at a pointer to its first number; unaligned unless told."""
    kind = ir.VectorType(base.type.pointee, lanes)
    align = alignment or ITEM_BYTES[str(kind.element)]
    return builder.load(builder.bitcast(base, kind.as_pointer()), align=align)


def store(builder: Any, value: Any, base: Any, alignment: int | None = None) -> None:
    """Put a vector where a pointer to its first number points."""
    align = alignment or ITEM_BYTES[str(value.type.element)]
    builder.store(value, builder.bitcast(base, value.type.as_pointer()), align=align)


def minimum(builder: Any, a: Any, b: Any) -> Any:
    """The smaller of two integers."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


class DistinctNode(MDValue):
    """Metadata that is equal to nothing else; its first operand may be itself."""

    def descr(self, buf: list[Any]) -> None:
        buf += ("distinct ",)
        super().descr(buf)


def distinct_node(module: Any) -> DistinctNode:
    """A node without operands so far."""
    return DistinctNode(module, (), name=str(len(module.metadata)))


def loop_properties(module: Any, *properties: tuple[Any, ...]) -> DistinctNode:
    """The metadata of one loop: a name and values for each property."""
    node = distinct_node(module)
    named = [
        module.add_metadata([ir.MetaDataString(module, name), *values])
        for name, *values in properties
    ]
    node.operands = (node, *named)
    return node


def loop(
    builder: Any,
    count: Any,
    carried: Sequence[Any],
    body: Callable[[Any, list[Any]], Sequence[Any]],
) -> list[Any]:
    """Emit ``for i in range(count): carried = body(i, carried)``; return the carried values.

    It stays as it is written: LLVM is told not to vectorise it, which it would do with gathers.
    """
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(I64(0), before)
    values = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        values.append(phi)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    changed = body(index, values)
    last = builder.block
    index.add_incoming(builder.add(index, I64(1)), last)
    for phi, value in zip(values, changed, strict=True):
        phi.add_incoming(value, last)
    never = ("llvm.loop.vectorize.enable", ir.Constant(ir.IntType(1), 0))
    builder.branch(head).set_metadata("llvm.loop", loop_properties(builder.module, never))
    builder.position_at_end(after)
    return values
