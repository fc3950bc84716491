"""Cases in shares, several processes at a time."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from benchmarks.reliability.subjects import Request
from fastbp.activations import Activation
from fastbp.backends.choose import geometry
from fastbp.losses import Loss
from fastbp.network import mlp
from fastbp.optimizers import SGD
from fastbp.warmup import build

__all__ = ["compile_ahead", "in_shares"]

SECONDS_BETWEEN_LINES = 10.0
DTYPES = ("float64", "float32")


def compile_gradients(dtype: str) -> None:
    """Compile what gradients of networks need, with every activation and every loss."""
    activations, losses = (
        [family.resolve(name) for name in family.names()] for family in (Activation, Loss)
    )
    for activation, loss in itertools.zip_longest(activations, losses):
        for units, rows in ((5, geometry("cpu").lane_rows), (70, 2)):  # in lanes, and not
            network = mlp(3, units, 2, activation=activation or activations[0])
            build(network, "gradient", loss or losses[0], SGD(), dtype, rows)


def compile_ahead(request: Request) -> None:
    """Fill the cache of kernels, each worker with those of one precision.

    Workers that begin with the cases would all compile the same.
    """
    if request.workers > 1 and request.scale >= 1.0:  # a few cases need few laws
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(request.workers, mp_context=context) as pool:
            list(pool.map(compile_gradients, DTYPES))


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
    context = multiprocessing.get_context("spawn")  # compiled code and threads do not fork well
    with ProcessPoolExecutor(request.workers, mp_context=context) as pool:
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
