"""fastbp beside PyTorch, JAX and scikit-learn: ``python -m benchmarks``.

Exit status: 0; 1 where a check or a worker failed, or with ``--check`` where a goal was missed; 2
for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.measure import PEERS, Settings, measure_workload
from benchmarks.prediction import measure_prediction
from benchmarks.processes import ROOT, WorkerError, available_cores
from benchmarks.report import replace_between_markers, report, write_json
from benchmarks.startup import measure_startup
from benchmarks.summary import problems, shortfalls
from benchmarks.verify import VerificationError
from benchmarks.workloads import WORKLOADS

DOCUMENTS = ROOT / "docs"
PARTS = ("training", "prediction", "startup")


def names_from(text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a list with commas, each one of those allowed."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in found:
        if name not in allowed:
            raise argparse.ArgumentTypeError(f"{name!r}; expected some of {', '.join(allowed)}")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Training speed of fastbp beside PyTorch, JAX and scikit-learn.",
    )
    every = tuple(WORKLOADS)
    add = parser.add_argument
    add("--workloads", type=lambda text: names_from(text, every), default=every, metavar="A,B")
    add("--rounds", type=int, default=5, help="turns of each contestant (5)")
    add("--seconds", type=float, default=1.0, help="of one turn, about (1)")
    add("--threads", type=lambda text: tuple(map(int, text.split(","))), metavar="1,2")
    add("--peers", type=lambda text: names_from(text, PEERS), default=PEERS, metavar="A,B")
    add("--parts", type=lambda text: names_from(text, PARTS), default=PARTS, metavar="A,B")
    add("--check", action="store_true", help="exit with 1 where a goal is missed, and list them")
    add("--ordinary-cache", action="store_true", help="fastbp may use kernels that are on disk")
    where = "a run of everything writes to docs/benchmarks{}, others only where told"
    add("--json", type=Path, help=where.format(".json"))
    add("--picture", type=Path, help=where.format(".png"))
    add("--markdown", type=Path, help=where.format(".md") + ", between its two markers")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not options.seconds > 0:
        parser.error("rounds and seconds must be above 0")
    cores = len(available_cores())
    if options.threads is None:
        options.threads = (1, 2) if cores > 1 else (1,)
    if not all(1 <= count <= cores for count in options.threads):
        parser.error(f"threads: expected numbers from 1 to {cores}")
    everything = (
        options.workloads == every
        and options.parts == PARTS
        and options.peers == PEERS
        and options.threads == (1, 2)
    )
    if everything:  # a partial run must not replace the published tables
        options.json = options.json or DOCUMENTS / "benchmarks.json"
        options.picture = options.picture or DOCUMENTS / "benchmarks.png"
        options.markdown = options.markdown or DOCUMENTS / "benchmarks.md"
    return options


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Everything that was asked for, as plain data."""
    started = time.perf_counter()
    settings = Settings(
        options.rounds,
        options.seconds,
        options.threads,
        options.peers,
        empty_cache=not options.ordinary_cache,
    )
    workloads: dict[str, Any] = {}
    failures: list[str] = []
    versions: dict[str, str] = {}
    for i, name in enumerate(options.workloads if "training" in options.parts else ()):
        work = WORKLOADS[name]
        say(f"[{i + 1} of {len(options.workloads)}] {name}: {work.describe()}")
        try:
            workloads[name], found = measure_workload(work, settings, say)
            versions |= found
        except (VerificationError, WorkerError) as error:
            failures.append(str(error))
            say(f"  CHECK FAILED, no time taken: {error}")
        except KeyboardInterrupt:  # what was measured is worth a table
            failures.append(f"interrupted in {name}")
            options.parts = ()
            break
    result: dict[str, Any] = {
        "command": command,
        "machine": describe_machine(versions),
        "settings": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "threads": list(options.threads),
            "peers": list(options.peers),
        },
        "workloads": workloads,
        "verification_failures": failures,
    }
    if "prediction" in options.parts:
        result["prediction"] = measure_prediction(settings, list(options.workloads), say)
    if "startup" in options.parts:
        result["startup"] = measure_startup(say)
    result["seconds"] = time.perf_counter() - started
    return result


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    options = parse(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    result = measure(options, shlex.join(["python", "-m", "benchmarks", *given]))
    text = report(result)
    print(text, end="")
    if not options.parts:  # interrupted: no replacement for what is published
        options.json = options.picture = options.markdown = None
    if options.json is not None:
        write_json(result, options.json)
    if options.markdown is not None:
        replace_between_markers(options.markdown, text)
    if options.picture is not None and result["workloads"]:
        if importlib.util.find_spec("matplotlib") is None:
            say("no picture: matplotlib is not installed")
        else:
            from benchmarks.picture import draw

            draw(result, options.picture)
    missed = shortfalls(result) if options.check else problems(result)
    for line in missed:
        print(f"{'short' if options.check else 'failed'}: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
