"""The slabs of a plan: allocated once, aligned, with guard zones round each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.plan import Plan, Slab, Tensor

__all__ = ["GUARD_BYTE", "Buffers"]

GUARD_BYTE = 0xA5


class Buffers:
    """Memory for every slab of a plan.

    Parameters
    ----------
    plan : Plan
    shared : mapping of str to Buffers
        Slabs, by name, that lie in another plan's buffers (the parameters, for validation).

    Attributes
    ----------
    slabs : dict of str to array
        Each a vector of the slab's elements, zero at first.
    """

    def __init__(self, plan: Plan, shared: Mapping[str, Buffers] | None = None) -> None:
        self.plan = plan
        self.slabs: dict[str, NDArray[Any]] = {}
        self.raw: dict[str, NDArray[np.uint8]] = {}
        self.tensors = {tensor.name: tensor for tensor in plan.tensors}
        for slab in plan.slabs:
            if shared and slab.name in shared:
                self.slabs[slab.name] = shared[slab.name].slabs[slab.name]
            else:
                self.allocate(slab)
        with np.errstate(over="ignore"):  # a setting beyond float32 acts as infinity
            for name, values in plan.values.items():
                self.vector(name)[: len(values)] = values

    def allocate(self, slab: Slab) -> None:
        """One aligned allocation with a guard zone of one alignment unit on either side."""
        dtype = np.dtype(self.plan.dtype if slab.kind == "real" else slab.kind)
        guard = self.plan.geometry.alignment
        nbytes = slab.elements * dtype.itemsize
        memory = np.zeros(nbytes + 3 * guard, dtype=np.uint8)
        start = -memory.ctypes.data % guard
        raw = memory[start : start + nbytes + 2 * guard]
        raw[:guard] = GUARD_BYTE
        raw[guard + nbytes :] = GUARD_BYTE
        self.raw[slab.name] = raw
        self.slabs[slab.name] = raw[guard : guard + nbytes].view(dtype)

    def guards_intact(self) -> bool:
        """Whether nothing was ever written just outside a slab."""
        guard = self.plan.geometry.alignment
        return all(
            bool((raw[:guard] == GUARD_BYTE).all() and (raw[-guard:] == GUARD_BYTE).all())
            for raw in self.raw.values()
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all slabs that this object allocated."""
        return sum(raw.nbytes for raw in self.raw.values())

    def padded(self, name: str) -> NDArray[Any]:
        """A tensor with its padding columns, (rows, leading dimension)."""
        tensor: Tensor = self.tensors[name]
        length = tensor.rows * tensor.leading_dimension
        flat = self.slabs[tensor.slab][tensor.offset : tensor.offset + length]
        return flat.reshape(tensor.rows, tensor.leading_dimension)

    def matrix(self, name: str) -> NDArray[Any]:
        """A tensor without its padding, (rows, columns)."""
        return self.padded(name)[:, : self.tensors[name].columns]

    def vector(self, name: str) -> NDArray[Any]:
        """A tensor of one row as a vector."""
        vector: NDArray[Any] = self.matrix(name)[0]
        return vector
