"""One GPU: its memory, the kernels loaded on it, and the stream on which all its work is done.

Everything goes to one stream in the order of the calls; a copy from or to the host returns when it
is done, a launch returns at once. Any thread may call, one at a time has the device.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.cuda.context import Context
from fastbp.backends.cuda.processor import FORKED, forked_after_use
from fastbp.errors import DeviceError
from fastbp.turns import tell_of_forks

__all__ = ["Device", "Entry", "Event", "Graph", "Kernel", "device", "failure_of"]

SHARED_BYTES_OF_ALL = 48 * 1024  # what a kernel may have, its own included, without asking
MOST_ARGUMENTS = 512  # CUDA allows 4 KiB of them on every device


class Entry(Protocol):
    """A kernel in machine code, which a device can load. Equal entries are loaded once."""

    @property
    def symbol(self) -> str:
        """The kernel's name in the code."""

    def code(self, compute_capability: tuple[int, int]) -> bytes:
        """The code for devices of a compute capability."""

    def __hash__(self) -> int: ...


class Kernel:
    """A kernel that is loaded on a device."""

    def __init__(
        self, symbol: str, function: Any, code: bytes, own_bytes: int, most_shared_bytes: int
    ) -> None:
        self.symbol = symbol
        self.function = function
        self.code = code  # kept: the driver may load it as late as at the first launch
        self.own_bytes = own_bytes  # of shared memory, beside what a launch asks for
        self.most_shared_bytes = most_shared_bytes
        self.has_opted_in = False
        self.configurations: dict[tuple[int, int, int], Any] = {}  # of cooperative launches


class Graph:
    """Launches that were recorded together, which one call repeats."""

    def __init__(self, device: Device, executable: Any) -> None:
        self.device = device
        self.executable = executable
        weakref.finalize(self, device.discard, "cuGraphExecDestroy", executable).atexit = False

    def launch(self) -> None:
        """Put the recorded launches on the device's stream."""
        device = self.device
        with device.turn:
            device.call("cuGraphLaunch", self.executable, device.stream)


class Event:
    """A place in the order of the device's work, with the time when it was reached."""

    def __init__(self, device: Device, handle: Any) -> None:
        self.handle = handle
        weakref.finalize(self, device.discard, "cuEventDestroy", handle).atexit = False


class Arguments:
    """Memory from which the driver copies the arguments of a launch, 64 bits each."""

    def __init__(self) -> None:
        self.values = (ctypes.c_int64 * MOST_ARGUMENTS)()
        start = ctypes.addressof(self.values)
        places = range(start, start + ctypes.sizeof(self.values), 8)
        self.places = (ctypes.c_void_p * MOST_ARGUMENTS)(*places)
        self.address = ctypes.addressof(self.places)

    def fill(self, arguments: tuple[int, ...]) -> int:
        """Write the arguments; where the driver finds the addresses of them."""
        self.values[: len(arguments)] = list(arguments)
        return self.address


def require_contiguous(array: NDArray[Any]) -> None:
    """Refuse an array that is no single run of memory."""
    if not (isinstance(array, np.ndarray) and array.flags.c_contiguous):
        raise ValueError("expected an array that is contiguous in the order of C")


class Device(Context):
    """A GPU.

    Parameters
    ----------
    ordinal : int
        Its number among the devices that CUDA shows, from 0.

    Attributes
    ----------
    name : str
        NVIDIA's name of it.
    compute_capability : tuple of int
        Major and minor number.
    multiprocessors : int
    shared_bytes : int
        The most dynamic shared memory that a block can have.
    """

    def __init__(self, ordinal: int) -> None:
        super().__init__(ordinal)
        kinds = self.driver.CUdevice_attribute
        self.multiprocessors, self.shared_bytes = (
            int(self.call("cuDeviceGetAttribute", kind, self.number))
            for kind in (
                kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                kinds.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )
        )
        with self.turn:
            kind = self.driver.CUstream_flags.CU_STREAM_NON_BLOCKING
            self.stream = self.call("cuStreamCreate", int(kind))
        self.arguments = Arguments()
        self.kernels: dict[Entry, Kernel] = {}

    def free_bytes(self) -> int:
        """How much of the device's memory nobody uses."""
        with self.turn:
            code, free, _ = self.driver.cuMemGetInfo()
            if code:
                raise self.failure("cuMemGetInfo", code)
        return int(free)

    def allocate(self, nbytes: int) -> int:
        """The address of new memory, which lasts until `free`.

        Raises
        ------
        DeviceError
            If there is not so much left.
        """
        with self.turn:
            free = self.free_bytes()
            # Some systems would take from the host's memory what is missing, and be slow.
            code, address = self.out_of_memory, 0
            if nbytes <= free:
                code, address = self.driver.cuMemAlloc(max(nbytes, 1))
            if code == self.out_of_memory:
                raise DeviceError(
                    f"cuda:{self.ordinal} ({self.name}) has too little memory: {nbytes:,} bytes "
                    f"are wanted and {free:,} are free"
                )
            if code:
                raise self.failure("cuMemAlloc", code)
        return int(address)

    def free(self, address: int) -> None:
        """Give memory back; a garbage collector may call this too.

        Does nothing where the memory has gone already, with a context that failed or at the end
        of the process.
        """
        if address and not self.is_gone():
            with self.turn.at_once() as has_turn:
                if has_turn:  # and not amid another call, or while launches are recorded
                    self.call("cuMemFree", address)
                else:
                    self.discarded.append(("cuMemFree", address))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy an array, contiguous in the order of C, to the device."""
        require_contiguous(array)
        if array.nbytes:
            with self.turn:
                place = array.ctypes.data
                self.call("cuMemcpyHtoDAsync", address, place, array.nbytes, self.stream)
                self.call("cuStreamSynchronize", self.stream)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Fill an array, contiguous in the order of C, from the device."""
        require_contiguous(array)
        if not array.flags.writeable:
            raise ValueError("expected an array that can be written to")
        if array.nbytes:
            with self.turn:
                place = array.ctypes.data
                self.call("cuMemcpyDtoHAsync", place, address, array.nbytes, self.stream)
                self.call("cuStreamSynchronize", self.stream)

    def fill_zero(self, address: int, nbytes: int) -> None:
        """Set bytes to zero."""
        if nbytes:
            with self.turn:
                self.call("cuMemsetD8Async", address, 0, nbytes, self.stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device."""
        if nbytes:
            with self.turn:
                self.call("cuMemcpyDtoDAsync", target, source, nbytes, self.stream)

    def function(self, entry: Entry) -> Kernel:
        """A kernel on the device, loaded if it is not there yet."""
        self.require_usable()
        kernel = self.kernels.get(entry)
        if kernel is None:
            code = entry.code(self.compute_capability)  # may compile, while others have their turn
            with self.turn:
                kernel = self.kernels.get(entry)
                if kernel is None:
                    kernel = self.kernels[entry] = self.load(entry.symbol, code)
        return kernel

    def load(self, symbol: str, code: bytes) -> Kernel:
        """Load a kernel."""
        with self.turn:
            module = self.call("cuModuleLoadData", code)
            function = self.call("cuModuleGetFunction", module, symbol.encode())
            kind = self.driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
            static = int(self.call("cuFuncGetAttribute", kind, function))
        return Kernel(symbol, function, code, static, self.shared_bytes - static)

    def prepare(self, kernel: Kernel, shared_bytes: int) -> None:
        """Allow a kernel all of the dynamic shared memory that there is, once it needs much."""
        if shared_bytes > kernel.most_shared_bytes:
            raise DeviceError(
                f"cuda:{self.ordinal}: {kernel.symbol} needs {shared_bytes:,} bytes of shared "
                f"memory, and {self.name} has {kernel.most_shared_bytes:,} for it"
            )
        if shared_bytes + kernel.own_bytes <= SHARED_BYTES_OF_ALL or kernel.has_opted_in:
            return
        kinds = self.driver.CUfunction_attribute
        for kind, value in (
            (kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.most_shared_bytes),
            (kinds.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100),  # per cent
        ):
            self.call("cuFuncSetAttribute", kernel.function, kind, value)
        kernel.has_opted_in = True

    def launch(
        self,
        handle: Kernel,
        grid: int,
        block: int,
        shared_bytes: int,
        arguments: tuple[int, ...],
        cooperative: bool = False,
    ) -> None:
        """Put a kernel on the stream.

        Parameters
        ----------
        handle : Kernel
            As `function` returned it.
        grid, block : int
            How many blocks, and how many threads each of them has.
        shared_bytes : int
            Dynamic shared memory of a block.
        arguments : tuple of int
            Each becomes a parameter of 64 bits.
        cooperative : bool
            Whether all blocks must run at the same time, so that they can wait for one another.
        """
        with self.turn:
            self.prepare(handle, shared_bytes)
            places = self.arguments.fill(arguments)
            if cooperative:
                key = grid, block, shared_bytes
                configuration = handle.configurations.get(key)
                if configuration is None:
                    configuration = handle.configurations[key] = self.configuration(*key)
                self.call("cuLaunchKernelEx", configuration, handle.function, places, 0)
            else:
                sizes = grid, 1, 1, block, 1, 1, shared_bytes
                self.call("cuLaunchKernel", handle.function, *sizes, self.stream, places, 0)

    def configuration(self, grid: int, block: int, shared_bytes: int) -> Any:
        """What a cooperative launch is described by."""
        cooperative = self.driver.CUlaunchAttribute()
        cooperative.id = self.driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        cooperative.value.cooperative = 1
        configuration = self.driver.CUlaunchConfig()
        configuration.gridDimX, configuration.gridDimY, configuration.gridDimZ = grid, 1, 1
        configuration.blockDimX, configuration.blockDimY, configuration.blockDimZ = block, 1, 1
        configuration.sharedMemBytes = shared_bytes
        configuration.hStream = self.stream
        configuration.attrs = [cooperative]
        configuration.numAttrs = 1
        return configuration

    def most_blocks(self, handle: Kernel, block: int, shared_bytes: int) -> int:
        """How many blocks of so many threads the device can run at the same time."""
        with self.turn:
            self.prepare(handle, shared_bytes)
            on_each = self.call(
                "cuOccupancyMaxActiveBlocksPerMultiprocessor", handle.function, block, shared_bytes
            )
        return int(on_each) * self.multiprocessors

    def capture(self, work: Callable[[], Any]) -> Graph:
        """Record what a function puts on the stream, which is not run meanwhile.

        Parameters
        ----------
        work : callable
            Launches, fills and copies within the device; whatever waits for the device fails.
        """
        with self.turn:  # held throughout, so that no other thread's work gets into the graph
            # Relaxed: a kernel may be loaded meanwhile.
            mode = self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
            self.call("cuStreamBeginCapture", self.stream, mode)
            try:
                work()
            except BaseException:
                code, graph = self.driver.cuStreamEndCapture(self.stream)
                if not code:
                    self.driver.cuGraphDestroy(graph)
                raise
            graph = self.call("cuStreamEndCapture", self.stream)
            try:
                return Graph(self, self.call("cuGraphInstantiate", graph, 0))
            finally:
                self.driver.cuGraphDestroy(graph)

    def synchronize(self) -> None:
        """Wait until the device has done all that was put on its stream."""
        with self.turn:
            self.call("cuStreamSynchronize", self.stream)

    def event(self) -> Event:
        """A new event, reached when all that was put on the stream so far is done."""
        with self.turn:
            flags = self.driver.CUevent_flags.CU_EVENT_DEFAULT
            event = Event(self, self.call("cuEventCreate", int(flags)))
            self.call("cuEventRecord", event.handle, self.stream)
        return event

    def milliseconds(self, first: Event, last: Event) -> float:
        """The time between two events; waits for the last."""
        with self.turn:
            self.call("cuEventSynchronize", last.handle)
            return float(self.call("cuEventElapsedTime", first.handle, last.handle))


class Opened:
    """The devices that this process has opened."""

    def __init__(self) -> None:
        self.devices: dict[int, Device] = {}
        self.lock = threading.Lock()

    def after_fork_in_child(self) -> None:
        """The lock may have been held by a thread that this process does not have."""
        self.lock = threading.Lock()


OPENED = Opened()
tell_of_forks(OPENED)


def failure_of(ordinal: int) -> str:
    """Why a device that this process has opened cannot be used any more; else empty."""
    found = OPENED.devices.get(ordinal)
    return found.unusable if found is not None else ""


def device(ordinal: int) -> Device:
    """The device of a number: one object for the whole process.

    Raises
    ------
    DeviceError
        Where it cannot be used, with the reason.
    """
    if forked_after_use():
        raise DeviceError(FORKED)
    with OPENED.lock:
        found = OPENED.devices.get(ordinal)
        if found is None:
            found = OPENED.devices[ordinal] = Device(ordinal)
    found.require_usable()
    return found
