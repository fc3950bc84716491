"""A result as text: Markdown tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_line
from benchmarks.summary import goals, problems, single_row_overhead, summarize
from benchmarks.workloads import WORKLOADS

__all__ = ["BEGIN", "END", "replace_between_markers", "report", "short_number", "write_json"]

BEGIN = "<!-- Written by python -m benchmarks: begin -->"
END = "<!-- Written by python -m benchmarks: end -->"
QUIET = 0.1  # cores that others may keep busy in a run to be believed
NAMES = {"fastbp": "fastbp", "torch": "PyTorch", "jax": "JAX", "sklearn": "scikit-learn"}


def short_number(number: float | None) -> str:
    """Three digits: 1.86 M, 178 k, 9.40 k, 512."""
    if number is None:
        return "-"
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * size:
            scaled = number / size
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f}{unit}"
    return f"{number:.0f}"


def cell(number: float | None, digits: int = 2) -> str:
    """A number with some digits, or a dash."""
    return "-" if number is None else f"{number:,.{digits}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up, with numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [text.rjust(width) for text, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), "| " + " | ".join(rule) + " |", *(line(row) for row in rows)]


def training_table(result: dict[str, Any], threads: int) -> list[str]:
    """Samples a second of everybody with one number of threads."""
    libraries = ["fastbp", *result["settings"]["peers"]]
    header = ["workload", *(NAMES[name] for name in libraries), "ratio", "goal"]
    if threads > 1:
        header += ["ratio, peers' best", "by one thread"]
    header += ["of peak", "us a step"]
    if threads == 1:
        header += ["compile, s", "JAX compile, s"]
    rows = []
    for name, record in result["workloads"].items():
        found = summarize(record, threads)
        row = [name, *(short_number(found["rates"][library]) for library in libraries)]
        row += [cell(found["ratio"]), cell(WORKLOADS[name].goal)]
        if threads > 1:
            row += [cell(found["ratio_to_best_thread_count"]), cell(found["ratio_to_one_thread"])]
        percent = found["percent_of_peak"]
        row += ["-" if percent is None else f"{percent:.1f}%"]
        row += [cell(found["step_microseconds"], 1)]
        if threads == 1:
            row += [cell(found["compile_seconds"][library], 1) for library in ("fastbp", "jax")]
        rows.append(row)
    return markdown(header, rows)


def precision_table(result: dict[str, Any]) -> list[str]:
    """fastbp in float64, and the machine's peak beside each workload."""
    header = ["workload", "float64", "by float32", "of float64 peak"]
    counts = result["settings"]["threads"]
    header += [f"peak, {n} thread{'s' if n > 1 else ''}, GFLOP/s" for n in counts]
    rows = []
    for name, record in result["workloads"].items():
        found = summarize(record, 1, "float64")
        percent = found["percent_of_peak"]
        rows.append(
            [
                name,
                short_number(found["rates"]["fastbp"]),
                cell(found["ratio_to_one_thread"]),
                "-" if percent is None else f"{percent:.1f}%",
                *(cell(summarize(record, n)["peak_gigaflops"], 0) for n in counts),
            ]
        )
    return markdown(header, rows)


def prediction_tables(prediction: dict[str, Any]) -> list[str]:
    """Rows a second in large batches, and the time of one call with one row."""
    lines = []
    if prediction["batch"]:
        rows = []
        for name, rates in prediction["batch"].items():
            cells = [name]
            for library in ("fastbp", "torch", "jax"):
                found = sorted(rates.get(library, []))
                cells.append(short_number(found[len(found) // 2] if found else None))
            rows.append(cells)
        lines += ["Prediction of 65,536 rows in one call, one thread, rows a second:", ""]
        lines += [*markdown(["workload", "fastbp", "PyTorch", "JAX"], rows), ""]
    if prediction["latency"]:
        rows = []
        for library, latency in prediction["latency"].items():
            one = sorted(latency["1"])[len(latency["1"]) // 2]
            cells = [NAMES[library], cell(one, 1), cell(single_row_overhead(latency), 1)]
            rows.append(cells)
        lines += ["Prediction of one row of `tiny`, microseconds a call:", ""]
        lines += [*markdown(["library", "call", "overhead"], rows), ""]
    return lines


def startup_table(startup: dict[str, float]) -> list[str]:
    """Seconds that a fresh process takes."""
    names = {
        "import_seconds": "`import fastbp`, beyond an empty program",
        "first_training_seconds": "a whole process with a first training, kernels cached",
        "first_training_empty_cache_seconds": "the same with an empty cache",
    }
    rows = [[names[key], cell(seconds)] for key, seconds in startup.items()]
    return markdown(["start-up", "seconds"], rows)


def company_lines(result: dict[str, Any]) -> list[str]:
    """How quiet the machine was, and a warning where it was not."""
    found = [record["cores_of_others"] for record in result["workloads"].values()]
    found += (result.get("prediction") or {}).get("cores_of_others", [])
    known = [cores for cores in found if cores is not None]
    if not known:
        return []
    mean, most = sum(known) / len(known), max(known)
    text = f"Other programs kept {mean:.2f} cores busy meanwhile, at most {most:.2f}."
    if most > QUIET:
        text += " **This was no quiet machine: the figures are not to be relied on.**"
    return [text, ""]


def report(result: dict[str, Any]) -> str:
    """The whole report in Markdown."""
    lines = [f"`{result['command']}`", "", machine_line(result["machine"]), ""]
    settings = result["settings"]
    if result["workloads"]:
        for threads in settings["threads"]:
            plural = "s" if threads > 1 else ""
            lines += [f"Training, {threads} thread{plural}, samples a second:", ""]
            lines += [*training_table(result, threads), ""]
        if 1 in settings["threads"]:
            lines += ["fastbp in float64 on one thread, and the measured peak:", ""]
            lines += [*precision_table(result), ""]
    if result.get("prediction"):
        lines += prediction_tables(result["prediction"])
    if result.get("startup"):
        lines += [*startup_table(result["startup"]), ""]
    lines += company_lines(result)
    missing = sorted({name for r in result["workloads"].values() for name in r["missing"]})
    if missing:
        lines += [f"Not installed: {', '.join(NAMES[name] for name in missing)}.", ""]
    if problems(result):
        lines += ["Failed:", "", *(f"- {problem}" for problem in problems(result)), ""]
    held = goals(result)
    reached = sum(goal.reached for goal in held)
    lines += [
        f"{reached} of {len(held)} goals reached. {settings['rounds']} rounds of "
        f"{settings['seconds']:g} s for each contestant; {result['seconds'] / 60:.1f} minutes."
    ]
    return "\n".join(lines) + "\n"


def write_json(result: dict[str, Any], path: Path) -> None:
    """All rounds, and the figures drawn from them, replaced in one go."""
    figures = {
        name: {
            str(threads): summarize(record, threads) for threads in result["settings"]["threads"]
        }
        for name, record in result["workloads"].items()
    }
    write_text(path, json.dumps({**result, "figures": figures}, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file in one go, so that an interrupted run leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def replace_between_markers(path: Path, text: str) -> None:
    """Put a report between the two comments of a Markdown file; the prose around them stays.

    A file without them, or none at all, gets them at its end.
    """
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if BEGIN not in old or END not in old:
        old = f"{old.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    write_text(path, f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")
