"""Helper processes: one for everything that could break a CUDA context, or take too long."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.budget import Deadline
from benchmarks.processes import WorkerError, WorkerProcess, source_environment

__all__ = ["Failed", "Helper", "Outcome", "Skipped", "Task", "ask", "run_tasks"]

START_SECONDS = 60.0
# JAX would take three quarters of the memory of a GPU that the others use too.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Failed(RuntimeError):
    """A check found a wrong result; the helper is sound."""


class Skipped(RuntimeError):
    """There is nothing to measure here; the message says why."""


class Helper(WorkerProcess):
    """A process that runs functions of this package by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Ended in `close`; a file, because a pipe that nobody reads would stop the process.
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=source_environment() | ENVIRONMENT,
        )
        self.received = b""
        self.versions: dict[str, str] = {}
        self.ends = time.monotonic() + START_SECONDS

    def answer(self) -> dict[str, Any]:
        """The next answer, if it comes in time."""
        assert self.process.stdout is not None
        if b"\n" not in self.received:
            patience = max(0.0, self.ends - time.monotonic())
            if not select.select([self.process.stdout.fileno()], [], [], patience)[0]:
                self.process.kill()
                raise WorkerError(f"{self.name}: no answer in time")
        return super().answer()

    def call(
        self, patience: float, side: str, function: str, /, **arguments: Any
    ) -> dict[str, Any]:
        """The result of a function.

        Raises
        ------
        Failed, Skipped
            As the function says.
        WorkerError
            If the process broke, or did not answer within so many seconds.
        """
        self.ends = time.monotonic() + patience
        content = self.ask(function, side=side, arguments=arguments)
        for name, kind in (("failed", Failed), ("skipped", Skipped)):
            if name in content:
                raise kind(content[name])
        return content


@dataclass(frozen=True)
class Task:
    """A function for a helper.

    Attributes
    ----------
    name : str
    side : str
        One of `benchmarks.gpu.worker.SIDES`.
    function : str
    arguments : mapping
    seconds : float
        The most that it may take.
    """

    name: str
    side: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 300.0


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a result, a wrong result, a reason to skip it, or no time."""

    content: dict[str, Any] | None = None
    failure: str = ""
    reason: str = ""

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return self.content is not None


NO_TIME = Outcome(reason="no time was left")


def ask(helper: Any, task: Task, deadline: Deadline) -> tuple[Outcome, bool]:
    """Have a helper do a task: what became of it, and whether the helper can go on."""
    patience = min(task.seconds, deadline.left())
    try:
        content = helper.call(patience, task.side, task.function, **task.arguments)
    except Failed as error:
        return Outcome(failure=str(error)), True
    except Skipped as error:
        return Outcome(reason=str(error)), True
    except WorkerError as error:
        if deadline.left() <= 0:
            return NO_TIME, False
        return Outcome(failure=str(error)), False
    return Outcome(content), True


def run_tasks(
    tasks: Iterable[Task],
    processes: int,
    deadline: Deadline,
    say: Callable[[str], None],
    start: Callable[[str], Any] = Helper,
) -> dict[str, Outcome]:
    """Run tasks in several helpers at a time, in their order.

    Parameters
    ----------
    tasks : iterable of Task
    processes : int
    deadline : Deadline
        What has not ended then is ended, and has no result.
    say : callable
        Gets a line for each failure.
    start : callable
        Makes a helper of a name.

    Returns
    -------
    dict of str to Outcome
        Of every task, by its name.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    outcomes: dict[str, Outcome] = {}
    for task in tasks:
        outcomes[task.name] = NO_TIME
        waiting.put(task)

    def work() -> None:
        helper: Any = None
        try:
            while deadline.left() > 0:
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    return
                helper = start("helper") if helper is None else helper
                outcomes[task.name], is_sound = ask(helper, task, deadline)
                if outcomes[task.name].failure:
                    say(f"  FAILED {task.name}: {outcomes[task.name].failure}")
                if not is_sound:
                    helper.close()
                    helper = None
        finally:
            if helper is not None:
                helper.close()

    count = min(processes, len(outcomes))
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def main_loop(call: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The helper's side: answer requests, one JSON object a line, until the input ends."""
    # What a library prints must not mix with the answers: its standard output becomes the error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    answer({"versions": {"python": sys.version.split()[0]}})
    for line in sys.stdin:
        content = call(json.loads(line))
        answer(content)
        if "error" in content:  # a CUDA context may be broken: a new process is not
            break
