"""The code of the word in which the blocks of a grid meet, for `compiler`.

The CUDA runtime has such a barrier too, in a library to be linked, with a stack.
"""

from __future__ import annotations

from typing import Any

from fastbp.backends.cuda import language
from fastbp.backends.cuda.compiler import (
    POINTER,
    T,
    arith,
    constant,
    gpu,
    llvm,
    nothing,
    nvvm,
    word,
)

__all__: list[str] = []

# The first thread speaks for its block: what the block wrote happened before it arrives, and the
# block goes on after it has seen that the last one has arrived. The counter's sign has turned then.
MEET = """{
.reg .pred waits;
.reg .b32 number, before, now;
mov.u32 number, %tid.x;
setp.ne.u32 waits, number, 0;
@waits bra DONE;
atom.add.acq_rel.gpu.global.u32 before, [$0], $1;
WAIT:
ld.acquire.gpu.global.u32 now, [$0];
xor.b32 now, now, before;
setp.ge.s32 waits, now, 0;
@waits bra WAIT;
DONE:
}"""


@word(language.grid_barrier, nothing, POINTER)
def grid_barrier(builder: Any, kinds: Any, counter: Any) -> None:
    """All blocks but the first add 1 to the counter; the first adds what lacks to 2**31."""

    def number(value: int) -> Any:
        return constant(value, T.i32())

    lacking = arith.subi(number(1 - 2**31), nvvm.read_ptx_sreg_nctaid_x())
    is_first = arith.cmpi(arith.CmpIPredicate.eq, nvvm.read_ptx_sreg_ctaid_x(), number(0))
    operands = [llvm.ptrtoint(T.i64(), counter), arith.select(is_first, lacking, number(1))]
    gpu.barrier()
    llvm.inline_asm(None, operands, MEET, "l,r,~{memory}", has_side_effects=True)
    gpu.barrier()
