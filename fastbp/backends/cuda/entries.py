"""What is launched: which phases, of which kernels, with which laws and tiles.

An entry is a value. Building it puts the factories' functions together into one kernel, for the
compiler's number types or, in a simulation, for NumPy's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastbp.backends.cuda.functions import plain
from fastbp.backends.cuda.tuning import tile_shape

__all__ = ["Entry", "Kernel", "Phase"]


@dataclass(frozen=True)
class Kernel:
    """One kernel of the contract, specialised.

    Attributes
    ----------
    name : str
    law : callable, optional
        That it compiles in.
    tile : (rows, columns)
        Of a block; the columns are those of a panel.
    near : (bool, bool)
        Whether rows are read from and left in shared memory.
    numbers : tuple of (str, int)
        What else its factory takes, by name.
    precision : str
        Of the factors of its product: ``"float32"`` stands for the numbers as they are.
    """

    name: str
    law: Callable[..., Any] | None = None
    tile: tuple[int, int] = (0, 0)
    near: tuple[bool, bool] = (False, False)
    numbers: tuple[tuple[str, int], ...] = ()
    precision: str = "float32"


@dataclass(frozen=True)
class Phase:
    """One phase of the driver with its kernels; `rows` of a tile in the propagation pass."""

    name: str
    kernels: tuple[Kernel, ...] = ()
    rows: int = 0


@dataclass(frozen=True)
class Entry:
    """A kernel that is launched.

    Attributes
    ----------
    dtype : str
    phases : tuple of Phase
        One; more in a kernel that runs whole batches by itself.
    resident : bool
        Whether it runs whole batches.
    single : bool
        Whether its grid is one block.
    held : str
        What of the engine's memory each block holds in shared memory: ``"nothing"``, a copy of the
        ``"parameters"``, or, where there is one block, ``"everything"``.
    blocks : int
        How many blocks a multiprocessor is to hold, which bounds the registers.
    """

    dtype: str
    phases: tuple[Phase, ...]
    resident: bool = False
    single: bool = False
    held: str = "nothing"
    blocks: int = 1

    def build(self, real: Any, integer: Any, wide: Any) -> Callable[[int, int, int], None]:
        """The Python function, for number types of a compiler or of NumPy."""
        from fastbp.backends.cuda import driver

        kinds = (real, integer, wide)
        phases = [build_phase(phase, self.dtype, kinds) for phase in self.phases]
        function: Callable[[int, int, int], None]
        if self.resident:
            factory = getattr(driver, f"resident_with_{self.held}")
            function = factory(kinds, phases, self.single)
        else:
            (phase,) = phases
            function = driver.launched(kinds, phase)
        return function

    @property
    def reaches_shared(self) -> bool:
        """Whether pointers made of addresses lead to global or to shared memory."""
        return self.held != "nothing"

    @property
    def symbol(self) -> str:
        """The kernel's name in the code, which profilers show."""
        name = "batches" if self.resident else self.phases[0].name
        return f"fastbp_{name}_{self.dtype}"

    def code(self, compute_capability: tuple[int, int]) -> bytes:
        """The machine code for devices of a compute capability."""
        from fastbp.backends.cuda.machine_code import code_of

        code, symbol = code_of(self, compute_capability)
        assert symbol == self.symbol
        return code

    def __str__(self) -> str:
        names = [phase.name for phase in self.phases]
        laws = {k.law.__qualname__ for phase in self.phases for k in phase.kernels if k.law}
        return f"{'+'.join(names)}, {self.dtype}" + "".join(f", {law}" for law in sorted(laws))


def build_phase(phase: Phase, dtype: str, kinds: tuple[Any, Any, Any]) -> Callable[..., None]:
    """The function of one phase."""
    from fastbp.backends.cuda import driver

    kernels = [build_kernel(kernel, dtype, kinds) for kernel in phase.kernels]
    rows = (phase.rows,) if phase.rows else ()
    factory: Callable[..., Callable[..., None]] = driver.PHASES[phase.name]
    return factory(kinds, kernels, *rows)


def build_kernel(kernel: Kernel, dtype: str, kinds: tuple[Any, Any, Any]) -> Callable[..., None]:
    """The function of one kernel: its factory called with what its parameters name."""
    from fastbp.backends.cuda import (
        constraint,
        dense,
        gradient,
        loss,
        masks,
        normalization,
        residual,
        rows,
        update,
    )

    rooms = (constraint, dense, gradient, loss, masks, normalization, residual, rows, update)
    factory: Callable[..., Callable[..., None]] = next(
        getattr(module, kernel.name) for module in rooms if kernel.name in module.__all__
    )
    values = dict(zip(("real", "integer", "wide"), kinds, strict=True))
    values |= {"law": plain(kernel.law), "near": kernel.near, "precision": kernel.precision}
    values |= dict(kernel.numbers)
    if kernel.tile != (0, 0):
        values["shape"] = tile_shape(dtype, *kernel.tile)
    return factory(**{name: values[name] for name in inspect.signature(factory).parameters})
