"""A device as the engine sees one, on a simulated machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp.errors import DeviceError

from .machine import MOST_SHARED_BYTES, Machine
from .memory import Memory, SimulationError

__all__ = ["SimulatedDevice", "SimulatedFunction", "SimulatedGraph"]

THREADS_PER_MULTIPROCESSOR = 2048
SHARED_PER_MULTIPROCESSOR = 233472
SHARED_PER_BLOCK = 1024  # taken by the system
LARGEST_ARGUMENT = 2**63 - 1


@dataclass(frozen=True)
class SimulatedFunction:
    """A kernel that can be launched."""

    entry: Any
    kernel: Callable[..., None]


class SimulatedGraph:
    """What a device was asked to do while it recorded."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def launch(self) -> None:
        """Do all of it again."""
        for step in self.steps:
            step()


class SimulatedDevice:
    """A device of global memory and multiprocessors, where a launch is over when it returns.

    `multiprocessors`, `shared_bytes`, `total_bytes` (of global memory) and `most_resident` (blocks
    of a cooperative launch that a multiprocessor holds at a time, a small number so that tests are
    quick) may be set at any time; further arguments are those of `Machine`.
    """

    ordinal = 0
    name = "simulated"
    compute_capability = (9, 0)

    def __init__(
        self,
        *,
        multiprocessors: int = 4,
        shared_bytes: int = MOST_SHARED_BYTES,
        total_bytes: int = 1 << 30,
        most_resident: int = 2,
        **machine: Any,
    ) -> None:
        self.multiprocessors = multiprocessors
        self.shared_bytes = shared_bytes
        self.total_bytes = total_bytes
        self.most_resident = most_resident
        self.memory = Memory()
        self.machine = Machine(self.memory, **machine)
        self.functions: dict[Any, SimulatedFunction] = {}
        self.recording: SimulatedGraph | None = None

    def ordinal_of(self, address: int) -> int | None:
        """The device whose memory an address is in, or None."""
        return None if self.memory.find(address) is None else self.ordinal

    def wait_for(self, stream: int) -> None:
        """Nothing is ever under way here."""

    def wait_for_all(self) -> None:
        """Likewise."""

    def free_bytes(self) -> int:
        """How much memory may still be allocated."""
        return self.total_bytes - self.memory.allocated_bytes

    def allocate(self, nbytes: int) -> int:
        """The address of new memory, not initialised."""
        if nbytes > self.free_bytes():
            raise DeviceError(
                f"the device has {self.free_bytes()} bytes free of the {nbytes} bytes wanted"
            )
        return self.memory.allocate(nbytes)

    def free(self, address: int) -> None:
        """Give memory back; address 0 is none."""
        if address:
            self.memory.free(address)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy an array to the device."""
        self.refuse_recording("upload")
        require_contiguous(array)
        self.memory.write(address, array)

    def download(self, array: np.ndarray, address: int) -> None:
        """Fill an array from the device."""
        self.refuse_recording("download")
        require_contiguous(array)
        if array.size == 0:
            return
        array[...] = self.memory.read(address, array.dtype, array.size).reshape(array.shape)

    def fill_zero(self, address: int, nbytes: int) -> None:
        """Set bytes to 0."""
        if nbytes:
            self.do(lambda: self.memory.fill(address, nbytes))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device."""
        if nbytes:
            self.do(lambda: self.memory.copy(target, source, nbytes))

    def function(self, entry: Any) -> SimulatedFunction:
        """The kernel of an entry: what ``entry.build`` makes for its dtype."""
        if entry not in self.functions:
            kernel = entry.build(np.dtype(entry.dtype).type, np.int64, np.float64)
            self.functions[entry] = SimulatedFunction(entry, kernel)
        return self.functions[entry]

    def launch(
        self,
        handle: SimulatedFunction,
        grid: int,
        block: int,
        shared_bytes: int,
        arguments: tuple[int, ...],
        cooperative: bool = False,
    ) -> None:
        """Run a kernel, or record that it is to be run."""
        for argument in arguments:
            is_integer = isinstance(argument, int | np.integer) and not isinstance(argument, bool)
            if not is_integer or not -LARGEST_ARGUMENT - 1 <= argument <= LARGEST_ARGUMENT:
                raise SimulationError(f"{argument!r} is not a 64-bit integer")
        numbers = tuple(int(argument) for argument in arguments)
        most = self.most_blocks(handle, block, shared_bytes)
        if cooperative and grid > most:
            raise DeviceError(f"a cooperative launch of {grid} blocks, where {most} fit")

        def step() -> None:
            self.machine.shared_limit = self.shared_bytes
            self.machine.launch(handle.kernel, grid, block, shared_bytes, numbers, cooperative)

        self.do(step)

    def capture(self, function: Callable[[], None]) -> SimulatedGraph:
        """What a function asks of the device, recorded and not done."""
        self.refuse_recording("capture")
        graph = self.recording = SimulatedGraph()
        try:
            function()
        finally:
            self.recording = None
        return graph

    def synchronize(self) -> None:
        """Wait until all is done, as it is at once."""
        self.refuse_recording("synchronize")

    def most_blocks(self, handle: SimulatedFunction, block: int, shared_bytes: int) -> int:
        """How many blocks a cooperative launch may have."""
        if shared_bytes > self.shared_bytes:
            raise DeviceError(
                f"{shared_bytes} bytes of shared memory wanted, {self.shared_bytes} are the most"
            )
        by_shared = SHARED_PER_MULTIPROCESSOR // (shared_bytes + SHARED_PER_BLOCK)
        by_threads = THREADS_PER_MULTIPROCESSOR // block
        return self.multiprocessors * min(self.most_resident, by_shared, by_threads)

    def do(self, step: Callable[[], None]) -> None:
        """Do a step now, or record it."""
        if self.recording is not None:
            self.recording.steps.append(step)
        else:
            step()

    def refuse_recording(self, name: str) -> None:
        if self.recording is not None:
            raise DeviceError(f"{name} while a graph is recorded")


def require_contiguous(array: np.ndarray) -> None:
    if not array.flags.c_contiguous:
        raise ValueError("expected an array that is contiguous in the order of C")
