"""How many batches the next call launches: so few that Ctrl-C lands soon."""

from __future__ import annotations

__all__ = ["CALL_SECONDS", "Pace"]

CALL_SECONDS = 0.04  # of work in a call, about


class Pace:
    """The measured speed of an engine."""

    prefers_parallel = False  # threads of the processor have no part in it

    def __init__(self) -> None:
        self.batches = 1

    def measured(self, batches: int, seconds: float) -> None:
        """Take the time of a call into account; grow by at most 8 times."""
        if batches >= self.batches:
            wanted = CALL_SECONDS * batches / max(seconds, 1e-9)
            self.batches = max(1, int(min(wanted, batches * 8)))
