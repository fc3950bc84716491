"""Threads, forks, pools of processes and the kernel cache: the same bits, no error, no hanging."""

from __future__ import annotations

import functools
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.subjects import Outcome, Request, find_tests

__all__ = ["check"]

REPETITIONS, TRUNCATIONS = 2, 50
TRUNCATED = 5  # files of one cache

METHOD = f"""\
Every scenario (`tests/concurrency.py`, `tests/child_processes.py`) is a process of its own and
runs {REPETITIONS} times. 8 threads train 10 models each, which have the bits of serial runs;
another thread may not train a model that is being trained. Processes fork before, beside and
inside trainings, while locks are held and while kernels are compiled; pools by fork, forkserver
and spawn and joblib's loky train too, all with the bits of the parent. Loops of a user run on
Numba's own threads beside trainings, in every threading layer that this machine has, and the bits
are printed for every layer and for one that is not there. The kernel cache
(`tests/cache_abuse.py`) is an empty folder, one that can only be read, a full disk, one of another
source, and one that six processes write to; files of it are cut off at {TRUNCATIONS} places. What
does not end within 60 s hangs, or within 240 s where kernels are compiled."""


@dataclass(frozen=True)
class Job:
    """Something that is done in processes of its own; AssertionError where it goes wrong."""

    name: str
    run: Callable[[], Any]


@dataclass
class Ended:
    """How a job ended."""

    job: Job
    seconds: float
    result: Any = None
    error: str = ""
    hangs: bool = False


def in_folder(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call a function with a new folder, which goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="fastbp-concurrency-") as name:
        return function(Path(name), *arguments, **keywords)


def scenarios() -> list[Job]:
    """Every scenario once, in every layer of threads where that matters."""
    find_tests()
    import child_processes
    import concurrency

    def cold(name: str) -> Any:
        return in_folder(lambda folder: concurrency.run_scenario(name, folder))

    layers = [layer for layer in concurrency.LAYERS if concurrency.available(layer)]
    jobs = []
    for name in child_processes.SCENARIOS:
        words = name.replace("_", " ")
        if name not in concurrency.OF_LAYERS:
            run = cold if name == concurrency.COLD else concurrency.run_scenario
            jobs.append(Job(words, functools.partial(run, name)))
            continue
        for layer in ["default", *concurrency.LAYERS] if name == "bits" else layers:
            settings = {"NUMBA_THREADING_LAYER": layer}
            run = functools.partial(concurrency.run_scenario, name, **settings)
            jobs.append(Job(f"{words}, {layer}", run))
    return jobs


def abuses(folder: Path, truncations: int) -> list[Job]:
    """What happens to the kernel cache; the folder is for one that is filled."""
    find_tests()
    import cache_abuse

    filled = cache_abuse.fill(folder, cache_abuse.PREDICT)
    jobs = [
        Job(f"cache: {name}", functools.partial(in_folder, abuse, filled))
        for name, abuse in cache_abuse.ABUSES.items()
    ]
    shares = cache_abuse.shares_of_a_file(truncations)
    # Neighbouring places go to different files, so that every file is cut off all over.
    groups = [
        shares[i :: -(-truncations // TRUNCATED)] for i in range(-(-truncations // TRUNCATED))
    ]
    return jobs + [
        Job("cache: truncated", functools.partial(in_folder, cache_abuse.truncated, filled, group))
        for group in groups
    ]


def end(job: Job) -> Ended:
    """Do a job."""
    find_tests()
    from concurrency import Hang

    started = time.perf_counter()
    found = Ended(job, 0.0)
    try:
        found.result = job.run()
    except (Hang, subprocess.TimeoutExpired) as error:
        found.hangs, found.error = True, str(error)
    except AssertionError as error:
        found.error = str(error) or f"not so: {traceback.extract_tb(error.__traceback__)[-1].line}"
    found.seconds = time.perf_counter() - started
    return found


def end_all(jobs: list[Job], request: Request) -> list[Ended]:
    """Do jobs, several at a time."""
    found = []
    with ThreadPoolExecutor(request.workers) as pool:
        for future in as_completed([pool.submit(end, job) for job in jobs]):
            found.append(future.result())
            if len(found) % 20 == 0:
                request.say(f"  {len(found)} of {len(jobs)}")
    return found


def last_line(text: str) -> str:
    """The line of an error that says most."""
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else ""


def check(request: Request) -> Outcome:
    """Every scenario twice, or as often as the scale says."""
    once, repetitions = scenarios(), request.count(REPETITIONS)
    with tempfile.TemporaryDirectory(prefix="fastbp-concurrency-") as name:
        jobs = once * repetitions
        jobs += abuses(Path(name), request.count(TRUNCATIONS))
        found = end_all(jobs, request)
    table: dict[str, dict[str, Any]] = {}
    broken = []
    for job in jobs:
        table.setdefault(job.name, {"runs": 0, "hangs": 0, "errors": 0, "longest": 0.0})
    for each in found:
        row = table[each.job.name]
        row["runs"] += 1
        row["hangs"] += each.hangs
        row["errors"] += bool(each.error) and not each.hangs
        row["longest"] = max(row["longest"], each.seconds)
        if each.error:
            how = "hangs" if each.hangs else last_line(each.error)
            broken.append(f"{each.job.name}: {how}")
    bits = {
        line
        for each in found
        if each.job.name.startswith("bits, ") and not each.error
        for line in each.result
    }
    if len(bits) > 1:
        broken.append(f"bits: {len(bits)} different results of one training")
    hangs, errors = (sum(row[key] for row in table.values()) for key in ("hangs", "errors"))
    rows = [
        f"| {name} | {row['runs']} | {row['hangs']} | {row['errors']} | {row['longest']:.1f} |"
        for name, row in table.items()
    ]
    return Outcome(
        promise="Trainings beside threads, forks and pools of processes have the bits of a serial "
        "run, or are one clear error; nothing hangs, and no state of the kernel cache does harm.",
        cases=len(found),
        unit="scenarios",
        result=f"{hangs} hang, {errors} go wrong, {len(bits)} result in all threading layers",
        method=METHOD,
        lines=[
            "| scenario | runs | hang | go wrong | longest, s |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
        ],
        figures={"scenarios": table, "hangs": hangs, "errors": errors, "bits": len(bits)},
        broken=sorted(broken)[:20],
    )
