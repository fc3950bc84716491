"""Which devices exist, and the engine for one: the only place that asks."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fastbp.errors import DeviceError
from fastbp.network import Network
from fastbp.plan import Geometry, Plan
from fastbp.registry import positive_integer

if TYPE_CHECKING:
    from fastbp.backends.cpu.prediction import FewRows

__all__ = [
    "AUTO_MULTIPLY_ADDS",
    "Device",
    "check_device",
    "check_precision",
    "compiled_kernels",
    "create_engine",
    "create_few_rows",
    "devices",
    "geometry",
    "host_array",
    "in_standard_arithmetic",
    "resolve_device",
    "resolve_threads",
]

# `device="auto"` takes a GPU for batches of so many multiply-adds: one core takes about a third of
# a millisecond for them, and the launches of a step take some tens of microseconds. To be replaced
# by a measurement.
AUTO_MULTIPLY_ADDS = 20_000_000

Call = TypeVar("Call", bound=Callable[..., Any])
SMALLEST_NORMAL = sys.float_info.min

PRECISIONS = ("float32", "tf32", "bf16")
TENSOR_CORES = (8, 0)  # the least compute capability that has those of tf32 and bf16


@dataclass(frozen=True)
class Device:
    """A device that fastbp knows of.

    Attributes
    ----------
    name : str
        What `device=` takes: ``"cpu"`` or ``"cuda:N"``; ``"cuda"`` where there is none.
    available : bool
    description : str
        What it is, or why it cannot be used.
    """

    name: str
    available: bool
    description: str

    def __str__(self) -> str:
        return f"{self.name}: {self.description}" + ("" if self.available else " (not available)")


def devices() -> list[Device]:
    """What this machine offers, and why not where it does not.

    Asking for GPUs initialises CUDA in this process, where it is installed; children that are
    forked afterwards cannot use it.

    Returns
    -------
    list of Device
    """
    import importlib.metadata  # takes 20 ms, which a training need not wait for

    from fastbp.backends.cpu.processor import available_threads
    from fastbp.backends.cuda.processor import cuda_devices

    threads = available_threads()
    numba = importlib.metadata.version("numba")
    description = (
        f"{platform.machine()}, {threads} thread{'s' if threads > 1 else ''}, Numba {numba}"
    )
    found = [Device("cpu", True, description)]
    for ordinal, is_usable, about in cuda_devices():
        reason = why_not_cuda(ordinal) if is_usable else about
        found.append(Device(f"cuda:{ordinal}", not reason, reason or about))
    return found if len(found) > 1 else [*found, Device("cuda", False, why_not_cuda())]


def why_not_cuda(ordinal: int | None = None) -> str:
    """Why CUDA, or a GPU by its number, cannot be used; empty if it can."""
    from fastbp.backends.cuda.processor import why_not

    reason = why_not(ordinal)
    if reason or ordinal is None:
        return reason
    from fastbp.backends.cuda.device import failure_of

    return failure_of(ordinal)


def check_precision(precision: str, dtype: str) -> None:
    """Refuse what is no precision, and fewer bits for the products of a model of float64.

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(precision, str):
        raise TypeError(f"precision: expected a string; got {type(precision).__name__}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected {', '.join(PRECISIONS)}; got {precision!r}")
    if precision != "float32" and dtype != "float32":
        raise ValueError(f"precision: {precision} is for a model of float32; this is of {dtype}")


def check_device(device: str, precision: str = "float32") -> None:
    """Refuse what is no device, and a GPU that is not to be had or lacks tensor cores.

    Raises
    ------
    TypeError, ValueError
        For what is no name of a device, and for the processor with a precision of tensor cores.
    DeviceError
        For a device that is not to be had, with the reason.
    """
    if not isinstance(device, str):
        raise TypeError(f"device: expected a string; got {type(device).__name__}")
    kind, colon, number = device.partition(":")
    is_number = number.isascii() and number.isdigit()
    if kind not in {"auto", "cpu", "cuda"} or (colon and (kind != "cuda" or not is_number)):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N; got {device!r}")
    needs_cuda = precision != "float32"
    if kind == "cpu" and needs_cuda:
        raise ValueError(f'precision: {precision} needs device="cuda", for its tensor cores')
    if kind == "cuda" or needs_cuda:
        reason = why_not_cuda(int(number or 0))
        if reason:
            wanted = f", and precision {precision} needs a GPU" if kind == "auto" else ""
            name = "cuda" if kind == "auto" else device
            raise DeviceError(f"device: {name} is not available{wanted}: {reason}")


def resolve_device(device: str, multiply_adds: int = 0, precision: str = "float32") -> str:
    """The device that a `device=` argument means: ``"cpu"`` or ``"cuda:N"``.

    ``"auto"`` means the first GPU for batches of at least `AUTO_MULTIPLY_ADDS` multiply-adds, if
    there is one that can be used, and the processor otherwise; with a precision of tensor cores,
    the first GPU.

    Parameters
    ----------
    device : str
    multiply_adds : int
        Of a batch: rows times parameters, for each pass over the layers.
    precision : str

    Raises
    ------
    TypeError, ValueError, DeviceError
        As `check_device`.
    """
    check_device(device, precision)
    if device == "auto" and precision == "float32":
        wins = multiply_adds >= AUTO_MULTIPLY_ADDS
        return "cuda:0" if wins and not why_not_cuda(0) else "cpu"
    return "cpu" if device == "cpu" else f"cuda:{int(device.partition(':')[2] or 0)}"


def cuda_device(name: str) -> Any:
    """The GPU that a resolved name means."""
    from fastbp.backends.cuda.device import device

    return device(int(name.partition(":")[2]))


def host_array(value: Any) -> Any:
    """The value; or, if it is an array on a GPU, a copy of it in host memory.

    Raises
    ------
    DeviceError
        For an array on a GPU that cannot be used, with the reason.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__cuda_array_interface__"):
        return value
    reason = why_not_cuda()
    if reason:
        raise DeviceError(f"an array on a GPU cannot be read: {reason}")
    from fastbp.backends.cuda.foreign import copy_to_host

    return copy_to_host(value, lambda ordinal: cuda_device(f"cuda:{ordinal}"))


def resolve_threads(threads: int | None) -> int:
    """How many threads a `threads=` argument means; None means all.

    Raises
    ------
    TypeError, ValueError
        For anything but an integer from 1 to the number that this process can have.
    """
    from fastbp.backends.cpu.processor import available_threads

    most = available_threads()
    if threads is None:
        return most
    number = positive_integer("threads", threads)
    if number > most:
        raise ValueError(
            f"threads: expected at most {most} (NUMBA_NUM_THREADS sets the limit); got {number}"
        )
    return number


def geometry(
    device: str,
    network: Network | None = None,
    dtype: str = "float32",
    precision: str = "float32",
) -> Geometry:
    """The shapes by which a device's plans of a network are laid out."""
    if device.startswith("cuda"):
        from fastbp.backends.cuda import tuning

        assert network is not None
        return tuning.geometry(network, dtype, precision)
    from fastbp.backends.cpu.tuning import GEOMETRY

    return GEOMETRY


def create_engine(
    plan: Plan,
    device: str = "cpu",
    threads: int | None = None,
    shared: Mapping[str, Any] | None = None,
    *,
    parallel: bool | None = None,
) -> Any:
    """The engine that runs a plan on a device.

    Parameters
    ----------
    plan : Plan
    device : str
        As `resolve_device` returns it.
    threads : int, optional
        None means all.
    shared : mapping of str to Engine
        Slabs that lie in another engine's buffers.
    parallel : bool, optional
        Overrides the engine's own rule.
    """
    if device.startswith("cuda"):
        from fastbp.backends.cuda.engine import Engine as CudaEngine

        gpu, precision = cuda_device(device), plan.geometry.precision
        if precision != "float32" and gpu.compute_capability < TENSOR_CORES:
            raise DeviceError(
                f"device: {device} has no tensor cores for precision {precision}: it is of compute "
                f"capability {'.'.join(map(str, gpu.compute_capability))}, and 8.0 is needed"
            )
        return CudaEngine(plan, gpu, shared=shared)
    from fastbp.backends.cpu.engine import Engine

    return Engine(plan, resolve_threads(threads), shared=shared, parallel=parallel)


def in_standard_arithmetic(call: Call) -> Call:
    """Let subnormal numbers count in what NumPy does during a call, in whatever mode its thread is.

    Some libraries set their thread to take such numbers for zeros (MXCSR of x86, FPCR of ARM), or
    are linked so that loading them does. Kernels have a mode of their own in any case.

    Parameters
    ----------
    call : callable
    """

    @functools.wraps(call)
    def called(*arguments: Any, **keywords: Any) -> Any:
        if SMALLEST_NORMAL * 0.5 != 0.0:  # also false where its operands alone are so taken
            return call(*arguments, **keywords)
        from fastbp.backends.cpu.workers import entry

        exchange_mode = entry("exchange_mode")
        before = exchange_mode(None, -1, 0)
        try:
            return call(*arguments, **keywords)
        finally:
            exchange_mode(None, before, 0)

    return cast(Call, called)


def compiled_kernels() -> int:
    """How many kernels and drivers this process has compiled or read from the cache."""
    from fastbp.backends.cpu.machine_code import compiled_count

    return compiled_count()


def create_few_rows(plan: Plan, parameters: NDArray[Any]) -> FewRows:
    """What predicts a few rows of a model at a time.

    Parameters
    ----------
    plan : Plan
        Whose purpose is to predict.
    parameters : array
        The model's flat parameter vector, which is read at every call.
    """
    from fastbp.backends.cpu.engine import Engine
    from fastbp.backends.cpu.prediction import FewRows

    return FewRows(Engine(plan, 1, parallel=False), parameters)
