"""A block of simulated threads: runs them in turn and decides when their waiting ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .memory import Region, SimulationError, poisoned
from .races import THREAD_BITS
from .tensor_cores import NUMBERS, multiply_add

__all__ = ["WARP", "Block", "Wait", "describe_site", "describe_waits"]

WARP = 32


# What a thread waits for: a word, and where the kernel called it, as codes and instructions in turn,
# innermost first. A plain tuple, since many are made.
Wait = tuple[str, tuple[Any, ...]]

RETURNED: Wait = ("returned", ())


def describe_site(calls: tuple[Any, ...]) -> str:
    """Files and lines of calls."""
    lines = []
    for code, instruction in zip(calls[::2], calls[1::2], strict=True):
        known = (n for begin, end, n in code.co_lines() if begin <= instruction < end)
        lines.append(f"{code.co_filename.rpartition('/')[2]}:{next(known, '?')}")
    return " called from ".join(lines)


class Block:
    """The threads of a block and its shared memory."""

    def __init__(self, machine: Any, number: int, threads: int, shared_bytes: int) -> None:
        self.machine = machine
        self.number = number
        self.ready = list(range(threads))  # threads that can go on
        self.workers: list[Any] = [None] * threads  # the greenlet in which each thread runs
        self.waits: list[Wait | None] = [None] * threads
        self.offers: list[tuple[Any, Any]] = [(None, 0)] * threads  # what words of warps are given
        self.answers: list[Any] = [None] * threads  # what they return
        self.pointers: dict[Any, Any] = {}  # to shared memory
        flags = np.zeros(shared_bytes, np.uint8) if machine.raise_uninitialised else None
        address = machine.shared_space.reserve(shared_bytes)
        self.shared = Region(
            "shared memory", address, poisoned(shared_bytes), flags, is_global=False
        )
        self.interval = machine.new_interval(number)

    def advance(self) -> Wait:
        """Run until all threads wait for one thing, or have returned; let them pass a barrier.

        Returns what they waited for.
        """
        machine = self.machine
        machine.enter(self)
        waits, workers = self.waits, self.workers
        stamp = self.interval << THREAD_BITS
        while self.ready:
            meeting = False
            for thread in machine.arrange(self.ready, machine.order):
                machine.thread_number = thread
                machine.stamp = stamp | thread
                worker = workers[thread]
                if worker is None:
                    worker = workers[thread] = machine.worker()
                wait = worker.switch(self.answers[thread])
                if wait is None:
                    waits[thread] = RETURNED
                    workers[thread] = None
                    machine.idle.append(worker)
                elif len(wait) == 2:
                    waits[thread] = wait
                else:
                    word, site, *offer = wait
                    waits[thread] = (word, site)
                    self.offers[thread] = tuple(offer)
                    meeting = True
            self.ready = self.exchange() if meeting else []
        first = waits[0]
        assert first is not None
        if waits.count(first) != len(waits):
            raise SimulationError(
                f"divergent barrier, a deadlock, in block {self.number}: {self.describe()}"
            )
        if first[0] == "barrier":
            self.release()
        return first

    def release(self) -> None:
        """Let the threads pass a barrier."""
        self.interval = self.machine.new_interval(self.number)
        self.ready = list(range(len(self.waits)))

    def exchange(self) -> list[int]:
        """Do a word of warps for those that are complete at it; the threads that can go on."""
        ready: list[int] = []
        for begin in range(0, len(self.waits), WARP):
            warp = self.waits[begin : begin + WARP]
            first = warp[0]
            assert first is not None
            word, members = first[0], range(begin, begin + WARP)
            if warp.count(first) != WARP:
                continue
            if word == "shuffle_xor":
                for thread in members:
                    self.answers[thread] = self.offers[thread ^ self.offers[thread][1]][0]
            elif word in NUMBERS:
                multiply_add(word, self.offers[begin : begin + WARP])
            else:
                continue
            ready.extend(members)
        return ready

    def describe(self) -> str:
        return describe_waits("threads", enumerate(self.waits))


def describe_waits(noun: str, waits: Iterable[tuple[int, Wait | None]]) -> str:
    """Who waits where: numbers grouped by what they wait for."""
    groups: dict[str, list[int]] = {}
    for number, wait in waits:
        word, site = wait or RETURNED
        what = f"wait at {word} in {describe_site(site)}" if site else word
        groups.setdefault(what, []).append(number)
    return "; ".join(f"{noun} {ranges(group)} {what}" for what, group in groups.items())


def ranges(numbers: list[int]) -> str:
    """Ascending numbers in short: ``0-31, 40``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
