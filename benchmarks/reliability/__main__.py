"""Evidence at scale: ``python -m benchmarks.reliability``.

Exit status: 0; 1 where a promise is broken or a subject could not be finished; 2 for arguments that
make no sense.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import ROOT, available_cores
from benchmarks.reliability.report import report, summary, updated, write_json
from benchmarks.reliability.subjects import SUBJECTS, Request, look_at
from benchmarks.report import replace_between_markers

DOCUMENTS = ROOT / "docs"
PACKAGES = ("fastbp", "numba", "llvmlite", "numpy", "scipy")
MOST_PROCESSES = 2


def names_from(text: str) -> tuple[str, ...]:
    """Subjects in a list with commas."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in found:
        if name not in SUBJECTS:
            raise argparse.ArgumentTypeError(f"{name!r}; expected some of {', '.join(SUBJECTS)}")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description="Whether fastbp keeps its promises, over many cases.",
    )
    add = parser.add_argument
    add("--only", type=names_from, default=tuple(SUBJECTS), metavar="A,B", help="these subjects")
    add("--scale", type=float, default=1.0, help="of the number of cases (1)")
    processes = min(len(available_cores()), MOST_PROCESSES)
    add("--workers", type=int, default=processes, help=f"processes at a time ({processes})")
    add("--seed", type=int, default=0, help="of the random cases (0)")
    where = "a run of everything writes to docs/reliability{}, others only where told"
    add("--json", type=Path, help=where.format(".json"))
    add("--markdown", type=Path, help=where.format(".md") + ", between its two markers")
    add("--update", action="store_true", help="write there, and keep what is there of others")
    options = parser.parse_args(arguments)
    if not 0 < options.scale < float("inf"):
        parser.error("scale must be above 0")
    if options.workers < 1 or not 0 <= options.seed < 2**32:
        parser.error("workers must be at least 1, and seed a number of 32 bits")
    if options.update and options.scale != 1.0:
        parser.error("update is for a scale of 1")
    # A partial run must not replace the published tables.
    if options.update or (options.only == tuple(SUBJECTS) and options.scale == 1.0):
        options.json = options.json or DOCUMENTS / "reliability.json"
        options.markdown = options.markdown or DOCUMENTS / "reliability.md"
    return options


def say(text: str) -> None:
    """Progress, apart from the summary."""
    print(text, file=sys.stderr, flush=True)


def versions() -> dict[str, str]:
    """Those of the packages that have a part in it."""
    from importlib.metadata import version

    return {name: version(name) for name in PACKAGES}


def main(arguments: list[str] | None = None) -> int:
    """Look, print, write; returns the exit status."""
    options = parse(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    machine = describe_machine(versions())
    request = Request(options.scale, options.workers, options.seed, say)
    about = {
        "command": shlex.join(["python", "-m", "benchmarks.reliability", *given]),
        "scale": options.scale,
        "seed": options.seed,
        "date": machine["date"],
        "processor": machine["processor"],
    }
    subjects: dict[str, Any] = {}
    interrupted = False
    for name in options.only:
        say(f"{name}:")
        try:
            outcome = look_at(name, request)
        except KeyboardInterrupt:  # what was found is worth a table
            interrupted = True
            break
        load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
        subjects[name] = dataclasses.asdict(outcome) | about | {"load": load}
        say(f"  {outcome.result} ({outcome.seconds:.0f} s)")
        for line in outcome.broken:
            say(f"  BROKEN: {line}")
    print("\n".join(summary(subjects)))
    result = {"machine": machine, "subjects": subjects}
    if not interrupted:
        if options.update:
            result = updated(options.json, result)
        if options.json is not None:
            write_json(result, options.json)
        if options.markdown is not None:
            replace_between_markers(options.markdown, report(result))
    return int(interrupted or any(found["broken"] for found in subjects.values()))


if __name__ == "__main__":
    sys.exit(main())
