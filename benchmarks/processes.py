"""The parent's side of the workers: start one, ask it, end it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["MissingLibraryError", "WorkerError", "WorkerProcess", "available_cores"]

ROOT = Path(__file__).parents[1]
PATIENCE = 600.0  # seconds for one answer
TAIL = 6  # lines of a dead worker's standard error


class WorkerError(RuntimeError):
    """A worker failed; the message says how."""


class MissingLibraryError(WorkerError):
    """The library is not installed."""


def available_cores() -> list[int]:
    """The cores that this process may use, last first: the first serves most interrupts."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0), reverse=True)
    return list(range(os.cpu_count() or 1))


def source_environment() -> dict[str, str]:
    """An environment in which ``benchmarks``, and fastbp where it is not installed, are found."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


class WorkerProcess:
    """One worker; use it in a `with` block.

    Parameters
    ----------
    library : str
        One of `benchmarks.worker.SIDES`.
    workload : str
    threads : int
    dtype : str
    kernel_cache : str, optional
        The folder of compiled kernels, where it is not to be the ordinary one.
    """

    def __init__(
        self,
        library: str,
        workload: str,
        threads: int = 1,
        dtype: str = "float32",
        kernel_cache: str | None = None,
    ) -> None:
        self.name = f"{library} {dtype} {threads} thread{'s' if threads > 1 else ''}"
        description = {
            "library": library,
            "workload": workload,
            "threads": threads,
            "dtype": dtype,
            "cores": available_cores()[:threads],
        }
        environment = source_environment()
        if kernel_cache is not None:
            environment["FASTBP_CACHE_DIR"] = kernel_cache
        # Ended in `close`; a file, because a pipe that nobody reads would stop the worker.
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(description)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
        )
        self.received = b""
        self.versions: dict[str, str] = {}

    def wait_until_ready(self) -> None:
        """Until the library is imported and the data made."""
        if not self.versions:
            self.versions = self.answer()["versions"]

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.wait_until_ready()
        assert self.process.stdin is not None
        try:
            line = json.dumps({"command": command, **arguments}) + "\n"
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        ends = time.monotonic() + PATIENCE
        while b"\n" not in self.received:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, ends - time.monotonic()))
            if not ready:
                raise WorkerError(f"{self.name}: no answer within {PATIENCE:.0f} s")
            part = os.read(descriptor, 65536)
            if not part:
                raise WorkerError(f"{self.name}: the process ended; {self.last_words()}")
            self.received += part
        line, self.received = self.received.split(b"\n", 1)
        content: dict[str, Any] = json.loads(line)
        if "missing" in content:
            raise MissingLibraryError(f"{self.name}: {content['missing']} is not installed")
        if "error" in content:
            raise WorkerError(f"{self.name}: {content['error']}")
        return content

    def last_words(self) -> str:
        """The end of what it wrote to its standard error."""
        self.errors.seek(0)
        lines = self.errors.read().splitlines()[-TAIL:]
        return "its last words: " + " | ".join(lines) if lines else "it said nothing"

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()  # the worker's loop ends with its input
        try:
            self.process.wait(2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
