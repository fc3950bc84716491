"""The slabs of a plan in device memory: one allocation, sized before anything is allocated."""

from __future__ import annotations

import weakref
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.cuda.job import Job, Program, Tiles
from fastbp.backends.layout import read_panels, write_panels
from fastbp.errors import DeviceError
from fastbp.plan import Plan, Slab, Step
from fastbp.plan.plan import ITEM_BYTES

__all__ = ["Buffers", "Memory", "bytes_held", "steps_of", "table_sizes"]

ALIGNMENT = 256  # bytes; where every slab begins
PARAMETERS = ("parameters", "transposed")  # slabs that come first: blocks may hold a copy of them


class Memory:
    """An allocation on a device, given back with the object or before."""

    def __init__(self, device: Any, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address: int = device.allocate(nbytes)
        self.close = weakref.finalize(self, device.free, self.address)


class Buffers:
    """Device memory for every slab of a plan, and a host copy of those that the host fills.

    Parameters
    ----------
    plan : Plan
    device : Device
    tables : mapping of str to int
        Bytes of what lies after the slabs, by name.
    shared : mapping of str to Buffers
        Slabs, by name, that lie in another plan's buffers (the parameters, for validation).

    Raises
    ------
    DeviceError
        If it is more than the device has free; nothing has been allocated then.
    """

    def __init__(
        self,
        plan: Plan,
        device: Any,
        tables: Mapping[str, int],
        shared: Mapping[str, Buffers] | None = None,
    ) -> None:
        self.plan, self.device = plan, device
        self.tensors = {tensor.name: tensor for tensor in plan.tensors}
        self.kinds = {slab.name: self.dtype_of(slab) for slab in plan.slabs}
        self.lengths = {slab.name: slab.elements for slab in plan.slabs}
        self.addresses: dict[str, int] = {
            name: other.addresses[name] for name, other in (shared or {}).items()
        }
        sizes = slab_sizes(plan, self.addresses)
        places, self.nbytes = places_in(sizes, tables)
        parameters = {name: nbytes for name, nbytes in sizes.items() if name in PARAMETERS}
        self.parameter_bytes = places_in(parameters, {})[1]  # of memory, from its beginning on
        free = device.free_bytes()
        if self.nbytes > free:
            raise DeviceError(
                f"{device.name}: the {plan.purpose} plan needs {self.nbytes:,} bytes of memory; "
                f"{free:,} are free"
            )
        self.memory = Memory(device, self.nbytes)
        base = self.memory.address
        device.fill_zero(base, self.nbytes)
        self.addresses |= {name: base + place for name, place in places.items()}
        with np.errstate(over="ignore"):  # a setting beyond float32 acts as infinity
            for name, values in plan.values.items():
                tensor = self.tensors[name]
                self.upload(name, np.array(values[: tensor.columns], self.kinds[tensor.slab]))

    def dtype_of(self, slab: Slab) -> np.dtype[Any]:
        """The kind of numbers in a slab."""
        return np.dtype(self.plan.dtype if slab.kind == "real" else slab.kind)

    def close(self) -> None:
        """Give the memory back."""
        self.memory.close()

    def address(self, name: str) -> int:
        """Where a tensor begins in device memory."""
        tensor = self.tensors[name]
        return self.addresses[tensor.slab] + tensor.offset * self.kinds[tensor.slab].itemsize

    def upload(self, name: str, values: NDArray[Any]) -> None:
        """Copy numbers to where a tensor begins."""
        if values.size:
            kind = self.kinds[self.tensors[name].slab]
            self.device.upload(self.address(name), np.ascontiguousarray(values, dtype=kind))

    def download_slab(self, slab: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """A copy of a slab in host memory."""
        if out is None:
            out = np.empty(self.lengths[slab], self.kinds[slab])
        self.device.download(out, self.addresses[slab])
        return out

    def download(self, name: str) -> NDArray[Any]:
        """A tensor of one row, or all numbers of another, as they lie."""
        tensor = self.tensors[name]
        count = tensor.columns if tensor.rows == 1 else tensor.elements
        values = np.empty(count, self.kinds[tensor.slab])
        self.device.download(values, self.address(name))
        return values

    def write(self, name: str, slab: NDArray[Any], matrix: NDArray[Any]) -> None:
        """Fill a tensor in a host copy of its slab."""
        write_panels(self.tensors[name], self.plan.geometry, slab, matrix)

    def read(self, name: str, slab: NDArray[Any], matrix: NDArray[Any]) -> None:
        """Copy a tensor out of a host copy of its slab."""
        read_panels(self.tensors[name], self.plan.geometry, slab, matrix)


def steps_of(plan: Plan) -> list[Step]:
    """Every step of a plan that has arguments, once."""
    once = [step for step in (plan.reduce_loss, plan.begin, plan.reduce_tiles) if step]
    return [plan.order, *plan.propagation, *once, *plan.weight_steps]


def table_sizes(plan: Plan) -> dict[str, int]:
    """Bytes of the tables that lie after the slabs."""
    numbers = sum(3 * len(step.tensors) + len(step.sizes) for step in steps_of(plan))
    return {
        "table.arguments": 8 * numbers,
        "table.program": 8 * int(Program.COUNT) * (1 + len(plan.propagation)),
        "table.tiles": 8 * int(Tiles.COUNT) * max(len(plan.tiles), 1),
        "table.job": 8 * int(Job.COUNT),
        "table.clip_norm": 8,
    }


def places_in(slabs: Mapping[str, int], tables: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where slabs and then tables begin, given their bytes, and how many bytes all have."""
    places, total = {}, 0
    for name, nbytes in [*slabs.items(), *tables.items()]:
        places[name] = total
        total += -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
    return places, total


def slab_sizes(plan: Plan, shared: Container[str] = ()) -> dict[str, int]:
    """Bytes of a plan's slabs, parameters first, without those that are shared."""
    items = {"real": ITEM_BYTES[plan.dtype], "int64": 8, "float64": 8}
    return {
        slab.name: slab.elements * items[slab.kind]
        for slab in sorted(plan.slabs, key=lambda slab: slab.name not in PARAMETERS)
        if slab.name not in shared
    }


def bytes_held(plan: Plan) -> dict[str, int]:
    """Bytes of what blocks may hold in shared memory, from little to much; tables with either."""
    slabs, tables = slab_sizes(plan), table_sizes(plan)
    parameters = {name: nbytes for name, nbytes in slabs.items() if name in PARAMETERS}
    return {
        "nothing": 0,
        "parameters": places_in(parameters, tables)[1],
        "everything": places_in(slabs, tables)[1],
    }
