"""What the statistics of layers cost a training: ``python -m benchmarks.layer_statistics``.

Trains every workload with and without them, turn by turn. Prints a Markdown table: after how many
epochs layers are looked at, how long a look takes, its share of the time from one to the next, and
the ratio of the times of the two kinds of run, median and quartiles of the turns. The first look of
a run, which comes after its first epoch whatever that costs, counts in the ratio and not in the
share. Beside other programs the ratio says little and the share still something.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

import fastbp as fb
from benchmarks.fastbp_side import make_model, versions
from benchmarks.machine import describe_machine, machine_line
from benchmarks.processes import available_cores
from benchmarks.workloads import WORKLOADS, Workload, make_data
from fastbp.run_engines import RunEngines

__all__ = ["Clock", "Costs", "main", "measure"]

LOOKS = 3  # of a run at least


class Clock:
    """The seconds of the looks of some runs, each in two parts: before and after a last step."""

    def __init__(self) -> None:
        self.looks: list[float] = []

    def timed(self, method: Callable[..., None], begins: bool) -> Callable[..., None]:
        """A method of `RunEngines` with its time counted."""

        def call(*arguments: Any) -> None:
            started = time.perf_counter()
            method(*arguments)
            seconds = time.perf_counter() - started
            if begins:
                self.looks.append(seconds)
            else:
                self.looks[-1] += seconds

        return call

    def counting(self) -> Any:
        """A context in which looks are counted."""
        return mock.patch.multiple(
            RunEngines,
            prepare_statistics=self.timed(RunEngines.prepare_statistics, True),
            fill_statistics=self.timed(RunEngines.fill_statistics, False),
        )


def without() -> Any:
    """A context in which nobody looks."""
    return mock.patch.object(RunEngines, "is_due", return_value=False)


@dataclass
class Costs:
    """Of one workload.

    Attributes
    ----------
    epochs : int
        Of a run.
    interval : float
        Epochs between two looks.
    looks : list of float
        Seconds of those after the first one of a run.
    seconds : list of (float, float)
        Of training, with looks and without, turn by turn.
    """

    epochs: int
    interval: float
    looks: list[float] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def look(self) -> float:
        """Seconds of a look, the median."""
        return float(np.median(self.looks))

    @property
    def share(self) -> float:
        """Of the time between two looks."""
        epoch = float(np.median([without for _, without in self.seconds])) / self.epochs
        return self.look / (self.interval * epoch)

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Times with looks by times without: median and quartiles."""
        low, middle, high = np.quantile([a / b for a, b in self.seconds], [0.25, 0.5, 0.75])
        return float(middle), float(low), float(high)


def interval_of(work: Workload, threads: int) -> float:
    """After how many epochs a run of this workload looks at its layers, on average."""
    found: list[float] = []

    def is_due(engines: RunEngines, epoch: int, steps: int) -> bool:
        far = 10_000
        found.append(far / sum(original(engines, i, steps) for i in range(1, far + 1)))
        return False

    original = RunEngines.is_due
    with mock.patch.object(RunEngines, "is_due", is_due):
        run(work, 1, threads, *make_data(work))
    return found[0]


def run(work: Workload, epochs: int, threads: int, X: Any, y: Any) -> float:
    """Train; the seconds that training took, without building the engines."""
    result = fb.train(
        make_model(work),
        X,
        y,
        loss=work.loss,
        optimizer={"adam": fb.Adam, "sgd": fb.SGD}[work.optimizer](work.learning_rate),
        epochs=epochs,
        batch_size=work.batch_size,
        threads=threads,
        device="cpu",
    )
    return float(result.history["seconds"].sum())


def measure(work: Workload, rounds: int, seconds: float, threads: int) -> Costs:
    """Turn by turn: a run with looks, and one without; which comes first alternates."""
    X, y = make_data(work)
    run(work, 1, threads, X, y)
    epoch = run(work, 2, threads, X, y) / 2
    interval = interval_of(work, threads)
    costs = Costs(max(round(seconds / epoch), round(LOOKS * interval), 2), interval)
    for turn in range(rounds):
        clock = Clock()
        times = [0.0, 0.0]
        for kind in (0, 1) if turn % 2 else (1, 0):
            with without() if kind else clock.counting():
                times[kind] = run(work, costs.epochs, threads, X, y)
        costs.looks += clock.looks[1:]
        costs.seconds.append((times[0], times[1]))
    return costs


def main(arguments: Sequence[str] | None = None) -> None:
    """The table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layer_statistics")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), metavar="A,B")
    parser.add_argument("--rounds", type=int, default=9, help="turns (9)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a run at least (1)")
    options = parser.parse_args(arguments)
    machine = describe_machine(versions())
    print(machine_line(machine) + "\n")
    print("| workload | threads | epochs between looks | look, ms | share | ratio (quartiles) |")
    print("|---|---|---|---|---|---|")
    for name in options.workloads.split(","):
        for threads in (1, 2) if len(available_cores()) > 1 else (1,):
            costs = measure(WORKLOADS[name], options.rounds, options.seconds, threads)
            middle, low, high = costs.ratios
            cells = [name, threads, f"{costs.interval:.1f}", f"{1000 * costs.look:.2f}"]
            cells += [f"{costs.share:.2%}", f"{middle:.3f} ({low:.3f}-{high:.3f})"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
