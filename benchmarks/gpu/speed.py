"""The fourth part: fastbp beside PyTorch and JAX, row by row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.helpers import Helper, Outcome, Task, ask, run_tasks
from benchmarks.gpu.rows import ROWS

__all__ = ["CONTESTANTS", "PASSES", "measure_speed"]

PREPARING_SHARE = 0.4  # of the part's time: compiling, and the processor's losses
TURN_SECONDS = 60.0  # the most that one turn may take, all set-up included
TIMED_SHARE = 0.4  # of a turn's share of the time; the rest is for setting up
SHORTEST, LONGEST = 0.15, 1.0  # seconds that are timed
LEAST_SECONDS = 3.0  # that a turn is begun with


@dataclass(frozen=True)
class Contestant:
    """One of those that are compared: the side that runs it, and what else its function takes."""

    name: str
    side: str
    arguments: tuple[tuple[str, Any], ...] = ()


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("fastbp", "fastbp"),
        Contestant("torch graph", "torch", (("kind", "graph"),)),
        Contestant("jax", "jax"),
        Contestant("torch eager", "torch", (("kind", "eager"),)),
        Contestant("torch compiled", "torch", (("kind", "compiled"),)),
    )
}
# Those of a pass have their turns in all rows before the next pass: where the time ends early,
# every row has its strongest peers.
PASSES = (("fastbp", "torch graph"), ("jax",), ("torch eager",), ("torch compiled",))


def schedule(rows: Sequence[str]) -> list[tuple[str, str]]:
    """(row, contestant) of all turns, in their order."""
    return [(row, name) for names in PASSES for row in rows for name in names]


def prepare(
    rows: Sequence[str],
    processes: int,
    deadline: Deadline,
    say: Callable[[str], None],
    start: Callable[[str], Any],
) -> dict[str, Outcome]:
    """Compile fastbp's kernels, and work out the processor's losses."""
    tasks = [
        Task(f"{function} {row}", "fastbp", function, {"row": row})
        for row in rows
        for function in ("reference", "compile")
    ]
    return run_tasks(tasks, processes, deadline, say, start)


class Turns:
    """Gives everybody a turn, one at a time, each library in a process of its own."""

    def __init__(self, start: Callable[[str], Any], say: Callable[[str], None]) -> None:
        self.start, self.say = start, say
        self.helpers: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}

    def take(
        self, row: str, name: str, expected: Sequence[float], seconds: float, deadline: Deadline
    ) -> Outcome:
        """One contestant's turn in one row."""
        contestant = CONTESTANTS[name]
        side = contestant.side
        arguments = {"row": row, "expected": list(expected), "seconds": seconds}
        task = Task(
            f"{name}, {row}",
            side,
            "compete",
            arguments | dict(contestant.arguments),
            seconds=TURN_SECONDS,
        )
        if side not in self.helpers:
            self.helpers[side] = self.start(side)
        outcome, is_sound = ask(self.helpers[side], task, deadline)
        if not is_sound:
            self.helpers.pop(side).close()
        return outcome

    def close(self) -> None:
        """End all processes."""
        for helper in self.helpers.values():
            helper.close()
        self.helpers.clear()


def measure_speed(
    rows: Sequence[str],
    processes: int,
    deadline: Deadline,
    say: Callable[[str], None],
    start: Callable[[str], Any] = Helper,
) -> dict[str, Any]:
    """Check and time every contestant in every row, as far as the time goes.

    Returns
    -------
    dict
        ``rows``: for each its shape and, by contestant, what `contest.contend` returns.
    """
    say(f"  compiling kernels for {len(rows)} rows, and the processor's losses")
    ready = prepare(rows, processes, deadline.within(PREPARING_SHARE), say, start)
    records = {row: describe(row, ready) for row in rows}
    failures = [f"{name}: {found.failure}" for name, found in ready.items() if found.failure]
    not_run = [f"{name}: {found.reason}" for name, found in ready.items() if found.reason]
    turns = schedule(rows)
    with contextlib.closing(Turns(start, say)) as table:
        for i, (row, name) in enumerate(turns):
            losses = records[row]["losses"]
            if losses is None or deadline.left() < LEAST_SECONDS:
                reason = "no time was left" if losses else "the processor's losses are missing"
                not_run.append(f"{name}, {row}: {reason}")
                continue
            share = TIMED_SHARE * deadline.left() / (len(turns) - i)
            seconds = min(max(share, SHORTEST), LONGEST)
            outcome = table.take(row, name, losses, seconds, deadline)
            if outcome.content is not None:
                records[row]["contestants"][name] = outcome.content
                rate = records[row]["rows"] / outcome.content["epoch_seconds"]
                say(f"  {row}, {name}: {rate:,.0f} samples/s")
            elif outcome.failure:
                failures.append(f"{name}, {row}: {outcome.failure}")
                say(f"  FAILED {failures[-1]}")
            else:
                not_run.append(f"{name}, {row}: {outcome.reason}")
                say(f"  {not_run[-1]}")
    return {"rows": records, "failures": failures, "not_run": not_run}


def describe(row: str, ready: dict[str, Outcome]) -> dict[str, Any]:
    """A row's shape, what losses everybody must have, and nobody's times yet."""
    found = ROWS[row]
    return {
        "description": found.work.describe(),
        "precision": found.precision,
        "batch_size": found.work.batch_size,
        "rows": found.work.rows,
        "steps_per_epoch": found.work.steps_per_epoch,
        "step_flops": found.step_flops,
        "step_bytes": found.step_bytes,
        "goal": found.goal,
        "check": {"steps": found.check_steps, "bound": found.loss_bound},
        "losses": (ready[f"reference {row}"].content or {}).get("losses"),
        "contestants": {},
    }
