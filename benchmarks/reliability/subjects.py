"""What is looked at, in order, and what a look at it gives. A new subject is one entry here."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.processes import ROOT

__all__ = ["SUBJECTS", "Outcome", "Request", "find_tests", "look_at"]

# Name -> the function that looks at it, ``check(request) -> Outcome``, as "module:function".
# Modules of tests/ are found too.
SUBJECTS = {
    "gradients": "benchmarks.reliability.gradients:check",
    "float32": "benchmarks.reliability.float32:check",
    "scaling": "benchmarks.reliability.scaling:check",
    "faults": "benchmarks.reliability.faults:check",
    "bits": "benchmarks.reliability.bits:check",
    "memory": "benchmarks.reliability.memory:check",
    "kill": "benchmarks.reliability.kill:check",
    "mutations": "benchmarks.reliability.mutations:check",
    "interrupts": "benchmarks.reliability.interrupts:check",
    "concurrency": "benchmarks.reliability.concurrency:check",
}


@dataclass(frozen=True)
class Request:
    """How much is to be done, and how.

    Attributes
    ----------
    scale : float
        Of the number of cases; 1 for those of the published run.
    workers : int
        Processes at a time; 1 stands for this process.
    seed : int
    say : callable
        Takes a line about progress.
    """

    scale: float = 1.0
    workers: int = 1
    seed: int = 0
    say: Callable[[str], None] = lambda line: None

    def count(self, cases: int, least: int = 1) -> int:
        """So many cases, by the scale."""
        return max(round(cases * self.scale), least)


@dataclass
class Outcome:
    """What a subject shows.

    Attributes
    ----------
    promise : str
        What fastbp promises, in one sentence.
    cases : int
        How many were tried.
    unit : str
        What a case is, in the plural.
    result : str
        What came out, in a few words.
    method : str
        How it was looked at: a paragraph.
    lines : list of str
        Of Markdown, with the details.
    figures : dict
        The same as plain data.
    broken : list of str
        Where the promise does not hold.
    """

    promise: str
    cases: int
    unit: str
    result: str
    method: str = ""
    lines: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0


def find_tests() -> None:
    """Let the modules of tests/ be imported."""
    folder = str(ROOT / "tests")
    if folder not in sys.path:
        sys.path.append(folder)


def look_at(name: str, request: Request) -> Outcome:
    """One subject; what goes wrong in looking is no proof of anything, and so a broken promise."""
    started = time.perf_counter()
    try:
        find_tests()
        module, _, function = SUBJECTS[name].partition(":")
        outcome: Outcome = getattr(importlib.import_module(module), function)(request)
    except Exception as error:
        broken = [f"{type(error).__name__}: {error}"]
        outcome = Outcome("", 0, "", "not finished", broken=broken)
    outcome.seconds = time.perf_counter() - started
    return outcome
