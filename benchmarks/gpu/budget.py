"""Dividing the time of a run: among its parts, and within a part among what is to be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["Budget", "Deadline"]

Clock = Callable[[], float]


class Deadline:
    """A moment by which something is to end.

    Parameters
    ----------
    seconds : float
        From now.
    clock : callable
    """

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.ends = clock() + seconds

    def left(self) -> float:
        """Seconds until then, at least 0."""
        return max(0.0, self.ends - self.clock())

    def within(self, share: float) -> Deadline:
        """The moment when a share of what is left now will have gone."""
        return Deadline(share * self.left(), self.clock)


class Budget:
    """The time of a whole run. What a part leaves unused goes to those after it.

    Parameters
    ----------
    seconds : float
    weights : mapping of str to float
        Of the parts, in their order; the time is divided in proportion.
    clock : callable
    """

    def __init__(
        self, seconds: float, weights: Mapping[str, float], clock: Clock = time.monotonic
    ) -> None:
        self.whole = Deadline(seconds, clock)
        self.weights = dict(weights)

    def begin(self, part: str) -> Deadline:
        """When a part that begins now is to end; it is no longer among those to come."""
        share = self.weights[part] / sum(self.weights.values())
        del self.weights[part]
        return self.whole.within(share)
