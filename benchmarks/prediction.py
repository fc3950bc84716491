"""Prediction: rows a second in large batches, and what one row costs.

The overhead of a call with one row is defined as ``t(1) - (t(32) - t(1)) / 31``, where t(n) is the
time of ``model.predict`` on n rows of float32: all of the call but the arithmetic of its row. A row
among 32 costs at most what a row alone costs, so the definition can only make the overhead larger
than it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from benchmarks.machine import Company
from benchmarks.measure import Settings
from benchmarks.processes import MissingLibraryError, WorkerError, WorkerProcess

__all__ = ["BATCH_WORKLOADS", "LATENCY_WORKLOAD", "measure_prediction"]

BATCH_WORKLOADS = ("surrogate", "actor")
LATENCY_WORKLOAD = "tiny"
LATENCY_ROWS = (1, 32)
LIBRARIES = ("fastbp", "torch", "jax")


def take_turns(
    workload: str,
    settings: Settings,
    requests: list[tuple[str, dict[str, Any]]],
    errors: dict[str, str],
    company: list[float | None],
) -> dict[str, list[list[dict[str, Any]]]]:
    """For each library, the answers of each round to some commands; one thread each."""
    libraries = [name for name in LIBRARIES if name == "fastbp" or name in settings.peers]
    answers: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in libraries}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(WorkerProcess(name, workload)) for name in libraries}
        meter = Company(worker.process.pid for worker in workers.values())
        for _ in range(settings.rounds):
            for name, worker in list(workers.items()):
                try:
                    found = [worker.ask(command, **arguments) for command, arguments in requests]
                    answers[name].append(found)
                except WorkerError as error:
                    del workers[name]
                    del answers[name]
                    if not isinstance(error, MissingLibraryError):
                        errors[f"{name}, prediction of {workload}"] = str(error)
        company.append(meter.cores())
    return answers


def measure_prediction(
    settings: Settings, workloads: list[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Rates of batch prediction, microseconds of single calls, and who failed."""
    errors: dict[str, str] = {}
    company: list[float | None] = []
    batch = {}
    for workload in BATCH_WORKLOADS:
        if workload in workloads:
            say(f"prediction in batches: {workload}")
            requests = [("predict", {"seconds": settings.seconds / 2})]
            found = take_turns(workload, settings, requests, errors, company)
            batch[workload] = {
                name: [answer["rate"] for (answer,) in rounds] for name, rounds in found.items()
            }
    latency = {}
    if LATENCY_WORKLOAD in workloads:
        say(f"prediction of one row: {LATENCY_WORKLOAD}")
        requests = [
            ("latency", {"rows": rows, "seconds": settings.seconds / 10}) for rows in LATENCY_ROWS
        ]
        found = take_turns(LATENCY_WORKLOAD, settings, requests, errors, company)
        latency = {
            name: {
                str(rows): [answers[i]["microseconds"] for answers in rounds]
                for i, rows in enumerate(LATENCY_ROWS)
            }
            for name, rounds in found.items()
        }
    return {"batch": batch, "latency": latency, "errors": errors, "cores_of_others": company}
