"""Which devices exist, and the engine for one: the only place that asks."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fastbp.errors import DeviceError
from fastbp.plan import Geometry, Plan
from fastbp.registry import positive_integer

if TYPE_CHECKING:
    from fastbp.backends.cpu.engine import Engine
    from fastbp.backends.cpu.prediction import FewRows

__all__ = [
    "Device",
    "compiled_kernels",
    "create_engine",
    "create_few_rows",
    "devices",
    "geometry",
    "resolve_device",
    "resolve_threads",
]

NO_CUDA = "this version of fastbp has no CUDA backend"


@dataclass(frozen=True)
class Device:
    """A device that fastbp knows of.

    Attributes
    ----------
    name : str
        What `device=` takes: ``"cpu"`` or ``"cuda"``.
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

    Returns
    -------
    list of Device
    """
    import importlib.metadata  # takes 20 ms, which a training need not wait for

    from fastbp.backends.cpu.processor import available_threads

    threads = available_threads()
    numba = importlib.metadata.version("numba")
    description = (
        f"{platform.machine()}, {threads} thread{'s' if threads > 1 else ''}, Numba {numba}"
    )
    return [Device("cpu", True, description), Device("cuda", False, NO_CUDA)]


def resolve_device(device: str) -> str:
    """The device that a `device=` argument means.

    Raises
    ------
    ValueError
        For a name that is no device.
    DeviceError
        For a device that is not to be had, with the reason.
    """
    if not isinstance(device, str):
        raise TypeError(f"device: expected a string; got {type(device).__name__}")
    kind, _, number = device.partition(":")
    if kind not in {"auto", "cpu", "cuda"} or (number and (kind != "cuda" or not number.isdigit())):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N; got {device!r}")
    if kind == "cuda":
        raise DeviceError(f"device: cuda is not available: {NO_CUDA}")
    return "cpu"


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


def geometry(device: str) -> Geometry:
    """The shapes by which a device's plans are laid out."""
    from fastbp.backends.cpu.tuning import GEOMETRY

    return GEOMETRY


def create_engine(
    plan: Plan,
    device: str = "cpu",
    threads: int | None = None,
    shared: Mapping[str, Engine] | None = None,
    *,
    parallel: bool | None = None,
) -> Engine:
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
    from fastbp.backends.cpu.engine import Engine

    return Engine(plan, resolve_threads(threads), shared=shared, parallel=parallel)


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
