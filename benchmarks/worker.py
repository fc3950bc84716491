"""A worker process: one library, one workload, one number of threads.

``python -m benchmarks.worker JSON`` reads commands from its standard input, one JSON object a line,
and answers each with a line on its standard output. The process is pinned to as many cores as the
contestant has threads before the library is imported, because some of them size their thread pools
then. Only plain numbers and strings go over the pipes.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

__all__ = ["SIDES"]

SIDES = {
    "fastbp": "benchmarks.fastbp_side",
    "torch": "benchmarks.peers_torch",
    "jax": "benchmarks.peers_jax",
    "sklearn": "benchmarks.peers_sklearn",
    "peak": "benchmarks.peak",
}


def pin(cores: list[int], library: str) -> None:
    """Stay on some cores, and tell JAX, which has no call for it, to use one thread on one."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if library == "jax":
        os.environ["JAX_PLATFORMS"] = "cpu"
        if len(cores) == 1:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


class Worker:
    """Answers commands; every method that takes one is a command."""

    def __init__(self, library: str, workload: str, threads: int, dtype: str) -> None:
        side = importlib.import_module(SIDES[library])
        self.versions = side.versions()
        if library == "peak":
            self.contestant = side.Contestant(threads, dtype)
        else:
            from benchmarks.workloads import WORKLOADS

            self.work = WORKLOADS[workload]
            self.contestant = side.Contestant(self.work, threads, dtype)
        self.epoch_seconds = 0.0

    def compile(self) -> dict[str, Any]:
        """The first call."""
        started = time.perf_counter()
        self.contestant.compile()
        return {"seconds": time.perf_counter() - started}

    def check(self, rows: int, epochs: int) -> dict[str, Any]:
        """Losses before and after some epochs in order."""
        before, after = self.contestant.loss_after(rows, epochs)
        return {"before": before, "after": after}

    def warm(self) -> dict[str, Any]:
        """One epoch, for the caches, and another where the first was short, for its time."""
        self.run(0.0)
        if self.epoch_seconds < 0.3:
            self.run(0.0)
        return {"epoch_seconds": self.epoch_seconds}

    def run(self, seconds: float) -> dict[str, Any]:
        """Train for about some seconds, in whole epochs where that is possible, in one go."""
        epochs = max(1, round(seconds / self.epoch_seconds)) if self.epoch_seconds else 1
        started = time.perf_counter()
        rows = self.contestant.train(epochs, started + LONGEST_TURN * max(seconds, 1.0))
        elapsed = time.perf_counter() - started
        rate = rows / elapsed
        self.epoch_seconds = self.work.rows / rate
        return {"rate": rate, "rows": rows, "seconds": elapsed}

    def peak(self, seconds: float) -> dict[str, Any]:
        """Gigaflops of the multiply-add kernel."""
        return {"gigaflops": self.contestant.measure(seconds)}

    def predict(self, seconds: float) -> dict[str, Any]:
        """Rows a second of predicting all rows in one call, many times."""
        self.contestant.predict()
        calls, started = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - started < seconds:
            self.contestant.predict()
            calls += 1
        return {"rate": self.work.rows * calls / (time.perf_counter() - started)}

    def latency(self, rows: int, seconds: float) -> dict[str, Any]:
        """Microseconds of one call that predicts a few rows: the median over groups of calls."""
        call = self.contestant.predict_first(rows)
        group, times = 100, []
        for _ in range(group):
            call()
        ends = time.perf_counter() + seconds
        while not times or time.perf_counter() < ends:
            started = time.perf_counter()
            for _ in range(group):
                call()
            times.append((time.perf_counter() - started) / group * 1e6)
        return {"microseconds": sorted(times)[len(times) // 2]}


# A turn that takes this many times its time is cut short where the library allows it. Threads that
# wait for one another can be a hundred times slower when other programs keep the cores.
LONGEST_TURN = 3.0
COMMANDS = ("compile", "check", "warm", "run", "peak", "predict", "latency")


def main() -> None:
    """Serve until the input ends."""
    # What a library prints must not mix with the answers: its standard output becomes the error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    description = json.loads(sys.argv[1])
    pin(description.pop("cores"), description["library"])
    try:
        worker = Worker(**description)
        answer({"versions": worker.versions})
        for line in sys.stdin:
            command = json.loads(line)
            name = command.pop("command")
            if name not in COMMANDS:
                raise ValueError(f"command: expected one of {COMMANDS}; got {name!r}")
            answer(getattr(worker, name)(**command))
    except ModuleNotFoundError as error:
        answer({"missing": error.name})
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
