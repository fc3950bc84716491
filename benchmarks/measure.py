"""Training speed: every contestant in a process of its own, taking turns, round after round."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import Company
from benchmarks.processes import MissingLibraryError, WorkerError, WorkerProcess
from benchmarks.verify import (
    VerificationError,
    check_gradients,
    check_losses,
    steps_in_order,
)
from benchmarks.workloads import Workload

__all__ = ["PEERS", "Measurement", "Settings", "key_of", "measure_workload"]

PEERS = ("torch", "jax", "sklearn")
CHECKED = ("fastbp", "torch", "jax")  # start from given parameters


@dataclass(frozen=True)
class Settings:
    """What to measure, and for how long.

    Attributes
    ----------
    rounds : int
    seconds : float
        Of one contestant in one round.
    threads : tuple of int
    peers : tuple of str
    empty_cache : bool
        Whether fastbp's first call on one thread starts without kernels on disk, so that its
        compile time is all of it.
    """

    rounds: int
    seconds: float
    threads: tuple[int, ...]
    peers: tuple[str, ...]
    empty_cache: bool = True


def key_of(library: str, threads: int, dtype: str = "float32") -> str:
    """The name of a contestant in the results."""
    return f"{library}-{threads}" if dtype == "float32" else f"{library}-{dtype}-{threads}"


class Measurement:
    """One workload: its workers, their results, and who failed.

    Parameters
    ----------
    work : Workload
    settings : Settings
    say : callable
        Gets lines of progress.
    """

    def __init__(self, work: Workload, settings: Settings, say: Callable[[str], None]) -> None:
        self.work, self.settings, self.say = work, settings, say
        self.workers: dict[str, WorkerProcess] = {}
        self.compile_seconds: dict[str, float] = {}
        self.rates: dict[str, list[float]] = {}
        self.peaks: dict[str, list[float]] = {}
        self.errors: dict[str, str] = {}
        self.missing: set[str] = set()
        self.versions: dict[str, str] = {}
        self.verified: dict[str, Any] = {}
        self.company: float | None = None

    def contestants(self) -> list[tuple[str, int, str]]:
        """(library, threads, dtype), fastbp on one thread first."""
        threads = self.settings.threads
        found = [("fastbp", count, "float32") for count in threads]
        found += [(peer, count, "float32") for peer in self.settings.peers for count in threads]
        found += [("peak", count, "float32") for count in threads]
        if 1 in threads:
            found += [("fastbp", 1, "float64"), ("peak", 1, "float64")]
        return found

    def run(self) -> dict[str, Any]:
        """Check, then measure; raises VerificationError where a check fails.

        Compiling comes before the check of the losses, or a first call would not be the first.
        """
        self.verified["gradient_errors"] = check_gradients(self.work)
        with contextlib.ExitStack() as stack:
            self.start(stack)
            self.for_each("compile", self.compile)
            self.check()
            self.for_each("warm up", self.warm)
            company = Company(worker.process.pid for worker in self.workers.values())
            for number in range(self.settings.rounds):
                self.round(number)
            self.company = company.cores()
        return self.record()

    def start(self, stack: contextlib.ExitStack) -> None:
        """All processes at once: they import side by side and wait then."""
        empty = stack.enter_context(tempfile.TemporaryDirectory())
        for library, threads, dtype in self.contestants():
            key = key_of(library, threads, dtype)
            cold = self.settings.empty_cache and key == "fastbp-1"
            worker = WorkerProcess(library, self.work.name, threads, dtype, empty if cold else None)
            self.workers[key] = stack.enter_context(worker)
        self.for_each("start", lambda key, worker: worker.wait_until_ready())
        for worker in self.workers.values():
            self.versions.update(worker.versions)

    def for_each(self, doing: str, action: Callable[[str, WorkerProcess], None]) -> None:
        """An action for every worker in turn; one that fails is out, and the report says so."""
        for key, worker in list(self.workers.items()):
            try:
                action(key, worker)
            except MissingLibraryError:
                self.missing.add(key.split("-")[0])
                del self.workers[key]
            except WorkerError as error:
                self.fail(key, doing, error)

    def fail(self, key: str, doing: str, error: WorkerError) -> None:
        self.errors[key] = f"{doing}: {error}"
        self.say(f"  FAILED {self.errors[key]}")
        del self.workers[key]

    def compile(self, key: str, worker: WorkerProcess) -> None:
        self.compile_seconds[key] = worker.ask("compile")["seconds"]

    def check(self) -> None:
        """Equal losses after equal steps, of all that start from given parameters."""
        rows, epochs = steps_in_order(self.work)
        first = [key_of(name, self.settings.threads[0]) for name in CHECKED]
        losses: dict[str, dict[str, float]] = {}

        def ask(key: str, worker: WorkerProcess) -> None:
            if key in first:
                losses[key.split("-", maxsplit=1)[0]] = worker.ask(
                    "check", rows=rows, epochs=epochs
                )

        self.for_each("check", ask)
        if "fastbp" not in losses:
            raise VerificationError(f"{self.work.name}: fastbp took no part in the check")
        check_losses(self.work, losses)
        self.verified["losses"] = losses

    def warm(self, key: str, worker: WorkerProcess) -> None:
        if not key.startswith("peak"):
            worker.ask("warm")

    def round(self, number: int) -> None:
        """Everyone's turn, each round starting with another one."""
        keys = list(self.workers)
        first = number * 3 % len(keys)
        turns = keys[first:] + keys[:first]

        def turn(key: str, worker: WorkerProcess) -> None:
            if key.startswith("peak"):
                found = worker.ask("peak", seconds=self.settings.seconds)["gigaflops"]
                self.peaks.setdefault(key.removeprefix("peak-"), []).append(found)
            else:
                found = worker.ask("run", seconds=self.settings.seconds)["rate"]
                self.rates.setdefault(key, []).append(found)

        self.workers = {key: self.workers[key] for key in turns}
        self.for_each(f"round {number + 1}", turn)
        shown = ", ".join(
            f"{key} {rates[-1]:,.0f}" for key, rates in sorted(self.rates.items()) if key in turns
        )
        self.say(f"  round {number + 1} of {self.settings.rounds}, samples/s: {shown}")

    def record(self) -> dict[str, Any]:
        """The results as plain data; a contestant that failed has no rates in them."""
        work = self.work
        return {
            "description": work.describe(),
            "batch_size": work.batch_size,
            "rows": work.rows,
            "step_flops": work.step_flops,
            "verified": self.verified,
            "rates": {key: found for key, found in self.rates.items() if key not in self.errors},
            "peak_gigaflops": {
                key: found for key, found in self.peaks.items() if f"peak-{key}" not in self.errors
            },
            "compile_seconds": self.compile_seconds,
            "cores_of_others": self.company,
            "errors": self.errors,
            "missing": sorted(self.missing),
        }


def measure_workload(
    work: Workload, settings: Settings, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The record of a workload, and the versions of what was measured."""
    measurement = Measurement(work, settings, say)
    return measurement.run(), measurement.versions
