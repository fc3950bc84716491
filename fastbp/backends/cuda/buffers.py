"""Device memory: one allocation for the slabs of a plan, and those of its data."""

from __future__ import annotations

import weakref
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.cuda.foreign import DeviceArray, same_array
from fastbp.backends.cuda.job import Job, Program, Rounds, Tiles
from fastbp.backends.cuda.rounds import rows_of_rounds
from fastbp.backends.layout import read_panels, write_panels
from fastbp.errors import DeviceError
from fastbp.plan import Plan, Slab, Step
from fastbp.plan.plan import ITEM_BYTES

__all__ = [
    "Buffers",
    "DataArrays",
    "Memory",
    "bytes_held",
    "require_memory",
    "steps_of",
    "table_sizes",
]

OUTPUT = "data.outputs"  # the data tensor that is written
ALIGNMENT = 256  # bytes; where every slab begins
PARAMETERS = ("parameters", "transposed")  # slabs that come first: blocks may hold a copy of them


class Memory:
    """An allocation on a device, given back with the object or before."""

    def __init__(self, device: Any, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address: int = device.allocate(nbytes)
        self.close = weakref.finalize(self, device.free, self.address)


def require_memory(device: Any, wanted: Mapping[str, int]) -> None:
    """Refuse what a device has too little memory for.

    Parameters
    ----------
    device : Device
    wanted : mapping of str to int
        Bytes, by what they are for.

    Raises
    ------
    DeviceError
        With the bytes wanted and free, and what they consist of.
    """
    total = sum(wanted.values())
    free = device.free_bytes() if total else 0
    if total > free:
        parts = ", ".join(f"{name} {nbytes:,}" for name, nbytes in wanted.items() if nbytes)
        raise DeviceError(
            f"cuda:{device.ordinal} ({device.name}) has too little memory: this needs {total:,} "
            f"bytes ({parts}), and {free:,} are free"
        )


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

    Attributes
    ----------
    nbytes : int
        What `allocate` takes; before it nothing is allocated.
    """

    def __init__(
        self,
        plan: Plan,
        device: Any,
        tables: Mapping[str, int],
        shared: Mapping[str, Buffers] | None = None,
    ) -> None:
        self.plan, self.device, self.shared = plan, device, dict(shared or {})
        self.tensors = {tensor.name: tensor for tensor in plan.tensors}
        self.kinds = {slab.name: self.dtype_of(slab) for slab in plan.slabs}
        self.lengths = {slab.name: slab.elements for slab in plan.slabs}
        sizes = slab_sizes(plan, self.shared)
        self.places, self.nbytes = places_in(sizes, tables)
        # Of memory, from its beginning on.
        self.parameter_bytes = places_in(parameters_among(sizes), {})[1]
        self.memory: Memory | None = None
        self.base = 0  # where the memory begins
        self.addresses: dict[str, int] = {}

    def allocate(self) -> None:
        """Take the memory, and fill in the plan's constants; those who share theirs have it.

        Raises
        ------
        DeviceError
            If it is more than the device has free.
        """
        self.memory = Memory(self.device, self.nbytes)
        self.base = self.memory.address
        self.device.fill_zero(self.base, self.nbytes)
        self.addresses = {name: other.addresses[name] for name, other in self.shared.items()}
        self.addresses |= {name: self.base + place for name, place in self.places.items()}
        with np.errstate(over="ignore"):  # a setting beyond float32 acts as infinity
            for name, values in self.plan.values.items():
                tensor = self.tensors[name]
                self.upload(name, np.array(values[: tensor.columns], self.kinds[tensor.slab]))

    def dtype_of(self, slab: Slab) -> np.dtype[Any]:
        """The kind of numbers in a slab."""
        return np.dtype(self.plan.dtype if slab.kind == "real" else slab.kind)

    def close(self) -> None:
        """Give the memory back."""
        if self.memory is not None:
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

    def numbers(self, name: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """All numbers of a tensor, padding included, as they lie: a copy; in `out`, if given."""
        tensor = self.tensors[name]
        if out is None:
            out = np.empty(tensor.elements, self.kinds[tensor.slab])
        self.device.download(out, self.address(name))
        return out

    def write(self, name: str, slab: NDArray[Any], matrix: NDArray[Any]) -> None:
        """Fill a tensor in a host copy of its slab."""
        write_panels(self.tensors[name], self.plan.geometry, slab, matrix)

    def read(self, name: str, slab: NDArray[Any], matrix: NDArray[Any]) -> None:
        """Copy a tensor out of a host copy of its slab."""
        read_panels(self.tensors[name], self.plan.geometry, slab, matrix)


class DataArrays:
    """What the data tensors of a plan are bound to, and the copies of it on the device.

    Parameters
    ----------
    plan : Plan
    device : Device

    Attributes
    ----------
    names : set of str
        The data tensors that the plan has a use for.
    arrays : mapping of str to array
        In host memory.
    sources : mapping of str to DeviceArray
        Arrays of others on the device, which are used where they lie.
    changed : set of str
        What `send` has not seen yet.
    """

    def __init__(self, plan: Plan, device: Any) -> None:
        slabs = {tensor.name: tensor.slab for tensor in plan.tensors}
        used = [name for step in steps_of(plan) for name in step.tensors]
        self.names = {name for name in used if slabs[name] == "data"}
        self.device = device
        self.arrays: dict[str, NDArray[Any]] = {}
        self.sources: dict[str, DeviceArray] = {}
        self.memory: dict[str, Memory] = {}
        self.changed: set[str] = set(self.names)

    def bind(self, name: str, array: NDArray[Any] | None, source: Any = None) -> None:
        """Point a tensor at an array, or at nothing; the device is told by `send`."""
        if name not in self.names:
            return
        self.arrays.pop(name, None)
        self.sources.pop(name, None)
        self.changed.add(name)
        if array is not None:
            self.arrays[name] = array
            found = same_array(source, array, self.device)
            if found is not None:
                self.sources[name] = found

    def lacks_memory(self, name: str) -> bool:
        """Whether a copy is to be made, and there is no memory of the same size from before."""
        if name not in self.arrays or name in self.sources:
            return False
        return name not in self.memory or self.memory[name].nbytes != self.arrays[name].nbytes

    def missing_bytes(self) -> dict[str, int]:
        """The bytes of the copies that have no memory yet."""
        names = filter(self.lacks_memory, sorted(self.changed))
        return {name: self.arrays[name].nbytes for name in names}

    def send(self) -> dict[str, list[int]]:
        """Copy what is new to the device; the address, rows and columns of all that has changed."""
        entries = {}
        for name in sorted(self.changed):
            entries[name] = [0, 0, 0]
            array, found = self.arrays.get(name), self.sources.get(name)
            if array is None:
                continue
            if self.lacks_memory(name):
                self.memory.pop(name, None)  # before the next is taken, which may need its place
                self.memory[name] = Memory(self.device, array.nbytes)
            if found is None and name != OUTPUT:
                self.device.upload(self.memory[name].address, array)
            address = self.memory[name].address if found is None else found.address
            entries[name] = [address, array.shape[0], array.shape[1] if array.ndim == 2 else 1]
        self.changed.clear()
        return entries

    def fetch_output(self) -> None:
        """Copy what was written to its array in host memory."""
        if OUTPUT in self.arrays:
            self.device.download(self.arrays[OUTPUT], self.memory[OUTPUT].address)

    def release(self) -> None:
        """Let go of the arrays and of their copies."""
        for name in list(self.arrays):
            self.bind(name, None)
        for memory in self.memory.values():
            memory.close()
        self.memory.clear()


def steps_of(plan: Plan) -> list[Step]:
    """Every step of a plan that has arguments, once."""
    once = [step for step in (plan.reduce_loss, plan.begin, plan.reduce_tiles) if step]
    follow = [step for each in plan.rounds for step in each.steps]
    return [plan.order, *plan.propagation, *once, *plan.weight_steps, *follow]


def table_sizes(plan: Plan) -> dict[str, int]:
    """Bytes of the tables that lie after the slabs."""
    numbers = sum(3 * len(step.tensors) + len(step.sizes) for step in steps_of(plan))
    tables = {
        "table.arguments": 8 * numbers,
        "table.program": 8 * int(Program.COUNT) * (1 + len(plan.propagation)),
        "table.tiles": 8 * int(Tiles.COUNT) * max(len(plan.tiles), 1),
        "table.job": 8 * int(Job.COUNT),
        "table.clip_norm": 8,
    }
    if plan.rounds:
        tables["table.rounds"] = 8 * int(Rounds.COUNT) * sum(rows_of_rounds(plan).values())
    return tables


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


def parameters_among(slabs: Mapping[str, int]) -> dict[str, int]:
    """The slabs of which blocks may hold a copy."""
    return {name: nbytes for name, nbytes in slabs.items() if name in PARAMETERS}


def bytes_held(plan: Plan) -> dict[str, int]:
    """Bytes of what blocks may hold in shared memory, from little to much; tables with either."""
    slabs, tables = slab_sizes(plan), table_sizes(plan)
    return {
        "nothing": 0,
        "parameters": places_in(parameters_among(slabs), tables)[1],
        "everything": places_in(slabs, tables)[1],
    }
