"""What `as_pointer`, `shared_memory` and `registers` give a simulated thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from .memory import Region
from .races import GRANULE

__all__ = ["CheckedPointer", "Pointer", "Registers", "StrayPointer", "new_registers"]

VECTOR_BYTES = 16
INTEGER_POISON = -0x55555556  # an integer that stands out


class Elements:
    """Numbers of a kind that a pointer bounds.

    Element i is ``numbers[start + i]``. `flags` says what was written, -1 where it was; it may be
    absent.
    """

    __slots__ = ("flags", "machine", "numbers", "start")

    machine: Any
    numbers: np.ndarray
    flags: np.ndarray | None

    def __getitem__(self, index: int) -> Any:
        place = self.start + index
        if place < 0:
            self.outside("read", index)
        try:
            return self.numbers[place]
        except IndexError:
            self.outside("read", index)

    def __setitem__(self, index: int, value: Any) -> None:
        place = self.start + index
        if place < 0:
            self.outside("write", index)
        try:
            self.numbers[place] = value
        except IndexError:
            self.outside("write", index)
        if self.flags is not None:
            self.flags[place] = -1

    def fill(self, index: int, value: Any, count: int) -> None:
        """Set elements from `index` on."""
        place = self.start + index
        if place < 0 or place + count > len(self.numbers):
            self.outside("write", index if place < 0 else index + count - 1)
        self.numbers[place : place + count] = value
        if self.flags is not None:
            self.flags[place : place + count] = -1

    def outside(self, access: str, index: Any) -> None:
        """Report an index that is out of bounds, or none at all."""
        if not isinstance(index, int | np.integer):
            raise self.machine.fault(f"index {index!r} is not an integer")
        where = self.describe(self.start + index)
        name = self.numbers.dtype.name
        raise self.machine.fault(f"{access} of {name} element {index} is out of bounds: {where}")

    def describe(self, place: int) -> str:
        """Which memory a place is in."""
        raise NotImplementedError


class Registers(Elements):
    """A thread's own array: NaN, or an integer that stands out, until it is written."""

    __slots__ = ()

    def __init__(self, machine: Any, numbers: np.ndarray, start: int = 0) -> None:
        self.machine = machine
        self.numbers = numbers
        self.flags = None
        self.start = start

    def shifted(self, elements: int) -> Registers:
        return Registers(self.machine, self.numbers, self.start + int(elements))

    def part(self, index: int, step: int, count: int) -> np.ndarray:
        """Elements index, index + step, ... as an array."""
        place = self.start + index
        size = len(self.numbers)
        if place == 0 and count == size and step == 1:
            return self.numbers
        last = place + step * (count - 1)
        if not (0 <= place < size and 0 <= last < size):
            self.outside("access", index if not 0 <= place < size else last - self.start)
        return self.numbers[place : last + 1 : step]

    def describe(self, place: int) -> str:
        return f"register {place} of {len(self.numbers)}"


class Pointer(Elements):
    """A pointer within a region of global or shared memory.

    A vector has `lanes` elements; one whose place plus `phase` is a multiple of that begins at a
    multiple of 16 bytes.
    """

    __slots__ = ("kind", "lanes", "phase", "region")

    def __init__(self, machine: Any, region: Region, kind: Any, start: int) -> None:
        first, self.numbers, self.flags = region.view(kind)
        size = self.numbers.itemsize
        self.machine = machine
        self.region = region
        self.kind = kind
        self.start = start
        self.lanes = VECTOR_BYTES // size
        self.phase = first // size % self.lanes

    @property
    def address(self) -> int:
        """The address of element 0."""
        return self.address_of(self.start)

    def address_of(self, place: int) -> int:
        return int(self.region.view(self.kind)[0] + place * self.numbers.itemsize)

    def shifted(self, elements: int) -> Pointer:
        return type(self)(self.machine, self.region, self.kind, self.start + int(elements))

    def vector_place(self, access: str, index: int) -> int:
        """The place of the first element of a vector, once it is known to be a legal one."""
        place = self.start + index
        if (place + self.phase) % self.lanes:
            raise self.machine.fault(
                f"misaligned {access}: element {index} is not at a multiple of {VECTOR_BYTES} "
                f"bytes: {self.describe(place)}"
            )
        if place < 0 or place + self.lanes > len(self.numbers):
            self.outside(access, index)
        return place

    def load_vectors(self, target: Any, index: int, place: int, apart: int, count: int) -> None:
        """Copy vectors to registers."""
        self.require_registers(target)
        lanes, numbers = self.lanes, self.numbers
        values = target.part(index, 1, lanes * count)
        begin = self.start + place
        end = begin + apart * count
        is_legal = (begin + self.phase) % lanes == 0 == apart % lanes
        if is_legal and apart >= lanes and begin >= 0 and end <= len(numbers):
            table = numbers[begin:end].reshape(count, apart)  # at once, for speed
            values.reshape(count, lanes)[...] = table[:, :lanes]
            return
        for j in range(count):
            begin = self.vector_place("vector read", place + j * apart)
            values[j * lanes : (j + 1) * lanes] = numbers[begin : begin + lanes]

    def store_vectors(
        self,
        place: int,
        apart: int,
        row_apart: int,
        source: Any,
        index: int,
        rows: int,
        count: int,
    ) -> None:
        """Copy registers to rows of vectors."""
        self.require_registers(source)
        lanes = self.lanes
        values = source.part(index, 1, lanes * rows * count)
        for i in range(rows):
            for j in range(count):
                begin = self.vector_place("vector write", place + i * row_apart + j * apart)
                at = (i * count + j) * lanes
                self.numbers[begin : begin + lanes] = values[at : at + lanes]
                if self.flags is not None:
                    self.flags[begin : begin + lanes] = -1

    def require_registers(self, other: Any) -> None:
        """Refuse all but registers of the same kind at the other end of a copy."""
        if type(other) is not Registers:
            raise self.machine.fault("registers expected")
        if other.numbers.dtype is not self.numbers.dtype:
            raise self.machine.fault("vectors of different kinds")

    def describe(self, place: int) -> str:
        return self.region.describe(self.address_of(place))


class CheckedPointer(Pointer):
    """A pointer whose accesses are logged to find races and reads of what was never written."""

    __slots__ = ("first_granule", "granules", "log")

    def __init__(self, machine: Any, region: Region, kind: Any, start: int) -> None:
        super().__init__(machine, region, kind, start)
        self.granules = self.numbers.itemsize // GRANULE
        self.first_granule = (self.address_of(0) - region.whole.address) // GRANULE
        self.log = region.access_log(machine) if machine.races else None

    def __getitem__(self, index: int) -> Any:
        value = Elements.__getitem__(self, index)
        self.check_read(self.start + index)
        return value

    def __setitem__(self, index: int, value: Any) -> None:
        place = self.start + index
        if 0 <= place < len(self.numbers):
            self.check_write(place, value)
        Elements.__setitem__(self, index, value)

    def fill(self, index: int, value: Any, count: int) -> None:
        for k in range(index, index + count):
            self[k] = value

    def load_vectors(self, target: Any, index: int, place: int, apart: int, count: int) -> None:
        for j in range(count):
            begin = self.vector_place("vector read", place + j * apart)
            for k in range(begin, begin + self.lanes):
                self.check_read(k)
        super().load_vectors(target, index, place, apart, count)

    def store_vectors(
        self,
        place: int,
        apart: int,
        row_apart: int,
        source: Any,
        index: int,
        rows: int,
        count: int,
    ) -> None:
        for i in range(rows):
            for j in range(count):
                begin = self.vector_place("vector write", place + i * row_apart + j * apart)
                at = index + (i * count + j) * self.lanes
                for k in range(self.lanes):
                    self.check_write(begin + k, source[at + k])
        super().store_vectors(place, apart, row_apart, source, index, rows, count)

    def check_read(self, place: int) -> None:
        machine = self.machine
        if machine.raise_uninitialised and self.flags[place] != -1:
            raise machine.fault(f"read of what was never written: {self.describe(place)}")
        if self.log is not None:
            granule = self.first_granule + place * self.granules
            for k in range(granule, granule + self.granules):
                self.log.read(k, machine.stamp)

    def check_write(self, place: int, value: Any) -> None:
        if self.log is None:
            return
        machine = self.machine
        same = False
        if machine.same_value_writes:
            same = self.numbers[place].tobytes() == self.numbers.dtype.type(value).tobytes()
        granule = self.first_granule + place * self.granules
        for k in range(granule, granule + self.granules):
            self.log.write(k, machine.stamp, same)


class StrayPointer:
    """A pointer that leads to no memory, as of an absent tensor: legal until it is used."""

    __slots__ = ("address", "kind", "machine")

    def __init__(self, machine: Any, address: int, kind: Any) -> None:
        self.machine = machine
        self.address = address
        self.kind = kind

    def shifted(self, elements: int) -> StrayPointer:
        address = self.address + int(elements) * np.dtype(self.kind).itemsize
        return StrayPointer(self.machine, address, self.kind)

    def __getitem__(self, index: int) -> Any:
        self.refuse("read", index)

    def __setitem__(self, index: int, value: Any) -> None:
        self.refuse("write", index)

    def fill(self, index: int, value: Any, count: int) -> None:
        self.refuse("write", index)

    def load_vectors(self, target: Any, index: int, place: int, *more: int) -> None:
        self.refuse("vector read", place)

    def store_vectors(self, place: int, *more: Any) -> None:
        self.refuse("vector write", place)

    def refuse(self, access: str, index: Any) -> None:
        where = f"{self.address:#x}, where no memory is" if self.address else "address 0"
        raise self.machine.fault(f"{access} of element {index} from {where}")


TEMPLATES: dict[tuple[int, Any], np.ndarray] = {}


def new_registers(machine: Any, count: int, kind: Any) -> Registers:
    """Registers as they are before they are written."""
    template = TEMPLATES.get((count, kind))
    if template is None:
        poison = np.nan if issubclass(kind, np.floating) else INTEGER_POISON
        template = TEMPLATES[count, kind] = np.full(count, poison, kind)
    return Registers(machine, template.copy())
