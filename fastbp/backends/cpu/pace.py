"""How long the next call of the driver is, and whether it is serial or parallel.

The driver is called for about `CALL_SECONDS` at a time, so that Ctrl-C lands soon. Where an engine
may run in parallel, a short call now and then tries the other driver, and the faster one goes on:
threads that share their cores with other work can be many times slower than one thread, because
the threads of GNU OpenMP wait for each other by spinning. Both drivers give the same bits, so this
changes nothing but the time.
"""

from __future__ import annotations

__all__ = ["CALL_SECONDS", "Pace"]

CALL_SECONDS = 0.04
TRIAL_SHARE = 16  # a trial has this fraction of a call's batches
FIRST_INTERVAL, LONGEST_INTERVAL = 8, 128  # calls between trials; doubled when a trial loses


class Pace:
    """The measured speed of an engine's two drivers.

    Parameters
    ----------
    parallel : bool
        Whether the engine may run in parallel.
    """

    def __init__(self, parallel: bool) -> None:
        self.may_run_parallel = parallel
        self.prefers_parallel = parallel
        self.batches = 1  # of an ordinary call
        self.seconds: dict[bool, float] = {}  # a batch, by the latest call of each driver
        self.calls = 0
        self.interval = FIRST_INTERVAL

    def next_call(self) -> tuple[bool, int]:
        """Whether the next call is parallel, and for how many batches."""
        self.calls += 1
        if not self.may_run_parallel or self.calls % self.interval:
            return self.prefers_parallel, self.batches
        return not self.prefers_parallel, max(1, self.batches // TRIAL_SHARE)

    def measured(self, parallel: bool, batches: int, seconds: float) -> None:
        """Take the time of a call into account."""
        each = max(seconds / batches, 1e-9)
        before = self.seconds.get(parallel, each)
        self.seconds[parallel] = each
        if parallel == self.prefers_parallel:
            if each > 2 * before:  # something changed: look at the other driver soon
                self.interval, self.calls = FIRST_INTERVAL, 0
            # Grow by at most 8 times, since short calls are measured badly; shrink by at most 4.
            wanted = CALL_SECONDS / each
            bounded = min(max(wanted, self.batches / 4), batches * 8)
            self.batches = max(1, int(bounded) if batches >= self.batches else self.batches)
            return
        if each < self.seconds.get(self.prefers_parallel, 0.0):
            self.prefers_parallel = parallel
            self.interval = FIRST_INTERVAL
        else:
            self.interval = min(self.interval * 2, LONGEST_INTERVAL)
        self.calls = 0
