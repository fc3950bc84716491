"""Faults planted one at a time in a copy of the package: does the suite find them?"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.reliability.fault_kernels import KERNEL_FAULTS
from benchmarks.reliability.fault_laws import LAW_FAULTS
from benchmarks.reliability.fault_runs import RUN_FAULTS
from benchmarks.reliability.fault_steps import STEP_FAULTS
from benchmarks.reliability.fault_tables import Fault
from benchmarks.reliability.subjects import Outcome, Request

__all__ = ["FAULTS", "check", "plant", "run_faults"]

FAULTS: list[Fault] = [*KERNEL_FAULTS, *STEP_FAULTS, *LAW_FAULTS, *RUN_FAULTS]
PARTS = 2  # of the tests, which are run without a fault first
SERVER = ROOT / "tests" / "fault_server.py"

METHOD = """\
Each fault is an edit of a line or two of a copy of the package in a temporary folder, with a cache
of kernels of its own. Against it runs, in one process, a part of the test suite on few kernels
(`tests/fault_rooms.py`), that of the fault's own room first, until a test fails. Without a fault
all of them pass, which is tried first. Beside it runs the check that everybody writes:
`loss_and_gradient` of one small network against central differences with rtol=1e-3."""


def plant(fault: Fault | None, folder: Path) -> Path:
    """A copy of the package, with a fault in it; returns where to import it from."""
    shutil.copytree(
        ROOT / "fastbp", folder / "fastbp", ignore=shutil.ignore_patterns("__pycache__")
    )
    if fault is not None:
        path = folder / "fastbp" / fault.file
        path.write_text(fault.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


class Server:
    """A process that runs the tests against one copy of the package after another.

    Each run is a child of it, which begins with Numba and pytest imported.
    """

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            env={**os.environ, "NUMBA_NUM_THREADS": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(
        self, package: Path, cache: Path, room: str = "", part: int | None = None
    ) -> dict[str, Any]:
        """The tests against a copy of the package, those of a room first; all, or a part of them.

        A child that ends in another way than by printing its findings has found something too.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(package), str(cache), room, part]) + "\n")
        self.process.stdin.flush()
        answers: list[dict[str, Any]] = []
        while not answers or "ended" not in answers[-1]:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError("the process that runs the tests has ended")
            answers.append(json.loads(line))
        status = answers.pop()["ended"]
        if status != 0 or not answers:
            endless = status in {-signal.SIGALRM, -signal.SIGXCPU}
            how = "it did not end" if endless else f"it ended with status {status}"
            return {"plain": True, "found_by": {"room": room, "message": how}}
        (found,) = answers
        if Path(found["package"]) != package / "fastbp":
            raise RuntimeError(f"the tests ran against {found['package']}")
        return found

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def run_fault(server: Server, fault: Fault, cache: Path) -> dict[str, Any]:
    """What the tests find of one fault; `cache` has kernels that it need not compile."""
    with tempfile.TemporaryDirectory(prefix="fastbp-fault-") as name:
        folder = Path(name).resolve()
        own = folder / "cache"
        shutil.copytree(cache, own)
        return server.run(plant(fault, folder), own, fault.room)


def prepare(server: Server, part: int, cache: Path) -> None:
    """Run a part of the tests without a fault, which fills a cache.

    Raises
    ------
    RuntimeError
        If a test fails: it would fail with any fault.
    """
    with tempfile.TemporaryDirectory(prefix="fastbp-fault-") as name:
        found = server.run(plant(None, Path(name).resolve()), cache, part=part)
    if found["plain"] or found["found_by"]:
        raise RuntimeError(f"a test fails without any fault: {found}")


def run_faults(faults: Sequence[Fault], request: Request) -> dict[Fault, dict[str, Any]]:
    """What the tests find of each fault, several at a time."""
    results: dict[Fault, dict[str, Any]] = {}
    free: queue.SimpleQueue[Server] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastbp-faults-")))
        for _ in range(request.workers):
            server = Server()
            stack.callback(server.close)
            free.put(server)

        def run(function: Callable[..., Any], *arguments: Any) -> Any:
            server = free.get()
            try:
                return function(server, *arguments, cache)
            finally:
                free.put(server)

        pool = stack.enter_context(ThreadPoolExecutor(request.workers))
        request.say("  all tests without a fault")
        for done in [pool.submit(run, prepare, part) for part in range(PARTS)]:
            done.result()
        started = {pool.submit(run, run_fault, fault): fault for fault in faults}
        for future in as_completed(started):
            results[started[future]] = future.result()
            if len(results) % 20 == 0:
                request.say(f"  {len(results)} of {len(faults)}")
    return results


def chosen(scale: float) -> Sequence[Fault]:
    """All faults, or some of every kind."""
    count = min(max(round(scale * len(FAULTS)), 1), len(FAULTS))
    return [FAULTS[i * len(FAULTS) // count] for i in range(count)]


def check(request: Request) -> Outcome:
    """All planted faults, or as many as the scale says."""
    faults = chosen(request.scale)
    results = run_faults(faults, request)
    missed = [fault for fault in faults if results[fault]["found_by"] is None]
    plain = sum(results[fault]["plain"] for fault in faults)
    rows = [
        f"| {fault.file} | {fault.what} | {(results[fault]['found_by'] or {}).get('room', '-')} "
        f"| {'finds it' if results[fault]['plain'] else 'misses it'} |"
        for fault in faults
    ]
    lines = [
        "| file | fault | found by the tests of | a plain gradient check |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    return Outcome(
        promise="The test suite finds what is wrong in a kernel, a law or a training run.",
        cases=len(faults),
        unit="planted faults",
        result=f"{len(faults) - len(missed)} of {len(faults)} found; a plain gradient check with "
        f"rtol=1e-3 misses {len(faults) - plain}",
        method=METHOD,
        lines=lines,
        figures={
            "found": len(faults) - len(missed),
            "missed_by_a_plain_check": len(faults) - plain,
            "faults": [
                {"file": fault.file, "what": fault.what, **_plain_data(results[fault])}
                for fault in faults
            ],
        },
        broken=[f"not found: {fault.file}, {fault.what}" for fault in missed],
    )


def _plain_data(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the folder of this run."""
    return {"plain_check_finds": result["plain"], "found_by": result["found_by"]}
