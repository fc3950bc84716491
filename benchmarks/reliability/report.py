"""A run as text: Markdown for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_line
from benchmarks.processes import ROOT
from benchmarks.reliability.subjects import Outcome
from benchmarks.report import markdown, write_text

__all__ = ["report", "summary", "write_json"]


def without_folders(text: str) -> str:
    """A text in which files of this machine go by their names alone."""
    for folder in (ROOT, Path(tempfile.gettempdir()), Path.home()):
        text = text.replace(f"{folder}/", "")
    return text


def summary(outcomes: dict[str, Outcome]) -> list[str]:
    """One table of all subjects."""
    rows = []
    for name, outcome in outcomes.items():
        kept = "kept" if not outcome.broken else "BROKEN"
        cases = f"{outcome.cases:,} {outcome.unit}"
        rows.append([name, cases, outcome.result, kept, f"{outcome.seconds:.0f}"])
    return markdown(["subject", "tried", "result", "promise", "seconds"], rows)


def report(result: dict[str, Any], outcomes: dict[str, Outcome]) -> str:
    """The document, but for its beginning."""
    lines = [
        f"`{result['command']}` on {machine_line(result['machine'])}",
        "",
        *summary(outcomes),
        "",
        f"{result['seconds'] / 60:.1f} minutes, {result['workers']} processes at a time, "
        f"seed {result['seed']}.",
    ]
    for name, outcome in outcomes.items():
        lines += ["", f"## {name}", "", outcome.promise, "", outcome.method, "", *outcome.lines]
        if outcome.broken:
            lines += ["", "Broken:", "", *(f"- {text}" for text in outcome.broken)]
    return without_folders("\n".join(lines) + "\n")


def write_json(result: dict[str, Any], outcomes: dict[str, Outcome], path: Path) -> None:
    """All that was found, replaced in one go."""
    subjects = {}
    for name, outcome in outcomes.items():
        content = dataclasses.asdict(outcome)
        del content["lines"], content["method"]
        subjects[name] = content
    write_text(path, without_folders(json.dumps(result | {"subjects": subjects}, indent=1)) + "\n")
