"""The GPU benchmark: ``python -m benchmarks.gpu``.

Exit status: 0; 1 where a check or a helper failed; 2 without a GPU, or for arguments that make no
sense.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import Budget, Deadline
from benchmarks.gpu.correctness import HASHED, check_correctness
from benchmarks.gpu.facts import CEILINGS, QUESTIONS, measure_facts
from benchmarks.gpu.helpers import run_tasks
from benchmarks.gpu.machine import describe_gpu_machine
from benchmarks.gpu.report import PARTS, failures, report, write_json
from benchmarks.gpu.rows import GROUPS, ROWS
from benchmarks.gpu.speed import measure_speed
from benchmarks.processes import ROOT, available_cores
from benchmarks.report import replace_between_markers

DOCUMENTS = ROOT / "docs"
# Of the time, in seconds of the default budget.
WEIGHTS = {"correctness": 150.0, "questions": 30.0, "ceilings": 20.0, "speed": 260.0}
MOST_PROCESSES = 16
SHARED_BYTES = {(10, 0): 232_448, (9, 0): 232_448, (8, 0): 166_912}  # others: 101,376
PREPARING_SECONDS = 6 * 3600.0


def names_from(text: str) -> tuple[str, ...]:
    """Workloads in a list with commas."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in found:
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"{name!r}; expected some of {', '.join(GROUPS)}")
    return found


def capability_from(text: str) -> tuple[int, int]:
    """A compute capability such as 9.0."""
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number such as 9.0")
    return int(major), int(minor)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Correctness and training speed of fastbp on the first NVIDIA GPU.",
    )
    add = parser.add_argument
    add("--only", action="append", choices=PARTS, help="this part; may be repeated")
    add("--budget", type=float, default=sum(WEIGHTS.values()), help="seconds of the run (460)")
    add("--workloads", type=names_from, default=GROUPS, metavar="A,B", help="of the speeds")
    where = "a run of everything writes to docs/benchmarks-gpu{}, others only where told"
    add("--json", type=Path, help=where.format(".json"))
    add("--markdown", type=Path, help=where.format(".md") + ", between its two markers")
    add(
        "--prepare",
        type=capability_from,
        metavar="CAPABILITY",
        help="compile all kernels for a GPU of a compute capability such as 9.0 into the cache, "
        "which needs no GPU, and do nothing else",
    )
    options = parser.parse_args(arguments)
    if not options.budget > 0:
        parser.error("budget must be above 0")
    is_everything = options.only is None and options.workloads == GROUPS
    options.only = tuple(part for part in PARTS if part in (options.only or PARTS))
    if is_everything:  # a partial run must not replace the published tables
        options.json = options.json or DOCUMENTS / "benchmarks-gpu.json"
        options.markdown = options.markdown or DOCUMENTS / "benchmarks-gpu.md"
    return options


def say(text: str) -> None:
    """Progress, apart from the summary."""
    print(text, file=sys.stderr, flush=True)


def find_gpu() -> tuple[str, str]:
    """What the first GPU is, and otherwise why there is none."""
    import fastbp as fb

    gpus = [device for device in fb.devices() if device.name.startswith("cuda")]
    usable = [device for device in gpus if device.available]
    if usable:
        return usable[0].description, ""
    return "", gpus[0].description if gpus else "fastbp lists no GPU"


def run_part(name: str, rows: list[str], deadline: Deadline) -> dict[str, Any]:
    """One part of the run."""
    processes = min(len(available_cores()), MOST_PROCESSES)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "correctness": lambda: check_correctness(deadline, processes, say),
        "questions": lambda: measure_facts(QUESTIONS, deadline, say),
        "ceilings": lambda: measure_facts(CEILINGS, deadline, say),
        "speed": lambda: measure_speed(rows, processes, deadline, say),
    }
    return parts[name]()


def measure(
    options: argparse.Namespace,
    machine: dict[str, Any],
    command: str,
    part: Callable[[str, list[str], Deadline], dict[str, Any]] = run_part,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """All parts that were asked for, as plain data; one that fails does not stop the others."""
    budget = Budget(options.budget, {name: WEIGHTS[name] for name in options.only}, clock)
    started = clock()
    rows = [name for name, row in ROWS.items() if row.group in options.workloads]
    parts: dict[str, Any] = {}
    is_interrupted = False
    for name in options.only:
        deadline = budget.begin(name)
        say(f"{name}: at most {deadline.left():.0f} s")
        began = clock()
        try:
            parts[name] = part(name, rows, deadline)
        except KeyboardInterrupt:  # what was measured is worth a table
            parts[name] = {"failures": ["interrupted"], "not_run": []}
            is_interrupted = True
        except Exception as error:
            parts[name] = {"failures": [f"{type(error).__name__}: {error}"], "not_run": []}
            say(f"  FAILED {parts[name]['failures'][0]}")
        parts[name]["seconds"] = clock() - began
        if is_interrupted:
            break
    return {
        "command": command,
        "machine": machine,
        "settings": {"budget": options.budget, "parts": list(options.only)},
        "parts": parts,
        "interrupted": is_interrupted,
        "seconds": clock() - started,
    }


def prepare(options: argparse.Namespace) -> int:
    """Fill the cache of kernels; returns the exit status."""
    from benchmarks.gpu.prepare import preparing_tasks

    rows = [name for name, row in ROWS.items() if row.group in options.workloads]
    shared = SHARED_BYTES.get(options.prepare, 101_376)
    tasks = preparing_tasks(
        options.prepare,
        shared,
        rows if "speed" in options.only else [],
        HASHED if "correctness" in options.only else [],
    )
    if "correctness" not in options.only:
        tasks = [task for task in tasks if task.arguments["kind"] == "row"]
    processes = min(len(available_cores()), MOST_PROCESSES)
    say(f"{len(tasks)} checks and rows in {processes} processes")
    outcomes = run_tasks(tasks, processes, Deadline(PREPARING_SECONDS), say)
    done = sum(outcome.is_done for outcome in outcomes.values())
    for name, outcome in outcomes.items():
        if outcome.reason:
            say(f"  not prepared: {name}: {outcome.reason}")
    print(f"{done} of {len(outcomes)} prepared")
    return int(any(outcome.failure for outcome in outcomes.values()))


def main(arguments: list[str] | None = None) -> int:
    """Check, measure, print, write; returns the exit status."""
    options = parse(arguments)
    if options.prepare is not None:
        return prepare(options)
    gpu, reason = find_gpu()
    if reason:
        print(f"no GPU: {reason}", file=sys.stderr)
        return 2
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "benchmarks.gpu", *given])
    result = measure(options, describe_gpu_machine(gpu), command)
    text = report(result)
    if result["interrupted"]:  # no replacement for what is published
        options.json = options.markdown = None
    if options.json is not None:
        write_json(result, options.json)
    if options.markdown is not None:
        replace_between_markers(options.markdown, text)
    print(text, end="", flush=True)
    return 1 if failures(result) else 0


if __name__ == "__main__":
    sys.exit(main())
