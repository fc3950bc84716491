"""Ctrl-C at random moments of trainings: what the model is then, and how long it takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.reliability.subjects import Outcome, Request, find_tests

__all__ = ["LIMIT", "check"]

TRIALS = 30  # of each training
LIMIT = 0.25  # seconds, for 99 in 100
PERCENTILES = (50, 99, 100)

METHOD = f"""\
Trainings of seven kinds (`tests/interrupting.py`: batches from microseconds to milliseconds, one
batch an epoch, serial and parallel, validated, standardised, with callbacks) get SIGINT at
{TRIALS} random moments each, one training after the other. The same steps are then replayed one
by one, and the digest of the interrupted model's parameters is looked for among theirs: it has to
be that of the step that was reached, a whole number of batches. The exception has to be
KeyboardInterrupt, the model's scaling that which goes with the parameters, its predictions
finite, and another training of it has to work. The time is that from sending the signal to the
except clause; its 99th percentile may be {1000 * LIMIT:.0f} ms for each kind."""


def faults_of(trial: Any) -> list[str]:
    """What an interrupt should not have done."""
    found = []
    if trial.ended != "KeyboardInterrupt":
        found.append(f"it ended with {trial.ended}")
    if trial.step is None:
        found.append("the parameters are those of no step")
    elif trial.step != trial.reached:
        found.append(f"the parameters are those of step {trial.step}, of {trial.reached}")
    if not trial.agrees:
        found.append("the model is not usable as it is")
    return found


def check(request: Request) -> Outcome:
    """30 interrupts of each training, or as many as the scale says."""
    find_tests()
    import interrupting

    trials = request.count(TRIALS)
    table: dict[str, dict[str, float]] = {}
    every: list[float] = []
    broken: list[str] = []
    for name in interrupting.CASES:
        found = interrupting.interrupt(name, trials, request.seed)
        for number, trial in enumerate(found):
            broken += [f"{name}, interrupt {number}: {fault}" for fault in faults_of(trial)]
        times = [trial.seconds for trial in found]
        every += times
        table[name] = spread(times)
        steps = [trial.reached for trial in found]
        table[name] |= {"fewest steps": min(steps), "most steps": max(steps)}
        if not table[name]["99%"] <= 1000 * LIMIT:
            broken.append(f"{name}: 99% within {table[name]['99%']:.0f} ms, not {1000 * LIMIT:.0f}")
        request.say(f"  {name}: 99% within {table[name]['99%']:.1f} ms")
    of_all = spread(every)
    rows = [
        f"| {name} | {row['50%']:.1f} | {row['99%']:.1f} | {row['100%']:.1f} "
        f"| {row['fewest steps']:,} to {row['most steps']:,} |"
        for name, row in table.items()
    ]
    return Outcome(
        promise="Ctrl-C ends a training with KeyboardInterrupt on a batch boundary, with a whole "
        f"model, within {1000 * LIMIT:.0f} ms in 99 of 100 cases.",
        cases=len(every),
        unit="interrupts",
        result=f"{len(broken)} wrong; median {of_all['50%']:.1f} ms, 99% within "
        f"{of_all['99%']:.1f} ms, largest {of_all['100%']:.1f} ms",
        method=METHOD,
        lines=[
            "| training | median, ms | 99%, ms | largest, ms | after so many steps |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
        ],
        figures={"limit_ms": 1000 * LIMIT, "all_ms": of_all, "trainings": table},
        broken=broken[:20],
    )


def spread(seconds: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    return {f"{p}%": 1000 * float(np.percentile(seconds, p)) for p in PERCENTILES}
