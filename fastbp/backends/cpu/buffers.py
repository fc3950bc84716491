"""The slabs of a plan: allocated once, aligned, with guard zones round each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.layout import panels_of, write_panels
from fastbp.plan import Plan, Slab
from fastbp.sizes import check_bytes

__all__ = ["GUARD_BYTE", "Buffers"]

GUARD_BYTE = 0xA5


class Buffers:
    """Memory for every slab of a plan.

    Parameters
    ----------
    plan : Plan
    shared : mapping of str to Buffers
        Slabs, by name, that lie in another plan's buffers (the parameters, for validation).

    Raises
    ------
    MemoryError
        If this machine's memory cannot hold them; nothing is allocated then.

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
        own = [slab for slab in plan.slabs if not shared or slab.name not in shared]
        nbytes = sum(slab.elements * self.dtype_of(slab).itemsize for slab in own)
        check_bytes("network", nbytes, f"what a plan to {plan.purpose} takes")
        for slab in plan.slabs:
            if shared and slab.name in shared:
                self.slabs[slab.name] = shared[slab.name].slabs[slab.name]
            else:
                self.allocate(slab)
        self.beginnings = {name: slab.ctypes.data for name, slab in self.slabs.items()}
        with np.errstate(over="ignore"):  # a setting beyond float32 acts as infinity
            for name, values in plan.values.items():
                self.vector(name)[: len(values)] = values

    def dtype_of(self, slab: Slab) -> np.dtype[Any]:
        """Of the numbers of a slab."""
        return np.dtype(self.plan.dtype if slab.kind == "real" else slab.kind)

    def allocate(self, slab: Slab) -> None:
        """One aligned allocation with a guard zone of one alignment unit on either side."""
        dtype = self.dtype_of(slab)
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

    def address(self, name: str) -> int:
        """Where a tensor begins in memory."""
        tensor = self.tensors[name]
        begin, itemsize = self.beginnings[tensor.slab], self.slabs[tensor.slab].itemsize
        return int(begin + tensor.offset * itemsize)

    def panels(self, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """The panels of a tensor: first column, and a view (rows, columns with their padding)."""
        tensor = self.tensors[name]
        return panels_of(tensor, self.plan.geometry, self.slabs[tensor.slab])

    def read(self, name: str, *, padding: bool = False) -> NDArray[Any]:
        """A copy of a tensor as a matrix (rows, columns)."""
        matrix = np.hstack([panel for _, panel in self.panels(name)])
        return matrix if padding else matrix[:, : self.tensors[name].columns]

    def numbers(self, name: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """All numbers of a tensor, padding included, as they lie: a view, never in `out`."""
        tensor = self.tensors[name]
        return self.slabs[tensor.slab][tensor.offset : tensor.offset + tensor.elements]

    def write(self, name: str, matrix: NDArray[Any]) -> None:
        """Fill a tensor from a matrix (rows, columns), or from what broadcasts to one."""
        tensor = self.tensors[name]
        write_panels(tensor, self.plan.geometry, self.slabs[tensor.slab], matrix)

    def vector(self, name: str) -> NDArray[Any]:
        """A tensor of one row as a view."""
        tensor = self.tensors[name]
        return self.slabs[tensor.slab][tensor.offset : tensor.offset + tensor.columns]
