"""Cases in shares, several processes at a time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from benchmarks.reliability.subjects import Request

__all__ = ["in_shares", "processes"]

SECONDS_BETWEEN_LINES = 10.0


def processes(request: Request) -> ProcessPoolExecutor:
    """A pool of the workers; compiled code and threads do not fork well."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(request.workers, mp_context=context)


def in_shares(
    function: Callable[[int, int, int], Any], cases: int, share: int, request: Request
) -> Iterator[Any]:
    """What ``function(first, last, seed)`` gives for shares of some cases, in no order.

    With one worker everything runs in this process. `function` is one of a module, so that other
    processes find it.
    """
    spans = [(first, min(first + share, cases)) for first in range(0, cases, share)]
    said = time.monotonic()
    if request.workers == 1:
        for first, last in spans:
            yield function(first, last, request.seed)
        return
    with processes(request) as pool:
        started = {pool.submit(function, *span, request.seed): span for span in spans}
        done = 0
        try:
            for future in as_completed(started):
                yield future.result()
                first, last = started[future]
                done += last - first
                if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                    said = time.monotonic()
                    request.say(f"  {done:,} of {cases:,}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
