"""A stand-in for `cuda.bindings.driver`: two GPUs whose memory is the host's, in Python.

Each function returns a tuple that begins with a result code, as the true one does, and refuses
arguments of another kind than the true one takes. Launches are recorded, not run.
"""

import ctypes
import importlib.machinery
import sys
import threading
import types

import numpy as np
import pytest
from driver_names import (
    CUdevice_attribute,
    CUevent_flags,
    CUfunction_attribute,
    CUlaunchAttribute,
    CUlaunchAttributeID,
    CUlaunchConfig,
    CUpointer_attribute,
    CUresult,
    CUstream_flags,
    CUstreamCaptureMode,
    Handle,
    Launch,
    R,
)

from fastbp.backends.cuda import device, processor

OWN_SHARED_BYTES = 448  # of each function, beside what a launch asks for

# What each function takes: handles by their kind, enumerations, numbers, buffers.
TAKES = {
    "cuInit": [int],
    "cuDriverGetVersion": [],
    "cuDeviceGetCount": [],
    "cuDeviceGet": [int],
    "cuDeviceGetName": [int, int],
    "cuDeviceGetAttribute": [CUdevice_attribute, int],
    "cuDeviceTotalMem": [int],
    "cuDevicePrimaryCtxRetain": [int],
    "cuCtxGetCurrent": [],
    "cuCtxSetCurrent": ["context"],
    "cuCtxPushCurrent": ["context"],
    "cuCtxPopCurrent": [],
    "cuCtxSynchronize": [],
    "cuMemGetInfo": [],
    "cuMemAlloc": [int],
    "cuMemFree": [int],
    "cuStreamCreate": [int],
    "cuStreamSynchronize": [("stream", int)],
    "cuStreamBeginCapture": ["stream", CUstreamCaptureMode],
    "cuStreamEndCapture": ["stream"],
    "cuMemcpyHtoDAsync": [int, int, int, "stream"],
    "cuMemcpyDtoHAsync": [int, int, int, "stream"],
    "cuMemcpyDtoDAsync": [int, int, int, "stream"],
    "cuMemsetD8Async": [int, int, int, "stream"],
    "cuModuleLoadData": [bytes],
    "cuModuleGetFunction": ["module", bytes],
    "cuFuncGetAttribute": [CUfunction_attribute, "function"],
    "cuFuncSetAttribute": ["function", CUfunction_attribute, int],
    "cuLaunchKernel": ["function", *[int] * 7, "stream", int, int],
    "cuLaunchKernelEx": [CUlaunchConfig, "function", int, int],
    "cuOccupancyMaxActiveBlocksPerMultiprocessor": ["function", int, int],
    "cuGraphInstantiate": ["graph", int],
    "cuGraphDestroy": ["graph"],
    "cuGraphLaunch": ["executable", "stream"],
    "cuGraphExecDestroy": ["executable"],
    "cuEventCreate": [int],
    "cuEventRecord": ["event", "stream"],
    "cuEventSynchronize": ["event"],
    "cuEventElapsedTime": ["event", "event"],
    "cuEventDestroy": ["event"],
    "cuPointerGetAttribute": [CUpointer_attribute, int],
}  # fmt: skip


def check(function, expected, given):
    if isinstance(expected, tuple):
        expected = expected[isinstance(given, int)]
    if isinstance(expected, str):
        assert isinstance(given, Handle), f"{function}: {given!r} is no {expected}"
        assert given.kind == expected, f"{function}: a {given.kind} for a {expected}"
    else:
        assert type(given) is expected, f"{function}: {given!r} is no {expected.__name__}"


class FakeDriver:
    """Stands for the module.

    Attributes
    ----------
    fails : dict of str to CUresult or Exception
        What calls of a function end with from now on.
    calls : list of str
        The names of the functions called.
    launches : list of Launch
        What has been run, graphs included.
    """

    CUresult = CUresult
    CUdevice_attribute = CUdevice_attribute
    CUfunction_attribute = CUfunction_attribute
    CUpointer_attribute = CUpointer_attribute
    CUstream_flags = CUstream_flags
    CUevent_flags = CUevent_flags
    CUstreamCaptureMode = CUstreamCaptureMode
    CUlaunchAttributeID = CUlaunchAttributeID
    CUlaunchConfig = CUlaunchConfig
    CUlaunchAttribute = CUlaunchAttribute

    def __init__(self):
        self.fails, self.calls, self.launches = {}, [], []
        self.version, self.capabilities = 13000, [(9, 0), (9, 0)]
        self.free_memory = 1 << 20
        self.memory, self.alive, self.waited = {}, [], []
        self.recording = None
        self.made = 0
        self.thread = threading.local()

    def __getattr__(self, name):
        if name not in TAKES:
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            failure = self.fails.get(name)
            if isinstance(failure, Exception):
                raise failure
            assert len(arguments) == len(TAKES[name]), f"{name}: {len(arguments)} arguments"
            for expected, given in zip(TAKES[name], arguments, strict=True):
                check(name, expected, given)
            outcome = getattr(self, f"do_{name}")(*arguments) if failure is None else failure
            if isinstance(outcome, CUresult):
                nothing = 2 if name == "cuMemGetInfo" else name not in NO_VALUE
                return (outcome, *[None] * nothing)
            outcome = () if outcome is None else outcome
            return (R.CUDA_SUCCESS, *(outcome if isinstance(outcome, tuple) else (outcome,)))

        return call

    def cuGetErrorName(self, code):
        return R.CUDA_SUCCESS, code.name.encode()

    def cuGetErrorString(self, code):
        return R.CUDA_SUCCESS, code.name[11:].lower().replace("_", " ").encode()

    @property
    def stack(self):
        """The calling thread's contexts."""
        if not hasattr(self.thread, "stack"):
            self.thread.stack = []
        return self.thread.stack

    def make(self, kind, **about):
        self.made += 1
        handle = Handle(kind, 0x1000 + self.made, **about)
        if kind in {"graph", "executable", "event"}:
            self.alive.append(handle)
        return handle

    def do_cuInit(self, flags):
        assert flags == 0

    def do_cuDriverGetVersion(self):
        return self.version

    def do_cuDeviceGetCount(self):
        return len(self.capabilities)

    def do_cuDeviceGet(self, ordinal):
        return ordinal if 0 <= ordinal < len(self.capabilities) else R.CUDA_ERROR_INVALID_DEVICE

    def do_cuDeviceGetName(self, length, number):
        return f"Fake GPU {number}".encode().ljust(length, b"\0")

    def do_cuDeviceGetAttribute(self, kind, number):
        kinds = CUdevice_attribute
        return {
            kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: 132,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: self.capabilities[number][0],
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: self.capabilities[number][1],
            kinds.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: 232448,
        }[kind]

    def do_cuDeviceTotalMem(self, number):
        return 80 * 2**30

    def do_cuDevicePrimaryCtxRetain(self, number):
        return Handle("context", 0x100 + number)

    def do_cuCtxGetCurrent(self):
        return self.stack[-1] if self.stack else Handle("context", 0)

    def do_cuCtxSetCurrent(self, context):
        self.stack[-1:] = [context]

    def do_cuCtxPushCurrent(self, context):
        self.stack.append(context)

    def do_cuCtxPopCurrent(self):
        return self.stack.pop()

    def do_cuCtxSynchronize(self):
        self.waited.append("all")

    def do_cuMemGetInfo(self):
        return self.free_memory, 2 * self.free_memory

    def do_cuMemAlloc(self, nbytes):
        assert self.stack
        assert nbytes > 0
        block = np.full(nbytes, 0xAA, dtype=np.uint8)
        self.memory[block.ctypes.data] = block
        return block.ctypes.data

    def do_cuMemFree(self, address):
        if self.memory.pop(address, None) is None:
            return R.CUDA_ERROR_INVALID_VALUE
        return None

    def do_cuStreamCreate(self, flags):
        assert flags == CUstream_flags.CU_STREAM_NON_BLOCKING
        return self.make("stream")

    def do_cuStreamSynchronize(self, stream):
        if self.recording is not None:
            return R.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        if isinstance(stream, int):
            self.waited.append(stream)
        return None

    def do_cuStreamBeginCapture(self, stream, mode):
        assert self.recording is None
        self.recording = []

    def do_cuStreamEndCapture(self, stream):
        recorded, self.recording = self.recording, None
        return self.make("graph", launches=recorded)

    def move(self, target, source, nbytes, stream):
        assert self.stack
        ctypes.memmove(target, source, nbytes)

    do_cuMemcpyHtoDAsync = do_cuMemcpyDtoHAsync = do_cuMemcpyDtoDAsync = move

    def do_cuMemsetD8Async(self, target, value, nbytes, stream):
        ctypes.memset(target, value, nbytes)

    def do_cuModuleLoadData(self, code):
        return (
            self.make("module", count=int(code)) if code.isdigit() else R.CUDA_ERROR_INVALID_IMAGE
        )

    def do_cuModuleGetFunction(self, module, symbol):
        return self.make("function", symbol=symbol.decode(), count=module.about["count"], shared={})

    def do_cuFuncGetAttribute(self, kind, function):
        assert kind == CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
        return OWN_SHARED_BYTES

    def do_cuFuncSetAttribute(self, function, kind, value):
        function.about["shared"][kind] = value

    def run(self, function, grid, block, shared_bytes, places, cooperative):
        assert self.stack
        most = CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if shared_bytes > function.about["shared"].get(most, 48 * 1024 - OWN_SHARED_BYTES):
            return R.CUDA_ERROR_INVALID_VALUE
        count = function.about["count"]
        pointers = ctypes.cast(places, ctypes.POINTER(ctypes.POINTER(ctypes.c_int64)))
        values = tuple(pointers[i][0] for i in range(count))
        launch = Launch(function.about["symbol"], grid, block, shared_bytes, values, cooperative)
        (self.launches if self.recording is None else self.recording).append(launch)
        return None

    def do_cuLaunchKernel(self, function, x, y, z, u, v, w, shared_bytes, stream, places, extra):
        assert (y, z, v, w, extra) == (1, 1, 1, 1, 0)
        return self.run(function, x, u, shared_bytes, places, False)

    def do_cuLaunchKernelEx(self, config, function, places, extra):
        assert (config.gridDimY, config.gridDimZ, config.blockDimY, config.blockDimZ) == (
            1,
            1,
            1,
            1,
        )
        assert (config.numAttrs, len(config.attrs), config.hStream.kind) == (1, 1, "stream")
        (attribute,) = config.attrs
        assert attribute.id is CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        return self.run(
            function, config.gridDimX, config.blockDimX, config.sharedMemBytes, places,
            attribute.value.cooperative == 1,
        )  # fmt: skip

    def do_cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function, block, shared_bytes):
        return 2048 // block

    def do_cuGraphInstantiate(self, graph, flags):
        return self.make("executable", launches=list(graph.about["launches"]))

    def do_cuGraphLaunch(self, executable, stream):
        self.launches += executable.about["launches"]

    def destroy(self, handle):
        self.alive.remove(handle)

    do_cuGraphDestroy = do_cuGraphExecDestroy = do_cuEventDestroy = destroy

    def do_cuEventCreate(self, flags):
        return self.make("event")

    def do_cuEventRecord(self, event, stream):
        event.about["time"] = float(len(self.launches))

    def do_cuEventSynchronize(self, event):
        assert "time" in event.about

    def do_cuEventElapsedTime(self, first, last):
        return last.about["time"] - first.about["time"]

    def do_cuPointerGetAttribute(self, kind, address):
        for start, block in self.memory.items():
            if start <= address < start + block.nbytes:
                return 0
        return 1 if address == 0xD1 else R.CUDA_ERROR_INVALID_VALUE


NO_VALUE = {
    name
    for name in TAKES
    if name.startswith(("cuMemcpy", "cuMemset", "cuLaunch", "cuFuncSet"))
    or name.endswith(("Destroy", "Synchronize", "BeginCapture", "Record", "SetCurrent"))
    or name in {"cuInit", "cuMemFree", "cuGraphLaunch", "cuCtxPushCurrent"}
}


@pytest.fixture(name="driver")
def driver_in_place(monkeypatch):
    """A driver in the place of the bindings, in a process that has not used CUDA."""
    fake = FakeDriver()
    compiler = types.ModuleType("numba_cuda_mlir")
    compiler.__spec__ = importlib.machinery.ModuleSpec("numba_cuda_mlir", None)
    monkeypatch.setitem(sys.modules, "numba_cuda_mlir", compiler)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)
    monkeypatch.setattr(processor.Use, "process", 0)
    monkeypatch.setattr(device, "OPENED", device.Opened())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake
