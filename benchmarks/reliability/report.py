"""A run as text: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_line
from benchmarks.processes import ROOT
from benchmarks.reliability.subjects import SUBJECTS
from benchmarks.report import markdown, write_text

__all__ = ["report", "summary", "updated", "write_json"]


def without_folders(text: str) -> str:
    """A text in which files of this machine go by their names alone."""
    for folder in (ROOT, Path(tempfile.gettempdir()), Path.home()):
        text = text.replace(f"{folder}/", "")
    return text


def summary(subjects: dict[str, Any]) -> list[str]:
    """One table of all subjects."""
    rows = []
    for name, found in subjects.items():
        kept = "BROKEN" if found["broken"] else "kept"
        cases = f"{found['cases']:,} {found['unit']}"
        rows.append([name, cases, found["result"], kept, f"{found['seconds']:.0f}"])
    return markdown(["subject", "tried", "result", "promise", "seconds"], rows)


def report(result: dict[str, Any]) -> str:
    """The document, but for its beginning."""
    subjects = result["subjects"]
    seconds = sum(found["seconds"] for found in subjects.values())
    lines = [
        machine_line(result["machine"]),
        "",
        *summary(subjects),
        "",
        f"{seconds / 60:.1f} minutes together.",
    ]
    for name, found in subjects.items():
        company = found["load"]
        lines += ["", f"## {name}", "", found["promise"], "", found["method"], "", *found["lines"]]
        if found["broken"]:
            lines += ["", "Broken:", "", *(f"- {text}" for text in found["broken"])]
        lines += [
            "",
            f"`{found['command']}`, {found['date']}, {found['processor']}, {found['seconds']:.0f} s"
            + (f"; the machine's load was {company:.1f}." if company is not None else "."),
        ]
    return without_folders("\n".join(lines) + "\n")


def updated(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """A result with the subjects that a file has besides."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["subjects"]
    except FileNotFoundError:
        before = {}
    subjects = before | result["subjects"]
    return result | {"subjects": {name: subjects[name] for name in SUBJECTS if name in subjects}}


def write_json(result: dict[str, Any], path: Path) -> None:
    """All that was found, replaced in one go."""
    write_text(path, without_folders(json.dumps(result, indent=1)) + "\n")
