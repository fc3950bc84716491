"""How long the next call of the driver is, and whether it is serial or parallel.

The driver is called for about `CALL_SECONDS` at a time, so that Ctrl-C lands soon. Where an engine
may run in parallel, a short call now and then tries the other driver, and the faster one goes on:
threads that share their cores with other work can be slower than one thread, because each waits for
the other where that one does not run. Both drivers give the same bits, so this changes nothing but
the time.
"""

from __future__ import annotations

__all__ = ["CALL_SECONDS", "Pace"]

CALL_SECONDS = 0.04
TRIAL_SECONDS = CALL_SECONDS / 10
FIRST_INTERVAL, LONGEST_INTERVAL = 4, 64  # calls between trials; doubled when a trial loses


class Speed:
    """Seconds a batch of one driver, recent calls counting more."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.batches = 0.0

    def add(self, batches: int, seconds: float) -> None:
        """Take a call into account; the past counts half of what it did."""
        self.seconds = self.seconds / 2 + seconds
        self.batches = self.batches / 2 + batches

    @property
    def each(self) -> float | None:
        """Seconds a batch, or None before the first call."""
        return max(self.seconds / self.batches, 1e-9) if self.batches else None


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
        self.speeds = {False: Speed(), True: Speed()}
        self.calls = 0
        self.interval = FIRST_INTERVAL

    def next_call(self) -> tuple[bool, int]:
        """Whether the next call is parallel, and for how many batches."""
        self.calls += 1
        if not self.may_run_parallel or self.calls % self.interval:
            return self.prefers_parallel, self.batches
        other = not self.prefers_parallel
        each = self.speeds[other].each
        return other, max(1, self.batches // 10 if each is None else int(TRIAL_SECONDS / each))

    def measured(self, parallel: bool, batches: int, seconds: float) -> None:
        """Take the time of a call into account."""
        speed = self.speeds[parallel]
        before = speed.each
        speed.add(batches, seconds)
        each = speed.each or 1e-9
        if parallel == self.prefers_parallel:
            if before is not None and each > 2 * before:  # look at the other driver soon
                self.interval, self.calls = FIRST_INTERVAL, 0
            if batches >= self.batches:  # a whole call: aim the next one at CALL_SECONDS
                # Grow by at most 8 times, since short calls are measured badly.
                wanted = min(CALL_SECONDS / each, batches * 8)
                self.batches = max(1, int(wanted))
            return
        self.calls = 0
        preferred = self.speeds[self.prefers_parallel].each
        if preferred is None or each < preferred:
            self.prefers_parallel = parallel
            self.interval = FIRST_INTERVAL
            self.batches = max(1, min(int(CALL_SECONDS / each), batches * 4))
        else:
            self.interval = min(self.interval * 2, LONGEST_INTERVAL)
