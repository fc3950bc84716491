"""The first part: whether the GPU computes what it should, and the same in every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.device_tests import missing_packages, run_device_tests
from benchmarks.gpu.helpers import Helper, Outcome, Task, run_tasks
from benchmarks.workloads import WORKLOADS

__all__ = ["HASHED", "check_correctness"]

GOLDEN_CASES = 49
DTYPES = ("float64", "float32")
TESTS_SHARE = 0.35  # of the part's time, for the tests
AGAIN_SHARE = 0.25  # of what is left then, for the second processes of the hashes
RUNS, RUNS_AGAIN = 3, 1
WAYS = ("resident", "fused", "layered")
HASHED = [
    {"workload": name, "way": way, "dtype": dtype}
    for name, dtype in (("surrogate", "float32"), ("tiny", "float64"), ("actor", "float32"))
    for way in WAYS
]


def golden_name(number: int, dtype: str) -> str:
    """Of a task."""
    return f"golden trajectory {number}, {dtype}"


def hash_name(case: dict[str, str]) -> str:
    """Of a task."""
    return f"runs of {case['workload']}, {case['dtype']}, {case['way']}"


def processor_name(workload: str) -> str:
    """Of a task."""
    return f"{workload} on the GPU and on the processor"


def hash_tasks(runs: int) -> list[Task]:
    """Digests of every network, way and dtype."""
    return [Task(hash_name(case), "checks", "hashes", {**case, "runs": runs}) for case in HASHED]


def golden_tasks(dtype: str) -> list[Task]:
    """All golden trajectories."""
    return [
        Task(golden_name(number, dtype), "checks", "golden", {"number": number, "dtype": dtype})
        for number in range(GOLDEN_CASES)
    ]


def compare_runs(first: dict[str, Outcome], again: dict[str, Outcome]) -> list[dict[str, Any]]:
    """For every case how many runs there were, and whether all had the same bits."""
    rows = []
    for case in HASHED:
        name = hash_name(case)
        outcomes = [found[name] for found in (first, again) if name in found]
        digests = [d for outcome in outcomes for d in (outcome.content or {}).get("digests", [])]
        rows.append(
            case
            | {
                "runs": len(digests),
                "processes": sum(outcome.is_done for outcome in outcomes),
                "same": len(set(digests)) == 1 if len(digests) > 1 else None,
                "digest": digests[0] if digests else None,
            }
        )
    return rows


def summary(
    outcomes: dict[str, Outcome], again: dict[str, Outcome], tests: dict[str, Any]
) -> dict[str, Any]:
    """The part's record."""
    runs = compare_runs(outcomes, again)
    failures = [f"{name}: {found.failure}" for name, found in outcomes.items() if found.failure]
    failures += [f"{name}, again: {o.failure}" for name, o in again.items() if o.failure]
    failures += [f"{hash_name(row)}: different bits" for row in runs if row["same"] is False]
    failures += [f"{name}: {reason}" for name, reason in tests.get("failed", {}).items()]
    failures += [tests["error"]] if "error" in tests else []
    if tests.get("counts") and not tests["counts"].get("PASSED"):
        failures.append("no test passed on the GPU")
    not_run = [f"{name}: {found.reason}" for name, found in outcomes.items() if found.reason]
    not_run += [f"{name}, again: {found.reason}" for name, found in again.items() if found.reason]
    not_run += tests.get("not_run", [])
    not_run += [tests["reason"]] if "reason" in tests else []
    golden = {}
    for dtype in DTYPES:
        names = [golden_name(number, dtype) for number in range(GOLDEN_CASES)]
        errors = [(outcomes[name].content or {}).get("error") for name in names]
        done = [error for error in errors if error is not None]
        golden[dtype] = {"cases": len(names), "held": len(done), "worst": max(done, default=None)}
    return {
        "golden": golden,
        "against_processor": {name: outcomes[processor_name(name)].content for name in WORKLOADS},
        "runs": runs,
        "tests": tests,
        "failures": failures,
        "not_run": not_run,
    }


def check_correctness(
    deadline: Deadline,
    processes: int,
    say: Callable[[str], None],
    start: Callable[[str], Any] = Helper,
) -> dict[str, Any]:
    """Golden trajectories, the processor's results, equal bits, then the tests.

    Kernels that take long to compile come first; the tests then find most in the cache.
    """
    missing = missing_packages()
    own = deadline if missing else deadline.within(1 - TESTS_SHARE)
    tasks = hash_tasks(RUNS)
    tasks += [
        Task(processor_name(name), "checks", "against_processor", {"workload": name})
        for name in WORKLOADS
    ]
    tasks += [task for dtype in DTYPES for task in golden_tasks(dtype)]
    say(f"  {len(tasks)} checks in {processes} processes")
    first = own.within(1 - AGAIN_SHARE)
    outcomes = run_tasks(tasks, processes, first, say, start)
    say("  the same bits in fresh processes")
    done = [task for task in hash_tasks(RUNS_AGAIN) if outcomes[task.name].is_done]
    again = run_tasks(done, processes, own, say, start)
    if missing:
        tests = {"reason": f"the tests: not installed: {', '.join(missing)}"}
    else:
        say("  the tests of the CUDA backend, on the GPU")
        try:
            tests = run_device_tests(processes, deadline)
        except Exception as error:  # the other parts are worth having
            tests = {"error": f"the tests: {type(error).__name__}: {error}"}
    return summary(outcomes, again, tests)
