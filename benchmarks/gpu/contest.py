"""What every contestant goes through: its loss is checked, then its epochs are timed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from benchmarks.gpu.helpers import Failed
from benchmarks.gpu.rows import Row

__all__ = ["Contestant", "contend", "epoch_times", "grouped"]

REPETITION_SECONDS = 0.02  # of several epochs, where one is shorter
LEAST_REPETITIONS = 3


class Contestant(Protocol):
    """A library, set up for a row."""

    def loss_after(self) -> tuple[float, float]:
        """The loss of the row's first rows before and after its steps of the check."""

    def times(self, seconds: float) -> list[float]:
        """Seconds of an epoch, one for each repetition, in about so many seconds."""


def require_equal(row: Row, found: Sequence[float], expected: Sequence[float]) -> None:
    """Raise where losses differ from the processor's."""
    for moment, value, wanted in zip(("before", "after"), found, expected, strict=True):
        apart = abs(value - wanted) / abs(wanted)
        if not apart <= row.loss_bound:
            raise Failed(
                f"the loss {moment} {row.check_steps} steps is {value:.6g}, and on the processor "
                f"{wanted:.6g}; at most {row.loss_bound:g} apart"
            )


def contend(
    make: Callable[[], Contestant], row: Row, expected: Sequence[float], seconds: float
) -> dict[str, Any]:
    """Check a contestant, then time it.

    Parameters
    ----------
    make : callable
        Makes the contestant.
    row : Row
    expected : (float, float)
        The losses before and after on the processor.
    seconds : float
        Of the timing, about.

    Returns
    -------
    dict
        ``losses``; ``epoch_seconds``, the best; ``median_seconds``; ``repetitions``;
        ``setup_seconds`` of all before the timing.

    Raises
    ------
    Failed
        Where the losses are not the processor's; nothing is timed then.
    """
    started = time.perf_counter()
    contestant = make()
    losses = contestant.loss_after()
    require_equal(row, losses, expected)
    setup = time.perf_counter() - started
    times = contestant.times(seconds)
    return {
        "losses": list(losses),
        "epoch_seconds": min(times),
        "median_seconds": statistics.median(times),
        "repetitions": len(times),
        "setup_seconds": setup,
    }


def epochs_of_a_repetition(epoch_seconds: float) -> int:
    """How many epochs are timed together."""
    return max(1, math.ceil(REPETITION_SECONDS / max(epoch_seconds, 1e-6)))


def epoch_times(run: Callable[[int], None], seconds: float) -> list[float]:
    """Time a function that trains some epochs and waits for the end of them.

    The first call warms up, the second says how many epochs a repetition has.
    """
    ends = time.perf_counter() + seconds

    def timed(epochs: int) -> float:
        started = time.perf_counter()
        run(epochs)
        return (time.perf_counter() - started) / epochs

    run(1)
    first = timed(1)
    epochs = epochs_of_a_repetition(first)
    found: list[float] = []
    while not found or time.perf_counter() < ends:
        found.append(timed(epochs))
    return found if epochs > 1 else [first, *found]


def grouped(times: Sequence[float]) -> list[float]:
    """Times of single epochs as times of repetitions, each the mean of several epochs."""
    epochs = min(epochs_of_a_repetition(statistics.median(times)), len(times))
    starts = range(0, len(times) - epochs + 1, epochs)
    return [statistics.fmean(times[start : start + epochs]) for start in starts]
