"""Ctrl-C waits while a call is between the launches of a batch.

Python raises KeyboardInterrupt between any two of its instructions. Amid the launches of a batch
that would leave parameters of a new step beside the sums of an old one; on the CPU a call is one
call of C, which nothing comes into.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["uninterrupted"]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, where it is handled as it would have been.

    Python handles signals in its main thread; elsewhere, and where no function of Python's handles
    this one, there is nothing to hold back.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    if not callable(handler):
        yield
        return
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)
