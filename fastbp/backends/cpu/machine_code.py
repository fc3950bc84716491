"""The compiled functions of this process: from memory, from the cache on disk, or compiled now.

A function is named by its factory, number type, law and numbers. Where the cache has its object
code, LLVM's linker loads it and Numba is never imported, which would take longer than a short
training; otherwise `compiler` makes the object code, and it is loaded in the same way.

The key of an entry holds all that the code depends on: every source file of the package, the
versions of Python, NumPy, Numba and llvmlite, the processor, and Numba's settings.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from fastbp.backends.compilation import (
    Notice,
    digest_of_sources,
    key_from,
    numba_settings,
    spelled,
)
from fastbp.backends.contract import KERNELS
from fastbp.backends.cpu.processor import processor_features, processor_name
from fastbp.backends.cpu.tuning import LANE_TILES, tile_family
from fastbp.backends.object_cache import read_entry, write_entry
from fastbp.plan import Step
from fastbp.registry import is_own

__all__ = ["Function", "Notice", "bind", "bind_kernel", "bind_product", "compiled_count"]

# A fork waits so long for another thread that is compiling; a function takes a second or two.
FORK_PATIENCE = 20.0


class Function(NamedTuple):
    """What a compiled function is made of.

    Attributes
    ----------
    name : str
        Of its factory.
    dtype : str
        ``float32`` or ``float64``, or nothing where it handles neither.
    law : callable or None
        A plain scalar function, or one that Numba has jitted.
    numbers : tuple of int
        Further arguments of the factory.
    """

    name: str
    dtype: str = ""
    law: Callable[..., Any] | None = None
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        law = self.law
        about = f" of {law.__qualname__.partition('.')[0]}" if law else ""
        return f"{self.name}{about}" + (f", {self.dtype}" if self.dtype else "")


def numba_version() -> str:
    """Numba's own statement of its version, read from its file: importing it takes too long."""
    found = importlib.util.find_spec("numba")
    if found is None or found.origin is None:
        return ""
    return Path(found.origin).with_name("_version.py").read_text(encoding="utf-8")


@functools.cache
def circumstances() -> str:
    """All that object code depends on besides the function and the sources of the package."""
    parts = [
        sys.implementation.cache_tag,
        sys.version,
        platform.system(),
        platform.machine(),
        np.__version__,
        llvmlite.__version__,
        numba_version(),
        processor_name(),
        processor_features(),
        *numba_settings(),
    ]
    return "\0".join(map(str, parts))


def key_of(function: Function) -> str:
    """The name of a function's entry in the cache, and of its symbol."""
    law = "" if function.law is None else spelled(function.law)
    parts = (digest_of_sources(), circumstances(), function.name, function.dtype, law)
    return key_from(*parts, *map(str, function.numbers))


class Loader:
    """LLVM's linker, which holds the code of this process."""

    def __init__(self) -> None:
        # Older versions of llvmlite ask for these two; newer ones do nothing here.
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        target = llvm.Target.from_triple(llvm.get_process_triple())
        machine = target.create_target_machine(jit=True)
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        # Never disposed of: threads may be inside the code when the interpreter ends.
        self.engine._owned = True

    def load(self, code: bytes, symbol: str) -> int:
        """Link object code into the process; return the address of a function in it."""
        self.engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self.engine.finalize_object()
        return int(self.engine.get_function_address(symbol))


def are_compilers_taken() -> bool:
    """Whether a thread that a forked child does not have holds Numba, or LLVM, or imports Numba."""
    numba = sys.modules.get("numba")
    if getattr(getattr(numba, "__spec__", None), "_initializing", False):
        return True
    compiler = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    for holder in (compiler, getattr(llvm.ffi.lib, "_lock", None)):
        lock = getattr(holder, "_lock", None)
        if lock is None:  # another version keeps it elsewhere
            continue
        if not lock.acquire(blocking=False):
            return True
        lock.release()
    return False


class Functions:
    """The functions that this process has, by what they are made of."""

    def __init__(self) -> None:
        self.addresses: dict[Function, int] = {}
        self.compiled: list[Function] = []  # those that the cache did not have
        self.lock = threading.RLock()
        self.gate = threading.Lock()  # held by a fork that waits for the lock: it is next
        self.loader: Loader | None = None
        self.notice = Notice("processor", ", and `fastbp warmup` fills it")
        self.is_cut_off = False

    # What a thread leaves half done in Numba and LLVM a forked child can neither end nor repair. So
    # a fork waits for our own compiling; of a user's it learns by the locks that stay taken.

    def before_fork(self) -> None:
        """Wait until no other thread compiles or loads a function."""
        with self.gate:
            self.lock.acquire(timeout=FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Let other threads go on."""
        with contextlib.suppress(RuntimeError):  # it has waited in vain
            self.lock.release()

    def after_fork_in_child(self) -> None:
        """See whether this process can load and compile."""
        try:
            self.lock.release()
        except RuntimeError:
            self.is_cut_off = True
        self.lock, self.gate = threading.RLock(), threading.Lock()
        self.is_cut_off = self.is_cut_off or are_compilers_taken()

    def bind(self, function: Function) -> int:
        """The address of a function, compiled if need be."""
        address = self.addresses.get(function)
        if address is None:
            with self.gate:
                pass
            with self.lock:
                address = self.addresses.get(function)
                if address is None:
                    address = self.addresses[function] = self.make(function)
        return address

    def make(self, function: Function) -> int:
        if self.is_cut_off:
            raise RuntimeError(
                f"{function} cannot be loaded: this process was forked while another thread was "
                "compiling with Numba, whose locks stay taken here; fork when nothing is being "
                "compiled, or start processes by 'spawn' or 'forkserver'"
            )
        key, generation = key_of(function), digest_of_sources()
        symbol = f"fastbp_{key}"
        # A user's law may change without any change in fastbp, and a stale kernel would be silent.
        keeps = function.law is None or is_own(function.law)
        if not keeps:
            symbol = f"{symbol}_{len(self.addresses)}"
        code = read_entry(generation, key) if keeps else None
        if code is None:
            with self.notice.about(str(function)):
                from fastbp.backends.cpu.compiler import compile_object

                code = compile_object(function, symbol)
            self.compiled.append(function)
            if keeps:
                write_entry(generation, key, code)
        if self.loader is None:
            self.loader = Loader()
        return self.loader.load(code, symbol)


FUNCTIONS = Functions()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=FUNCTIONS.before_fork,
        after_in_parent=FUNCTIONS.after_fork_in_parent,
        after_in_child=FUNCTIONS.after_fork_in_child,
    )


def compiled_count() -> int:
    """How many functions this process has compiled or read from the cache."""
    return len(FUNCTIONS.addresses)


def bind(name: str, dtype: str = "", law: Any = None, *numbers: int) -> int:
    """The address of the function that a factory makes; made at most once a process.

    Parameters
    ----------
    name, dtype, law, numbers
        As for `Function`.
    """
    return FUNCTIONS.bind(Function(name, dtype, law, numbers))


def bind_product(dtype: str, shape: tuple[int, ...]) -> int:
    """The address of the matrix product for a number type and a shape of register tiles."""
    return bind("multiply", dtype, None, *shape)


def bind_kernel(step: Step, dtype: str) -> int:
    """The address of a step's kernel, compiled if this process has not done so yet."""
    name, law = step.kernel, step.law
    if name == "dense_weight_gradient_in_lanes":
        return bind(name, dtype, None, *LANE_TILES[tile_family()])
    if not KERNELS[name].law:
        return bind(name, dtype)
    if name == "begin_step":
        counts = (len(law.settings), law.coefficient_count, len(law.carry))
        return bind(name, dtype, law.begin, *counts)
    if name in {"dense_step", "update_parameters"}:
        return bind(name, dtype, law.update, len(law.slots), law.coefficient_count)
    return bind(name, dtype, law.law, len(law.settings))
