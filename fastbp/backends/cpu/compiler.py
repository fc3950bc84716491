"""Compiling kernels one by one, lazily, behind C addresses, with a cache on disk.

A kernel is made by a factory that closes over its law, its number type and `SOURCES`, a digest of
the whole package. Numba's cache stamps only the file that holds a function; with the digest in the
closure, an edit anywhere in fastbp misses the cache, as it must.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from numba import cfunc, njit, types
from numba.extending import is_jitted, register_jitable

import fastbp.backends.cpu.elementary  # noqa: F401  (lets Numba compile laws)
from fastbp.registry import is_own

__all__ = [
    "SOURCES",
    "compile_driver",
    "compile_function",
    "compile_kernel",
    "compile_product",
    "compiled_count",
    "number_type",
]

logger = logging.getLogger("fastbp")

KERNEL_SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64)
DRIVER_SIGNATURE = (
    *(types.int64[:, ::1],) * 4,
    *(types.int64[::1],) * 2,
    *(types.float64[::1],) * 2,
    types.float64,
    types.int64[::1],
)
COMPILED: dict[Hashable, Any] = {}


def digest_sources() -> str:
    """A digest over the sources of the package."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = digest_sources()


def number_type(dtype: str) -> Any:
    """Numba's type for ``float32`` or ``float64``."""
    return {"float32": types.float32, "float64": types.float64}[dtype]


@functools.cache
def compilable(law: Callable[..., Any]) -> Any:
    """A law in a form that kernels may close over; jitted functions are taken as they are."""
    return law if is_jitted(law) else register_jitable(law)


def compiled_count() -> int:
    """How many kernels and drivers this process has compiled or read from the cache."""
    return len(COMPILED)


class Notice:
    """One line on the log when compiling takes this process more than a second in all."""

    PATIENCE = 1.0
    FROM_CACHE = 0.05  # reading a kernel takes milliseconds, compiling one hundreds of them

    def __init__(self) -> None:
        self.spent = 0.0
        self.said = False

    @contextlib.contextmanager
    def about(self, name: str) -> Iterator[None]:
        """Count the time of one kernel; speak while it is compiled, not after."""
        if self.said:
            yield
            return
        timer = threading.Timer(max(self.PATIENCE - self.spent, 0.0), self.say, (name,))
        timer.daemon = True
        started = time.perf_counter()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            seconds = time.perf_counter() - started
            self.spent += seconds if seconds > self.FROM_CACHE else 0.0

    def say(self, name: str) -> None:
        """Name what is being compiled."""
        if not self.said:
            self.said = True
            logger.warning(
                "fastbp: compiling kernels for this processor (now %s); later processes read them "
                "from the cache, and `fastbp warmup` fills it",
                name,
            )


NOTICE = Notice()


def build(
    decorator: Callable[..., Any], function: Callable[..., Any], cache: bool, about: str = ""
) -> Any:
    """Apply a Numba decorator, with the disk cache where the disk allows it.

    Whatever goes wrong with the cache (no folder, a full disk, a truncated or damaged file, which
    raises whatever unpickling raises) is a miss; a fault of the kernel itself is raised by the
    second attempt.
    """
    with NOTICE.about(f"{function.__name__}{about}"):
        if cache:
            try:
                return decorator(cache=True)(function)
            except Exception as error:
                logger.debug("compiling %s without the cache: %r", function.__name__, error)
        return decorator(cache=False)(function)


def build_c(signature: Any, function: Callable[..., Any], cache: bool, about: str = "") -> Any:
    """Compile a function behind a C address."""

    def decorate(cache: bool) -> Any:
        return cfunc(signature, cache=cache, error_model="numpy")

    return build(decorate, function, cache, about)


def compile_kernel(factory: Callable[..., Any], dtype: str, law: Any = None, *counts: int) -> int:
    """The address of the kernel that a factory makes; compiled at most once a process.

    Parameters
    ----------
    factory : callable
        ``factory(real, sources)`` or, with a law, ``factory(real, sources, law, *counts)``.
    dtype : str
        ``float32`` or ``float64``.
    law : callable, optional
        A plain scalar function, or one that Numba has jitted.
    *counts : int
        Lengths of the law's tuples.
    """
    key = (factory, dtype, law, counts)
    if key not in COMPILED:
        extra = () if law is None else (compilable(law), *counts)
        function = factory(number_type(dtype), SOURCES, *extra)

        # A user's law may change without any change in fastbp, and a stale kernel would be silent.
        about = f" of {law.__qualname__.partition('.')[0]}, {dtype}" if law else f", {dtype}"
        own = law is None or is_own(law)
        COMPILED[key] = build_c(KERNEL_SIGNATURE, function, own, about)
    return int(COMPILED[key].address)


def compile_product(factory: Callable[..., Any], dtype: str, shape: tuple[int, ...]) -> int:
    """The address of the matrix product for a number type and a shape of register tiles."""
    key = (factory, dtype, shape)
    if key not in COMPILED:
        real, integer = number_type(dtype), types.int64
        numbers = types.CPointer(real)
        factors = (numbers, *(integer,) * 5, numbers, integer)
        signature = types.void(numbers, numbers, integer, *factors)
        COMPILED[key] = build_c(signature, factory(real, SOURCES, *shape), cache=True)
    return int(COMPILED[key].address)


def compile_function(factory: Callable[..., Any], dtype: str, signature: Any) -> Callable[..., Any]:
    """A function that Python calls with arrays; it keeps the GIL."""
    key = (factory, dtype)
    if key not in COMPILED:

        def decorate(cache: bool) -> Any:
            return njit(signature, cache=cache, error_model="numpy")

        COMPILED[key] = build(decorate, factory(number_type(dtype), SOURCES), cache=True)
    function: Callable[..., Any] = COMPILED[key]
    return function


def compile_driver(factory: Callable[..., Any], parallel: bool) -> Callable[..., Any]:
    """The driver, serial or parallel, compiled now and not in the first epoch; it frees the GIL."""
    key = (factory, parallel)
    if key not in COMPILED:

        def decorate(cache: bool) -> Any:
            return njit(
                DRIVER_SIGNATURE, cache=cache, parallel=parallel, nogil=True, error_model="numpy"
            )

        COMPILED[key] = build(decorate, factory(parallel, SOURCES), cache=True)
    driver: Callable[..., Any] = COMPILED[key]
    return driver
