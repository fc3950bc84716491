"""The GPUs of this machine, and why they cannot be used where they cannot.

The driver is asked through the package `cuda.bindings`, which is imported when first needed. Asking
initialises CUDA in the process and opens no device. A process that is forked after that can never
use CUDA, so nothing here runs before somebody asks for a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

from fastbp.errors import DeviceError

__all__ = [
    "cuda_devices",
    "driver",
    "error_text",
    "initialised_driver",
    "reason_against",
    "why_not",
]

NEEDED_DRIVER = 13000  # as the driver counts: 1000 times the major number, 10 times the minor
NEEDED_CAPABILITY = (8, 0)
INSTALL = "pip install 'fastbp[cuda]'"
FORKED = (
    "CUDA cannot be used in this process, which was forked from one that had used it; start "
    "processes by 'spawn' instead"
)
# Result codes of the driver that have a plain meaning when it is initialised.
NOT_INITIALISED, STUB_LIBRARY, NO_DEVICE = 3, 34, 100


class Use:
    """Which process has initialised CUDA; a forked child finds another's number here."""

    process = 0


def driver() -> Any:
    """The bindings of the driver's functions.

    Raises
    ------
    DeviceError
        Where the package is not installed or cannot be imported.
    """
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cuda":
            raise DeviceError(f"cuda-bindings cannot be imported: {error}") from error
        raise DeviceError(f"cuda-bindings is not installed: {INSTALL}") from error
    except ImportError as error:
        raise DeviceError(f"cuda-bindings cannot be imported: {error}") from error


def error_text(bindings: Any, code: Any) -> str:
    """CUDA's name of a result code and what it says of it."""
    failed, name = bindings.cuGetErrorName(code)
    also_failed, text = bindings.cuGetErrorString(code)
    if failed or also_failed or not name:
        return f"CUDA error {int(code)}"
    return f"{name.decode()} ({(text or b'').decode()})"


def ask(bindings: Any, name: str, *arguments: Any) -> Any:
    """Call a function of the driver that needs no context; what it returns besides its code."""
    code, *values = getattr(bindings, name)(*arguments)
    if code:
        raise DeviceError(f"{name}: {error_text(bindings, code)}")
    return values[0] if values else None


def version_text(version: int) -> str:
    """A version of the driver as NVIDIA writes it."""
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def too_old(offered: str) -> str:
    """The reason against a driver that offers some version."""
    needed = version_text(NEEDED_DRIVER)
    return f"the NVIDIA driver is too old: it offers {offered}, and fastbp needs {needed} or later"


def forked_after_use() -> bool:
    """Whether CUDA was initialised here before this process was forked."""
    return Use.process not in {0, os.getpid()}


def initialised_driver() -> Any:
    """The bindings, once the driver is known to work.

    Raises
    ------
    DeviceError
        With the reason why it does not.
    """
    if forked_after_use():
        raise DeviceError(FORKED)
    bindings = driver()
    try:
        version = ask(bindings, "cuDriverGetVersion")
    except RuntimeError as error:
        if isinstance(error, DeviceError):
            raise
        # The bindings look for the library at the first call, and in it for this function.
        if "cuGetProcAddress" in str(error):
            raise DeviceError(too_old("a version before CUDA 12.0")) from error
        if type(error).__name__ != "DynamicLibNotFoundError" and "dlopen" not in str(error):
            raise DeviceError(f"the NVIDIA driver cannot be loaded: {error}") from error
        message = "there is no NVIDIA driver (its library libcuda cannot be loaded)"
        raise DeviceError(message) from error
    if version < NEEDED_DRIVER:
        raise DeviceError(too_old(version_text(version)))
    (code,) = bindings.cuInit(0)
    if code:
        raise DeviceError(why_not_initialised(bindings, code))
    Use.process = os.getpid()
    return bindings


def why_not_initialised(bindings: Any, code: Any) -> str:
    """What a result code of cuInit means for the user."""
    if int(code) == NO_DEVICE:
        return "there is no CUDA device" + hidden_devices()
    if int(code) == NOT_INITIALISED:
        return FORKED  # from a process in which some other package had used CUDA
    if int(code) == STUB_LIBRARY:
        return (
            "there is no NVIDIA driver: the libcuda found is the CUDA toolkit's stub, with which "
            "programs are linked and cannot run"
        )
    return f"the NVIDIA driver does not start: cuInit: {error_text(bindings, code)}"


def hidden_devices() -> str:
    """A word about the variable that hides devices, where it is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"


def name_of(bindings: Any, ordinal: int) -> str:
    """NVIDIA's name of a device."""
    name: bytes = ask(bindings, "cuDeviceGetName", 256, ask(bindings, "cuDeviceGet", ordinal))
    return name.partition(b"\0")[0].decode(errors="replace").strip()


def capability_of(bindings: Any, ordinal: int) -> tuple[int, int]:
    """A device's compute capability."""
    names = bindings.CUdevice_attribute
    number = ask(bindings, "cuDeviceGet", ordinal)
    major, minor = (
        int(ask(bindings, "cuDeviceGetAttribute", name, number))
        for name in (
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return major, minor


def reason_against(bindings: Any, ordinal: int) -> str:
    """Why a device cannot be used, or nothing; the driver is initialised."""
    count = ask(bindings, "cuDeviceGetCount")
    if count == 0:
        return "there is no CUDA device" + hidden_devices()
    if not 0 <= ordinal < count:
        numbers = "which is number 0" if count == 1 else f"numbered 0 to {count - 1}"
        devices = f"{count} CUDA device{'s' if count > 1 else ''}"
        return f"there is no device {ordinal}: this machine has {devices}, {numbers}"
    capability = capability_of(bindings, ordinal)
    if capability < NEEDED_CAPABILITY:
        major, minor = capability
        needed = ".".join(map(str, NEEDED_CAPABILITY))
        name = name_of(bindings, ordinal)
        return f"{name} has compute capability {major}.{minor}, and fastbp needs {needed} or later"
    return ""


def usable(bindings: Any) -> list[int]:
    """The ordinals of the devices that can be used."""
    count = ask(bindings, "cuDeviceGetCount")
    return [ordinal for ordinal in range(count) if not reason_against(bindings, ordinal)]


def has_compiler() -> bool:
    """Whether the compiler is installed."""
    # Not imported: that takes long, and a program whose kernels are in the cache never needs it.
    return importlib.util.find_spec("numba_cuda_mlir") is not None


def why_not(ordinal: int | None = None) -> str:
    """Why CUDA, or one device, cannot be used; an empty string where it can.

    Parameters
    ----------
    ordinal : int, optional
        The number of a device; None asks whether there is any that can be used.
    """
    if not has_compiler():
        return f"numba-cuda-mlir is not installed: {INSTALL}"
    try:
        bindings = initialised_driver()
        if ordinal is None:
            return "" if usable(bindings) else reason_against(bindings, 0)
        return reason_against(bindings, ordinal)
    except DeviceError as error:
        return str(error)


def describe(bindings: Any, ordinal: int) -> str:
    """A device in words."""
    major, minor = capability_of(bindings, ordinal)
    memory = ask(bindings, "cuDeviceTotalMem", ask(bindings, "cuDeviceGet", ordinal))
    version = ask(bindings, "cuDriverGetVersion")
    return (
        f"{name_of(bindings, ordinal)}, compute capability {major}.{minor}, "
        f"{memory / 2**30:.0f} GiB, driver {version_text(version)}"
    )


def cuda_devices() -> list[tuple[int, bool, str]]:
    """Every GPU there is, also those that cannot be used.

    Returns
    -------
    list of (int, bool, str)
        The ordinal, whether the device can be used, and what it is or why not. Empty where there
        is none, or nothing to ask with; `why_not` has the reason.
    """
    if not has_compiler():
        return []
    try:
        bindings = initialised_driver()
        count = ask(bindings, "cuDeviceGetCount")
    except DeviceError:
        return []
    reasons = [why_not(ordinal) for ordinal in range(count)]
    return [
        (ordinal, not reason, reason or describe(bindings, ordinal))
        for ordinal, reason in enumerate(reasons)
    ]
