"""Simulated memory: allocations at made-up addresses, which know what was written to them."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np

from .races import AccessLog

__all__ = ["Memory", "Region", "SimulationError"]

FIRST_ADDRESS = 1 << 40
ALIGNMENT = 256
GAP = 1 << 32  # unused addresses after every allocation, so that a stray address hits nothing
POISON = 0xFF  # as floating-point numbers NaN, as integers -1


class SimulationError(Exception):
    """A kernel, or a call from the host, did what a GPU does not allow or does not define."""


class AddressSpace:
    """Gives out addresses, none of them twice."""

    def __init__(self, first: int) -> None:
        self.next_address = first

    def reserve(self, nbytes: int) -> int:
        address = self.next_address
        self.next_address += -(-nbytes // ALIGNMENT) * ALIGNMENT + GAP
        return address


class Region:
    """A range of addresses that pointers may not leave, over the bytes of one allocation.

    `written` has a byte for each of the memory, 0xFF where it was written; shared memory whose
    reads are not checked goes without. Marked parts of an allocation share its arrays.
    """

    def __init__(
        self,
        name: str,
        address: int,
        content: np.ndarray,
        written: np.ndarray | None,
        whole: Region | None = None,
        is_global: bool = True,
    ) -> None:
        self.name = name
        self.address = address
        self.nbytes = content.size
        self.content = content
        self.is_global = is_global
        self.written = written
        self.whole = whole or self
        self.parts: list[Region] = []
        self.views: dict[Any, tuple[int, np.ndarray, np.ndarray | None]] = {}
        self.log: AccessLog | None = None

    @property
    def end(self) -> int:
        return self.address + self.nbytes

    def part(self, address: int, nbytes: int) -> Region:
        """A smaller region of its own within this one."""
        begin = address - self.address
        written = None if self.written is None else self.written[begin : begin + nbytes]
        content = self.content[begin : begin + nbytes]
        return Region(f"a marked part of {self.name}", address, content, written, self.whole)

    def view(self, kind: Any) -> tuple[int, np.ndarray, np.ndarray | None]:
        """The memory as numbers of a kind: address of the first, numbers, their written flags.

        The flags are integers as wide as a number, -1 where all of it was written.
        """
        if kind not in self.views:
            size = np.dtype(kind).itemsize
            begin = -self.address % size
            end = max(begin, begin + (self.nbytes - begin) // size * size)
            flags = None
            if self.written is not None:
                flags = self.written[begin:end].view(np.int64 if size == 8 else np.int32)
            self.views[kind] = self.address + begin, self.content[begin:end].view(kind), flags
        return self.views[kind]

    def access_log(self, machine: Any) -> AccessLog:
        """The log of the whole allocation, by which races are found."""
        whole = self.whole
        if whole.log is None or whole.log.machine is not machine:
            whole.log = AccessLog(machine, whole)
        return whole.log

    def describe(self, address: int) -> str:
        """Where an address lies."""
        place = address - self.address
        where = f"byte {place}" if place >= 0 else f"{-place} bytes before the begin"
        return f"address {address:#x}, {where} of {self.nbytes} bytes of {self.name}"


class Memory:
    """The global memory of a device.

    Allocated bytes are 0xFF until they are written: NaN as floating-point numbers.
    """

    def __init__(self) -> None:
        self.space = AddressSpace(FIRST_ADDRESS)
        self.regions: dict[int, Region] = {}
        self.order: list[int] = []  # addresses, ascending
        self.allocated_bytes = 0

    def allocate(self, nbytes: int) -> int:
        """The address of new memory, a multiple of 256."""
        if nbytes < 0:
            raise SimulationError(f"cannot allocate {nbytes} bytes")
        address = self.space.reserve(nbytes)
        content, written = poisoned(nbytes), np.zeros(nbytes, np.uint8)
        self.regions[address] = Region("global memory", address, content, written)
        self.order.append(address)
        self.allocated_bytes += nbytes
        return address

    def free(self, address: int) -> None:
        """Give memory back; its address is never used again."""
        if address not in self.regions:
            raise SimulationError(f"free of {address:#x}, which is not the begin of an allocation")
        self.allocated_bytes -= self.regions.pop(address).nbytes
        self.order.remove(address)

    def mark(self, address: int, nbytes: int) -> None:
        """Bound the pointers formed at addresses in a part of an allocation by that part."""
        whole = self.allocation_of(address, nbytes)
        whole.parts.append(whole.part(address, nbytes))

    def find(self, address: int) -> Region | None:
        """The region that bounds a pointer formed at an address, if it hits an allocation.

        The address just past the end counts as part of a region, as in C.
        """
        place = bisect.bisect_right(self.order, address) - 1
        if place < 0:
            return None
        whole = self.regions[self.order[place]]
        if address > whole.end:
            return None
        inside = [part for part in whole.parts if part.address <= address < part.end]
        return min(inside, key=lambda part: part.nbytes, default=whole)

    def allocation_of(self, address: int, nbytes: int) -> Region:
        """The allocation in which a whole range lies, for accesses by the host."""
        address = int(address)
        region = self.find(address)
        if region is None:
            raise SimulationError(f"address {address:#x} lies in no allocation")
        whole = region.whole
        if nbytes < 0 or address + nbytes > whole.end:
            raise SimulationError(f"{nbytes} bytes from {whole.describe(address)}: too many")
        return whole

    def slices(self, address: int, nbytes: int) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of a range and their written flags."""
        whole = self.allocation_of(address, nbytes)
        begin = int(address) - whole.address
        assert whole.written is not None
        return whole.content[begin : begin + nbytes], whole.written[begin : begin + nbytes]

    def write(self, address: int, array: Any) -> None:
        """Copy an array into memory."""
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if source.size == 0:
            return
        content, written = self.slices(address, source.size)
        content[:] = source
        written[:] = 0xFF

    def read(self, address: int, dtype: Any, count: int) -> np.ndarray:
        """A copy of `count` numbers."""
        content, _ = self.slices(address, count * np.dtype(dtype).itemsize)
        return content.copy().view(dtype)

    def fill(self, address: int, nbytes: int, value: int = 0) -> None:
        """Set bytes to a value."""
        content, written = self.slices(address, nbytes)
        content[:] = value
        written[:] = 0xFF

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the memory; bytes that were never written stay so."""
        old_content, old_written = self.slices(source, nbytes)
        content, written = self.slices(target, nbytes)
        content[:], written[:] = old_content.copy(), old_written.copy()

    def poison(self, address: int, nbytes: int) -> None:
        """Make bytes as if they had never been written."""
        content, written = self.slices(address, nbytes)
        content[:] = POISON
        written[:] = 0

    def written(self, address: int, nbytes: int) -> np.ndarray:
        """For each byte, whether it was written since it was allocated."""
        return self.slices(address, nbytes)[1] != 0


def poisoned(nbytes: int) -> np.ndarray:
    """Bytes as they are before they are written, at an address that suits all kinds."""
    return np.full(-(-nbytes // 8), -1, np.int64).view(np.uint8)[:nbytes]
