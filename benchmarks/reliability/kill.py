"""kill -9 at random moments: of writers of a checkpoint, and of trainings that write one."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.shares import in_shares
from benchmarks.reliability.subjects import Outcome, Request, find_tests

__all__ = ["check"]

WRITERS, RUNS = 250, 50  # kills
WRITERS_SHARE, RUNS_SHARE = 25, 10
SIZE = 4000  # bytes of the file of those that die at every call

METHOD = f"""\
{WRITERS} writers of a checkpoint and {RUNS} trainings are killed. A writer (`tests/killing.py`)
writes one state of 256 KiB after the other to the same file and reports each that is written;
every number of a state is its own, so that a mixture shows. It is killed at a random moment, and
the next one goes on from the file. A training (`tests/killed_runs.py`: validated, standardised,
averaged, with a one-cycle schedule) saves after each of its 60 epochs; it is killed while it
starts, in 3 of 10 cases, or up to 0.2 s after the first epoch that it finishes, in training or
writing, and resumed until it comes to its end; then it begins anew. A checkpoint counts as lost
where the file is older than what was reported, or an epoch that was saved is run again. Besides,
writers die before and after every single call that changes files, in the middle of a write too."""


def some_writers(first: int, last: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """Kill writers of one file: what came of it, and what files they left."""
    find_tests()
    from killing import kill_writers

    with tempfile.TemporaryDirectory(prefix="fastbp-kill-") as folder:
        outcomes, files = kill_writers(Path(folder) / "run.ckpt", last - first, seed + first)
    return outcomes, files


def some_runs(first: int, last: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """Kill trainings: the same."""
    find_tests()
    from killed_runs import kill_runs

    with tempfile.TemporaryDirectory(prefix="fastbp-kill-") as folder:
        found = kill_runs(folder, last - first, seed + first)
    outcomes = Counter(
        {
            "killed": found.kills,
            "unreadable": found.unreadable,
            "lost": found.lost,
            "ended": found.ended,
            "resumed": found.resumed,
            "other bits": int(not found.is_same),
        }
    )
    return outcomes, found.files


def deaths_at_every_call() -> int:
    """Writers that died before and after every call, and left whole files all of them."""
    find_tests()
    from killing import writer

    with (
        tempfile.TemporaryDirectory(prefix="fastbp-kill-") as folder,
        writer(Path(folder) / "run.ckpt", SIZE, "every") as child,
    ):
        output = child.stdout.read()
    if child.returncode != 0:
        raise RuntimeError("a writer that died at some call left what it should not")
    return int(output)


def in_words(files: Counter[str]) -> str:
    """What files were left, the most frequent first."""
    return ", ".join(f"{count} times {left}" for left, count in files.most_common())


def check(request: Request) -> Outcome:
    """300 kills, or as many as the scale says."""
    subjects = {
        "writers": (some_writers, request.count(WRITERS), WRITERS_SHARE),
        "trainings": (some_runs, request.count(RUNS), RUNS_SHARE),
    }
    figures: dict[str, Any] = {}
    lines, broken = [], []
    wrong = {
        "unreadable": "checkpoints that could not be read",
        "lost": "checkpoints lost",
        "other bits": "runs that ended with other bits",
        "leftovers that stay": "temporary files that stay",
    }
    for name, (function, count, share) in subjects.items():
        outcomes = Counter(dict.fromkeys(wrong, 0))
        files: Counter[str] = Counter()
        for found, left in in_shares(function, count, share, request):
            outcomes.update(found)  # which keeps what is 0
            files.update(left)
        figures[name] = {**outcomes, "files": dict(files.most_common())}
        broken += [f"{name}: {outcomes[key]} {wrong[key]}" for key in wrong if outcomes[key]]
        if outcomes["killed"] < count:
            broken.append(f"{name}: {outcomes['killed']} of {count} were killed")
        lines.append(f"- {name} killed: {outcomes['killed']}; what they left: {in_words(files)}")
        request.say(lines[-1].replace("- ", "  ", 1))
    runs = figures["trainings"]
    if not runs["ended"]:
        broken.append("trainings: none came to its end")
    lines.append(
        f"- trainings that were resumed: {runs['resumed']}; that came to their end, with the bits "
        f"of one that nobody killed: {runs['ended']}"
    )
    deaths = deaths_at_every_call()
    figures["deaths_at_every_call"] = deaths
    lines.append(f"- writers that died before or after a call: {deaths}, and left whole files")
    kills = sum(figures[name]["killed"] for name in subjects)
    unreadable, lost = (
        sum(figures[name].get(key, 0) for name in subjects) for key in ("unreadable", "lost")
    )
    return Outcome(
        promise="A checkpoint is whole or the one before, whenever its writer is killed, and a run "
        "that goes on from it ends with the same bits.",
        cases=kills,
        unit="kills",
        result=f"{unreadable} checkpoints unreadable, {lost} lost; {runs['ended']} resumed runs "
        + ("ended with the same bits" if not runs.get("other bits") else "ended, not the same"),
        method=METHOD,
        lines=lines,
        figures=figures,
        broken=broken,
    )
