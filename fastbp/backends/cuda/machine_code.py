"""The compiled kernels of this process: from memory, from the cache on disk, or compiled now.

Where the cache has a kernel's code, numba-cuda-mlir is never imported, which would take longer than
a short training. The key of an entry of the cache holds all that the code depends on: every source
file of the package, the versions of what compiles it and its settings, the architecture, the entry.

The compiler does not always come to an end, and nothing can stop it then. So it runs in a thread of
its own, which a caller leaves behind when the time is up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.backends.compilation import (
    Notice,
    digest_of_sources,
    key_from,
    numba_settings,
    spelled,
)
from fastbp.backends.cuda.tuning import THREADS
from fastbp.backends.object_cache import read_entry, write_entry
from fastbp.errors import DeviceError
from fastbp.registry import is_own
from fastbp.turns import tell_of_forks

if TYPE_CHECKING:
    from fastbp.backends.cuda.entries import Entry

__all__ = ["code_of", "compiled_count"]

# What has a part in the code: the compiler, what it emits and links with, and libraries of theirs.
PACKAGES = (
    "numba-cuda-mlir",
    "nvidia-nvvm",
    "nvidia-nvjitlink",
    "nvidia-cuda-nvcc",
    "nvidia-cuda-runtime",
    "cuda-core",
    "cuda-bindings",
)
VARIABLES = ("CUDA_HOME", "CUDA_PATH", "LIBLLVM7")
SECONDS = 300.0  # that one kernel may take: about fifty times what the largest takes
IMAGE = b"\x7fELF"  # how code begins


def version_of(package: str) -> str:
    """The version of an installed package; nothing where it is not installed."""
    import importlib.metadata  # takes 20 ms

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def circumstances() -> str:
    """All that code depends on besides the entry, the architecture and the package's sources."""
    variables = [os.environ.get(name, "") for name in VARIABLES]
    with contextlib.suppress(OSError):  # a toolkit that is not a package says its version in a file
        variables += [(Path(home) / "version.json").read_text() for home in variables[:2] if home]
    versions = [version_of(package) for package in PACKAGES]
    return "\0".join([sys.version, np.__version__, *versions, *variables, *numba_settings()])


def laws_of(value: Any) -> Iterator[Callable[..., Any]]:
    """The laws in an entry, wherever they stand."""
    if dataclasses.is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        for member in value:
            yield from laws_of(member)
    elif callable(value):
        yield value


def compile_entry(entry: Entry, chip: str) -> tuple[bytes, str]:
    """The code of an entry, made now, and the name of the kernel in it."""
    from fastbp.backends.cuda.compiler import compile_cubin, number_type

    function = entry.build(*map(number_type, (entry.dtype, "int64", "float64")))
    parameters = len(inspect.signature(function).parameters)
    return compile_cubin(
        function,
        parameters,
        chip,
        THREADS,
        entry.blocks,
        entry.symbol,
        in_shared=entry.reaches_shared,
    )


def failure(entry: Entry, error: Exception) -> Exception:
    """What is raised where an entry cannot be compiled."""
    laws = sorted({spelled(law) for law in laws_of(entry) if not is_own(law)})
    if laws:
        which = "the law" if len(laws) == 1 else "one of the laws"
        return TypeError(f"{which} {', '.join(laws)} cannot be compiled for CUDA: {error}")
    return DeviceError(f"cuda: {entry} cannot be compiled: {type(error).__name__}: {error}")


class Compilation:
    """A compilation in a thread of its own."""

    def __init__(self, entry: Entry, chip: str) -> None:
        self.entry, self.chip = entry, chip
        self.result: tuple[bytes, str] | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run, name="fastbp compiler", daemon=True)

    def run(self) -> None:
        """Compile, in the thread."""
        try:
            self.result = compile_entry(self.entry, self.chip)
        except BaseException as error:
            self.error = error

    def is_done(self, seconds: float) -> bool:
        """Wait for the end, at most so long."""
        self.thread.join(seconds)
        return not self.thread.is_alive()


class Codes:
    """The code that this process has, by entry and architecture."""

    def __init__(self) -> None:
        self.codes: dict[tuple[Entry, str], tuple[bytes, str]] = {}
        self.compiled: list[Entry] = []  # those that the cache did not have
        self.lock = threading.RLock()
        self.notice = Notice("GPU")
        self.left: Compilation | None = None  # that was not waited for to the end

    def after_fork_in_child(self) -> None:
        """The lock may have been held by a thread that this process does not have."""
        self.lock = threading.RLock()
        self.left = None

    def code_of(self, entry: Entry, chip: str) -> tuple[bytes, str]:
        """The code of an entry and the kernel's name in it, compiled if need be."""
        found = self.codes.get((entry, chip))
        if found is None:
            with self.lock:
                found = self.codes.get((entry, chip))
                if found is None:
                    found = self.codes[entry, chip] = self.make(entry, chip)
        return found

    def make(self, entry: Entry, chip: str) -> tuple[bytes, str]:
        # A user's law may change without any change in fastbp, and a stale kernel would be silent.
        keeps = all(map(is_own, laws_of(entry)))
        generation = digest_of_sources()
        key = key_from("cuda", generation, circumstances(), chip, spelled(entry))
        found = unpacked(read_entry(generation, key)) if keeps else None
        if found is None:
            with self.notice.about(str(entry)):
                found = self.compile(entry, chip)
            self.compiled.append(entry)
            if keeps:
                code, symbol = found
                write_entry(generation, key, symbol.encode() + b"\0" + code)
        return found

    def compile(self, entry: Entry, chip: str) -> tuple[bytes, str]:
        """Compile, for a limited time."""
        if self.left is not None and not self.left.is_done(SECONDS):
            raise DeviceError(
                f"cuda: {entry} cannot be compiled: the compiler, which can do one kernel at a "
                f"time, is still busy with {self.left.entry}"
            )
        self.left = compilation = Compilation(entry, chip)  # also where an interrupt comes now
        compilation.thread.start()
        if not compilation.is_done(SECONDS):
            raise failure(entry, TimeoutError(f"no end after {SECONDS:g} seconds"))
        self.left = None
        error = compilation.error
        if compilation.result is not None:
            return compilation.result
        if isinstance(error, Exception) and not isinstance(error, DeviceError | MemoryError):
            raise failure(entry, error) from error
        assert error is not None
        raise error


def unpacked(content: bytes | None) -> tuple[bytes, str] | None:
    """Code and name from what the cache holds, or None if it holds none."""
    symbol, separator, code = (content or b"").partition(b"\0")
    if not (symbol and symbol.isascii() and separator and code.startswith(IMAGE)):
        return None
    return code, symbol.decode()


CODES = Codes()
tell_of_forks(CODES)


def compiled_count() -> int:
    """How many kernels this process has compiled or read from the cache."""
    return len(CODES.codes)


def code_of(entry: Entry, compute_capability: tuple[int, int]) -> tuple[bytes, str]:
    """The machine code of an entry, made at most once a process, and the kernel's name in it.

    Parameters
    ----------
    entry : Entry
    compute_capability : (int, int)
        Of the device that is to run it.

    Raises
    ------
    TypeError
        If a law of the user's cannot be compiled.
    DeviceError
        If anything else cannot.
    """
    major, minor = compute_capability
    return CODES.code_of(entry, f"sm_{major}{minor}")
