"""A device's context: calls of the driver, errors, and whose turn it is.

The context is the primary one, which CuPy, PyTorch and JAX use too, so that their arrays can be
read where they lie. After an error that leaves it unusable, as when a kernel touches memory that is
not its own, CUDA refuses everything until the process ends; from then on each call says so.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from fastbp.backends.cuda.processor import (
    FORKED,
    capability_of,
    error_text,
    initialised_driver,
    name_of,
    reason_against,
)
from fastbp.errors import DeviceError

__all__ = ["Context"]

# Errors of a call that was refused and changed nothing. Any other is taken to come from a kernel
# that failed, and the context with it.
HARMLESS = """
INVALID_VALUE OUT_OF_MEMORY NO_DEVICE INVALID_DEVICE INVALID_IMAGE NO_BINARY_FOR_GPU INVALID_PTX
UNSUPPORTED_PTX_VERSION JIT_COMPILER_NOT_FOUND JIT_COMPILATION_DISABLED INVALID_SOURCE
SHARED_OBJECT_SYMBOL_NOT_FOUND SHARED_OBJECT_INIT_FAILED INVALID_HANDLE NOT_FOUND NOT_READY
LAUNCH_OUT_OF_RESOURCES COOPERATIVE_LAUNCH_TOO_LARGE NOT_PERMITTED NOT_SUPPORTED
STREAM_CAPTURE_UNSUPPORTED STREAM_CAPTURE_INVALIDATED STREAM_CAPTURE_MERGE
STREAM_CAPTURE_UNMATCHED STREAM_CAPTURE_UNJOINED STREAM_CAPTURE_ISOLATION STREAM_CAPTURE_IMPLICIT
CAPTURED_EVENT STREAM_CAPTURE_WRONG_THREAD
""".split()


class Turn:
    """Has the device for the calling thread alone, its context current there.

    A thread that works with another device finds that one current again afterwards.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.lock = threading.RLock()
        self.pushed: list[bool] = []  # of each turn within the present one

    def __enter__(self) -> None:
        context = self.context
        context.require_usable()
        self.lock.acquire()
        try:
            self.pushed.append(self.make_current())
        except BaseException:
            self.lock.release()
            raise
        if context.discarded and len(self.pushed) == 1:
            context.destroy_discarded()

    def __exit__(self, *error: object) -> None:
        try:
            if self.pushed.pop():
                self.context.driver.cuCtxPopCurrent()
        finally:
            self.lock.release()

    def make_current(self) -> bool:
        """Make the context current in this thread; whether another has to come back after it."""
        context = self.context
        before = int(context.call("cuCtxGetCurrent"))
        if before == context.address:
            return False
        if not before and context.ordinal == 0:
            # It stays current, since CUDA itself would choose it where there is none.
            context.call("cuCtxSetCurrent", context.handle)
            return False
        context.call("cuCtxPushCurrent", context.handle)
        return True

    @contextlib.contextmanager
    def at_once(self) -> Iterator[bool]:
        """The turn if it can be had without waiting, and is not within another; whether that is so.

        What a garbage collector does must not wait: the thread in which it runs may hold a lock
        that the thread whose turn it is waits for. Nor may it come amid what that thread is doing.
        """
        if not self.lock.acquire(blocking=False):
            yield False
            return
        try:
            with self:
                yield len(self.pushed) == 1
        finally:
            self.lock.release()


class Context:
    """What a device is to the driver.

    Parameters
    ----------
    ordinal : int
        The device's number among those that CUDA shows, from 0.

    Attributes
    ----------
    name : str
        NVIDIA's name of the device.
    compute_capability : tuple of int
        Major and minor number.
    unusable : str
        Why each call fails from now on; empty until a kernel has failed.
    turn : context manager
        Around all calls that need the context; may be nested.
    """

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.unusable = ""
        self.process = os.getpid()
        self.driver = initialised_driver()
        reason = reason_against(self.driver, ordinal)
        if reason:
            raise DeviceError(f"cuda:{ordinal}: {reason}")
        self.name = name_of(self.driver, ordinal)
        self.compute_capability = capability_of(self.driver, ordinal)
        results = self.driver.CUresult
        self.harmless = {int(getattr(results, f"CUDA_ERROR_{name}")) for name in HARMLESS}
        self.out_of_memory = results.CUDA_ERROR_OUT_OF_MEMORY
        self.number = self.call("cuDeviceGet", ordinal)
        self.handle = self.call("cuDevicePrimaryCtxRetain", self.number)
        self.address = int(self.handle)
        self.discarded: list[tuple[str, Any]] = []  # a function of the driver, and its argument
        self.turn = Turn(self)

    def __repr__(self) -> str:
        return f"<cuda:{self.ordinal}, {self.name}>"

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the driver; what it returns besides its result code."""
        code, *values = getattr(self.driver, function)(*arguments)
        if code:
            raise self.failure(function, code)
        return values[0] if values else None

    def failure(self, function: str, code: Any) -> DeviceError:
        """The error that a result code means; remembers whether the device can still be used."""
        text = f"{function}: {error_text(self.driver, code)}"
        if int(code) not in self.harmless and not self.unusable:
            self.unusable = (
                f"cuda:{self.ordinal} cannot be used any more: an earlier kernel failed ({text}); "
                "restart the process to use this GPU again"
            )
        return DeviceError(f"cuda:{self.ordinal}: {text}")

    def require_usable(self) -> None:
        """Refuse where every call must fail."""
        if os.getpid() != self.process:
            raise DeviceError(FORKED)
        if self.unusable:
            raise DeviceError(self.unusable)

    def is_gone(self) -> bool:
        """Whether there is nothing to give back: it went with the context or the process."""
        return bool(self.unusable) or os.getpid() != self.process or sys.is_finalizing()

    def discard(self, function: str, handle: Any) -> None:
        """Have a function of the driver destroy something, now or at the next turn."""
        if not self.is_gone():
            self.discarded.append((function, handle))
            with contextlib.suppress(DeviceError), self.turn.at_once():
                pass  # a turn begins with destroying what was discarded

    def destroy_discarded(self) -> None:
        """Destroy what was discarded; what is wrong with the device the next call will say."""
        while self.discarded:
            with contextlib.suppress(DeviceError):
                self.call(*self.discarded.pop())

    def wait_for(self, stream: int) -> None:
        """Wait for another package's stream, given by its handle."""
        with self.turn:
            self.call("cuStreamSynchronize", stream)

    def wait_for_all(self) -> None:
        """Wait for all that anybody in this process does on the device."""
        with self.turn:
            self.call("cuCtxSynchronize")

    def ordinal_of(self, address: int) -> int | None:
        """On which device an address lies; None where CUDA does not know it."""
        kind = self.driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        with self.turn:
            code, ordinal = self.driver.cuPointerGetAttribute(kind, address)
            if code == self.driver.CUresult.CUDA_ERROR_INVALID_VALUE:
                return None
            if code:
                raise self.failure("cuPointerGetAttribute", code)
        return int(ordinal) if int(ordinal) >= 0 else None
