"""What the compilers of all backends share: the parts of the keys of compiled code, and a notice.

Numba is not imported here: where the cache has the code, it is not needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Notice", "digest_of_sources", "key_from", "numba_settings", "spelled"]

logger = logging.getLogger("fastbp")

# Names of settings of Numba that have no part in what a kernel is compiled to.
INDIFFERENT = {
    "NUMBA_CACHE_DIR",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMBA_THREADING_LAYER_PRIORITY",
}


@functools.cache
def digest_of_sources() -> str:
    """A digest over the sources of the package; reading them takes a few milliseconds."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def numba_settings() -> list[str]:
    """The settings of Numba that may have a part in what it compiles."""
    settings = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith("NUMBA_") and name not in INDIFFERENT
    )
    file = Path(".numba_config.yaml")  # where Numba looks for settings as well
    with contextlib.suppress(OSError):
        settings.append(file.read_text(encoding="utf-8", errors="replace"))
    return settings


def spelled(value: Any) -> str:
    """A value in words that are the same in every process: functions by where they stand."""
    if dataclasses.is_dataclass(value):
        members = (getattr(value, field.name) for field in dataclasses.fields(value))
        return f"{type(value).__name__}({','.join(map(spelled, members))})"
    if isinstance(value, tuple):
        return f"({','.join(map(spelled, value))})"
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    return repr(value)


def key_from(*parts: str) -> str:
    """The key of an entry of the cache, from all that its code depends on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


class Notice:
    """One line on the log when compiling takes this process more than a second in all.

    Parameters
    ----------
    machine : str
        What the code is for.
    advice : str
        What else there is to say.
    """

    PATIENCE = 1.0

    def __init__(self, machine: str, advice: str = "") -> None:
        self.machine, self.advice = machine, advice
        self.spent = 0.0
        self.said = False

    @contextlib.contextmanager
    def about(self, name: str) -> Iterator[None]:
        """Count the time of one function; speak while it is compiled, not after."""
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
            self.spent += time.perf_counter() - started

    def say(self, name: str) -> None:
        """Name what is being compiled."""
        if not self.said:
            self.said = True
            logger.warning(
                "fastbp: compiling kernels for this %s (now %s); later processes read them from "
                "the cache%s",
                self.machine,
                name,
                self.advice,
            )
