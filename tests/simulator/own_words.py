"""The meaning of the words of `language` that a thread needs no others for."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arithmetic import fma, outer_product
from .pointers import Registers, new_registers
from .tensor_cores import bfloat16_words, to_tf32

__all__ = ["OwnWords"]

INTEGERS = {np.float32: np.int32, np.float64: np.int64}


class OwnWords:
    """What a thread does by itself; `fault` makes the exception that says which thread it was."""

    fault: Any

    def offset(self, pointer: Any, elements: int) -> Any:
        return pointer.shifted(elements)

    def registers(self, count: int, kind: Any) -> Registers:
        return new_registers(self, count, kind)

    def fill(self, target: Any, index: int, value: Any, count: int) -> None:
        target.fill(index, value, count)

    def load_vectors(
        self, target: Any, index: int, source: Any, place: int, apart: int, count: int
    ) -> None:
        source.load_vectors(target, index, place, apart, count)

    def store_vectors(
        self,
        target: Any,
        place: int,
        apart: int,
        row_apart: int,
        source: Any,
        index: int,
        rows: int,
        count: int,
    ) -> None:
        target.store_vectors(place, apart, row_apart, source, index, rows, count)

    def address_of(self, pointer: Any) -> int:
        return int(pointer.address)

    def quotient(self, a: int, b: int) -> int:
        return self.division(a, b)[0]

    def remainder(self, a: int, b: int) -> int:
        return self.division(a, b)[1]

    def division(self, a: int, b: int) -> tuple[int, int]:
        """Quotient and remainder of numbers that a division of 31 bits takes."""
        if not (0 <= a < 2**31 and 0 <= b < 2**31):
            raise ValueError(f"a division of 31 bits got {a} and {b}")
        return divmod(int(a), int(b))

    def float_bits(self, x: Any) -> int:
        return int(x.view(INTEGERS[type(x)]))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return fma(a, b, c)

    def outer_product(
        self, sums: Any, left: Any, first: int, stride: int, right: Any, rows: int, columns: int
    ) -> None:
        if not type(sums) is type(left) is type(right) is Registers:
            raise self.fault("outer_product of what are no registers")
        outer_product(
            sums.part(0, 1, rows * columns),
            left.part(first, stride, rows),
            right.part(0, 1, columns),
        )

    def round_to_tf32(
        self, target: Any, index: int, source: Any, first: int, step: int, count: int
    ) -> None:
        target.part(index, 1, count)[...] = to_tf32(source.part(first, step, count))

    def pack_bf16(
        self, target: Any, index: int, source: Any, low: int, high: int, step: int, count: int
    ) -> None:
        pairs = (source.part(first, step, count) for first in (low, high))
        target.part(index, 1, count)[...] = bfloat16_words(*pairs)
