"""The code of the words of tensor cores, for `compiler`: inline instructions of sm_80 and later.

Registers of a word of 32 bits, whatever is in it, are of float32. Which registers go into one
instruction is in the words' docstrings.
"""

from __future__ import annotations

from typing import Any

from fastbp.backends.cuda import language
from fastbp.backends.cuda.compiler import (
    INTEGER,
    POINTER,
    T,
    arith,
    ir,
    llvm,
    nothing,
    try_extract_constant,
    word,
)

__all__: list[str] = []

MMA = "mma.sync.aligned.{}.row.col.f32.{}.{}.f32 {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, "
MMA += "{{$10,$11,$12,$13}};"


def register(registers: Any, index: int) -> Any:
    """The place of a register."""
    pointer = llvm.PointerType.get()
    return llvm.getelementptr(pointer, registers, [], [index], T.f32(), None)


def load(registers: Any, index: int) -> Any:
    """A register as a number."""
    return llvm.load(T.f32(), register(registers, index))


def bits(registers: Any, index: int) -> Any:
    """A register as 32 bits."""
    return arith.bitcast(T.i32(), load(registers, index))


def store_bits(word: Any, registers: Any, index: int) -> None:
    llvm.store(arith.bitcast(T.f32(), word), register(registers, index))


def round_to_tf32(builder: Any, kinds: Any, *values: Any) -> None:
    target, source = values[0], values[2]
    index, first, step, count = map(try_extract_constant, (values[1], *values[3:]))
    for i in range(count):
        number = load(source, first + i * step)
        word = llvm.inline_asm(T.i32(), [number], "cvt.rna.tf32.f32 $0, $1;", "=r,f")
        store_bits(word, target, index + i)


def pack_bf16(builder: Any, kinds: Any, *values: Any) -> None:
    target, source = values[0], values[2]
    index, low, high, step, count = map(try_extract_constant, (values[1], *values[3:]))
    for i in range(count):
        # The instruction's first operand goes to the upper half.
        pair = [load(source, high + i * step), load(source, low + i * step)]
        word = llvm.inline_asm(T.i32(), pair, "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f")
        store_bits(word, target, index + i)


def multiply_add(shape: str, kind: str) -> Any:
    """Code for the products of a warp's fragments."""
    instruction = MMA.format(shape, kind, kind)

    def emit(builder: Any, kinds: Any, *values: Any) -> None:
        sums, left, right = values[:3]
        high, wide = map(try_extract_constant, values[3:])
        four = ir.Type.parse("!llvm.struct<(f32, f32, f32, f32)>")
        columns = [[bits(right, 2 * j + d) for d in range(2)] for j in range(wide)]
        for i in range(high):
            rows = [bits(left, 4 * i + n) for n in range(4)]
            for j, column in enumerate(columns):
                places = [(4 * i + n) * wide + j for n in range(4)]
                # A side effect, so that no branch between threads of a warp is put around it.
                after = llvm.inline_asm(
                    four,
                    [*rows, *column, *(load(sums, place) for place in places)],
                    instruction,
                    "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
                    has_side_effects=True,
                )
                for n, place in enumerate(places):
                    value = llvm.extractvalue(T.f32(), after, [n])
                    llvm.store(value, register(sums, place))

    return emit


OPERANDS = (POINTER, POINTER, POINTER, INTEGER, INTEGER)
word(language.round_to_tf32, nothing, POINTER, INTEGER, POINTER, *[INTEGER] * 3)(round_to_tf32)
word(language.pack_bf16, nothing, POINTER, INTEGER, POINTER, *[INTEGER] * 4)(pack_bf16)
word(language.mma_tf32, nothing, *OPERANDS)(multiply_add("m16n8k8", "tf32"))
word(language.mma_bf16, nothing, *OPERANDS)(multiply_add("m16n8k16", "bf16"))
