"""The second and third part: answers to questions about the GPU, and its ceilings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.helpers import Helper, Task, run_tasks

__all__ = ["CEILINGS", "QUESTIONS", "measure_facts"]

SECONDS = 60.0
QUESTIONS = ("libraries", "launches", "array_launches", "replay", "barriers")
CEILINGS = ("copy", "multiply_adds")


def measure_facts(
    names: tuple[str, ...],
    deadline: Deadline,
    say: Callable[[str], None],
    start: Callable[[str], Any] = Helper,
) -> dict[str, Any]:
    """Some measurements of `benchmarks.gpu.questions`, one after the other."""
    tasks = [Task(name, "questions", name, seconds=SECONDS) for name in names]
    outcomes = run_tasks(tasks, 1, deadline, say, start)
    return {
        "found": {name: outcome.content for name, outcome in outcomes.items()},
        "failures": [f"{name}: {o.failure}" for name, o in outcomes.items() if o.failure],
        "not_run": [f"{name}: {o.reason}" for name, o in outcomes.items() if o.reason],
    }
