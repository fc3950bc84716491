"""The enumerations and records of `cuda.bindings.driver` that fastbp uses, for its stand-in."""

from enum import IntEnum
from typing import NamedTuple

CODES = """
INVALID_VALUE=1 OUT_OF_MEMORY=2 NOT_INITIALIZED=3 STUB_LIBRARY=34 NO_DEVICE=100 INVALID_DEVICE=101
INVALID_IMAGE=200 INVALID_CONTEXT=201 NO_BINARY_FOR_GPU=209 INVALID_PTX=218
JIT_COMPILER_NOT_FOUND=221 UNSUPPORTED_PTX_VERSION=222 JIT_COMPILATION_DISABLED=223
INVALID_SOURCE=300 SHARED_OBJECT_SYMBOL_NOT_FOUND=302 SHARED_OBJECT_INIT_FAILED=303
INVALID_HANDLE=400 NOT_FOUND=500 NOT_READY=600 ILLEGAL_ADDRESS=700 LAUNCH_OUT_OF_RESOURCES=701
LAUNCH_FAILED=719 COOPERATIVE_LAUNCH_TOO_LARGE=720 NOT_PERMITTED=800 NOT_SUPPORTED=801
SYSTEM_DRIVER_MISMATCH=803 STREAM_CAPTURE_UNSUPPORTED=900 STREAM_CAPTURE_INVALIDATED=901
STREAM_CAPTURE_MERGE=902 STREAM_CAPTURE_UNMATCHED=903 STREAM_CAPTURE_UNJOINED=904
STREAM_CAPTURE_ISOLATION=905 STREAM_CAPTURE_IMPLICIT=906 CAPTURED_EVENT=907
STREAM_CAPTURE_WRONG_THREAD=908
"""
CUresult = IntEnum(
    "CUresult",
    {"CUDA_SUCCESS": 0}
    | {
        f"CUDA_ERROR_{name}": int(code)
        for name, code in (pair.split("=") for pair in CODES.split())
    },
)
R = CUresult


class CUdevice_attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97


class CUfunction_attribute(IntEnum):
    CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
    CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT = 9


class CUpointer_attribute(IntEnum):
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9


class CUstream_flags(IntEnum):
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(IntEnum):
    CU_EVENT_DEFAULT = 0


class CUstreamCaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class CUlaunchAttributeID(IntEnum):
    CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2


class Record:
    """A structure of the driver, with any fields."""


class Handle:
    """What the driver calls a context, a stream, a function and so on."""

    def __init__(self, kind, number, **about):
        self.kind, self.number, self.about = kind, number, about

    def __int__(self):
        return self.number


class Launch(NamedTuple):
    symbol: str
    grid: int
    block: int
    shared_bytes: int
    arguments: tuple
    cooperative: bool


class CUlaunchConfig(Record):
    pass


class CUlaunchAttribute(Record):
    def __init__(self):
        self.value = Record()
