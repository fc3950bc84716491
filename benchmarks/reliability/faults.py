"""Faults planted one at a time in a copy of the package: does the suite find them?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.reliability.fault_kernels import KERNEL_FAULTS
from benchmarks.reliability.fault_laws import LAW_FAULTS
from benchmarks.reliability.fault_runs import RUN_FAULTS
from benchmarks.reliability.fault_tables import Fault
from benchmarks.reliability.subjects import Outcome, Request

__all__ = ["FAULTS", "check", "plant", "run_checks"]

FAULTS: list[Fault] = [*KERNEL_FAULTS, *LAW_FAULTS, *RUN_FAULTS]
PATIENCE = 120.0  # seconds for one fault; it may make an endless loop
CHECKS = ROOT / "tests" / "fault_checks.py"

METHOD = """\
Each fault is an edit of a line or two of a copy of the package in a temporary folder, with a cache
of kernels of its own. Against it runs, in one process, a part of the test suite on few kernels
(`tests/fault_checks.py`), that of the fault's own room first, until a test fails. Without a fault
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


def run_checks(package: Path, cache: Path, room: str = "") -> dict[str, Any]:
    """The tests against a copy of the package, those of a room first.

    A process that ends in another way than by printing its findings has found something too.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "FASTBP_CACHE_DIR": str(cache),
        "NUMBA_NUM_THREADS": "2",
    }
    command = [sys.executable, str(CHECKS), *([room] if room else [])]
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=package,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"plain": True, "found_by": {"room": room, "message": "no end"}}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        message = f"the process ended with status {done.returncode}: {last}"[:160]
        return {"plain": True, "found_by": {"room": room, "message": message}}
    found: dict[str, Any] = json.loads(lines[-1])
    if Path(found["package"]) != package / "fastbp":
        raise RuntimeError(f"the tests ran against {found['package']}")
    return found


def run_fault(fault: Fault, cache: Path | None = None) -> dict[str, Any]:
    """What the tests find of one fault; `cache` has kernels that it need not compile."""
    with tempfile.TemporaryDirectory(prefix="fastbp-fault-") as name:
        folder = Path(name).resolve()
        own = folder / "cache"
        if cache is None:
            own.mkdir(mode=0o700)
        else:
            shutil.copytree(cache, own)
        return run_checks(plant(fault, folder), own, fault.room)


def prepare(cache: Path) -> None:
    """Run all tests without a fault, which fills a cache.

    Raises
    ------
    RuntimeError
        If a test fails: it would fail with any fault.
    """
    with tempfile.TemporaryDirectory(prefix="fastbp-fault-") as name:
        found = run_checks(plant(None, Path(name).resolve()), cache)
    if found["plain"] or found["found_by"]:
        raise RuntimeError(f"a test fails without any fault: {found}")


def chosen(scale: float) -> Sequence[Fault]:
    """All faults, or some of every kind."""
    count = min(max(round(scale * len(FAULTS)), 1), len(FAULTS))
    return [FAULTS[i * len(FAULTS) // count] for i in range(count)]


def check(request: Request) -> Outcome:
    """All planted faults, or as many as the scale says."""
    faults = chosen(request.scale)
    results: dict[Fault, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="fastbp-faults-") as name:
        cache = Path(name)
        request.say("  all tests without a fault")
        prepare(cache)
        with ThreadPoolExecutor(request.workers) as pool:
            started = {pool.submit(run_fault, fault, cache): fault for fault in faults}
            for future in as_completed(started):
                results[started[future]] = future.result()
                if len(results) % 10 == 0:
                    request.say(f"  {len(results)} of {len(faults)}")
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
