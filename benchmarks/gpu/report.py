"""A result of the GPU benchmark as Markdown, and the goals that it reached or missed."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import gpu_line
from benchmarks.report import cell, markdown, short_number, write_text
from benchmarks.summary import Goal

__all__ = ["failures", "figures", "goals", "not_run", "report", "write_json"]

PARTS = ("correctness", "questions", "ceilings", "speed")
PEERS = ("torch graph", "jax", "torch eager", "torch compiled")
NAMES = {
    "fastbp": "fastbp",
    "torch graph": "PyTorch, CUDA graph",
    "jax": "JAX",
    "torch eager": "PyTorch",
    "torch compiled": "PyTorch, compiled",
}
MOST_LISTED, LONGEST_LINE = 40, 400
FOLDERS = re.compile(r"(?<![\w.:])/(?:[\w.+@~-]+/)+")


def without_folders(text: str) -> str:
    """A text in which files go by their names alone."""
    return FOLDERS.sub("", text)


def collected(result: dict[str, Any], kind: str) -> list[str]:
    """What all parts have of a kind, in sentences."""
    return [
        f"{part}: {line}"
        for part in PARTS
        for line in (result["parts"].get(part) or {}).get(kind, [])
    ]


def failures(result: dict[str, Any]) -> list[str]:
    """Everything that went wrong."""
    return collected(result, "failures")


def not_run(result: dict[str, Any]) -> list[str]:
    """Everything that was left out, with the reasons."""
    return collected(result, "not_run")


def ceiling(result: dict[str, Any], name: str, key: str) -> float | None:
    """A measured ceiling, or None."""
    found = (result["parts"].get("ceilings") or {}).get("found", {}).get(name) or {}
    value: float | None = found.get(key)
    return value


def figures(result: dict[str, Any], row: str) -> dict[str, Any]:
    """The figures of a row of the table of speeds; None for what was not measured."""
    record = result["parts"]["speed"]["rows"][row]
    seconds = {name: found["epoch_seconds"] for name, found in record["contestants"].items()}
    rates = {name: record["rows"] / value for name, value in seconds.items()}
    own = rates.get("fastbp")
    peers = [name for name in PEERS if name in rates]
    best = max(peers, key=lambda name: rates[name], default=None)
    steps = None if own is None else own / record["batch_size"]  # a second
    flops = None if steps is None else steps * record["step_flops"]
    moved = None if steps is None else steps * record["step_bytes"]
    most = ceiling(result, "multiply_adds", "flops_per_second")
    copied = ceiling(result, "copy", "bytes_per_second")
    is_float32 = record["precision"] == "float32"
    return {
        "rates": rates,
        "best_peer": best,
        "ratio": None if own is None or best is None else own / rates[best],
        "step_microseconds": None if own is None else record["batch_size"] / own * 1e6,
        "teraflops": None if flops is None else flops / 1e12,
        "percent": None if flops is None or not most or not is_float32 else 100 * flops / most,
        "gigabytes_per_second": None if moved is None else moved / 1e9,
        "percent_of_copy": None if moved is None or not copied else 100 * moved / copied,
    }


def goals(result: dict[str, Any]) -> list[Goal]:
    """That fastbp is ahead of the best peer in every row, and by far in some."""
    rows = (result["parts"].get("speed") or {}).get("rows", {})
    return [
        Goal(f"{row}, ratio to the best peer", figures(result, row)["ratio"], record["goal"])
        for row, record in rows.items()
    ]


def listed(title: str, lines: list[str]) -> list[str]:
    """A heading with a list under it, not too long; nothing without lines."""
    if not lines:
        return []
    shown = [f"- {textwrap.shorten(line, LONGEST_LINE)}" for line in lines[:MOST_LISTED]]
    if len(lines) > MOST_LISTED:
        shown.append(f"- and {len(lines) - MOST_LISTED} more")
    return [f"{title} ({len(lines)}):", "", *shown, ""]


def error_text(error: float | None) -> str:
    """A small number, or a dash."""
    return "-" if error is None else f"{error:.1e}"


def correctness_lines(part: dict[str, Any]) -> list[str]:
    """Golden trajectories, the processor's results, equal bits, tests."""
    lines = ["### Correctness on the GPU", ""]
    for dtype, golden in part["golden"].items():
        lines.append(
            f"- {golden['held']} of {golden['cases']} golden trajectories of 30 epochs held in "
            f"{dtype}; the largest error is {error_text(golden['worst'])}."
        )
    tests = part["tests"]
    if "counts" in tests:
        counts = ", ".join(f"{n} {name.lower()}" for name, n in sorted(tests["counts"].items()))
        alone = tests["alone"]
        extra = f" Passed in a second run alone: {', '.join(alone)}." if alone else ""
        lines.append(f"- Tests of the CUDA backend on the GPU: {counts}.{extra}")
    known = [row for row in part["runs"] if row["same"] is not None]
    same = sum(row["same"] for row in known)
    lines.append(
        f"- {same} of {len(known)} networks and ways gave the same bits in "
        f"{max((row['runs'] for row in known), default=0)} runs in two processes."
    )
    rows = [
        [name, error_text((errors or {}).get("step")), error_text((errors or {}).get("epoch"))]
        for name, errors in part["against_processor"].items()
    ]
    lines += ["", "Scaled difference from the processor in float64, same parameters and data:", ""]
    return [*lines, *markdown(["workload", "after a step", "after an epoch"], rows), ""]


def launch_rows(found: dict[str, Any]) -> list[list[str]]:
    """Launches and replays."""
    rows = []
    for key, name in (("launches", "int64"), ("array_launches", "arrays, numba-cuda-mlir's own")):
        for count, times in ((found.get(key) or {}).get("microseconds") or {}).items():
            about = f"launch, {count} arguments ({name})"
            rows.append([about, cell(times["host"]), cell(times["done"])])
    for count, times in ((found.get("replay") or {}).get("microseconds") or {}).items():
        rows.append([f"replay of {count}, each", cell(times["host"], 3), cell(times["done"], 3)])
    return rows


def question_lines(part: dict[str, Any]) -> list[str]:
    """Libraries, launches, replays, barriers."""
    found = part["found"]
    lines = ["### The driver and the compiler", ""]
    files = (found.get("libraries") or {}).get("files", {})
    lines += [f"- {name}: {path}" for name, path in files.items()]
    replay = found.get("replay")
    lines.append(f"- Graph replay: {'works' if replay else 'not shown to work'}.")
    header = ["microseconds", "until the host goes on", "until the GPU is done"]
    lines += ["", *markdown(header, launch_rows(found)), ""]
    barriers = (found.get("barriers") or {}).get("microseconds") or {}
    rows = [[f"barrier, {name}", cell(time, 3)] for name, time in barriers.items()]
    return [*lines, *markdown(["of 256 threads a block", "microseconds"], rows), ""]


def ceiling_lines(result: dict[str, Any]) -> list[str]:
    """What the card reaches at most."""
    copied = ceiling(result, "copy", "bytes_per_second")
    added = ceiling(result, "multiply_adds", "flops_per_second")
    return [
        "### Ceilings, measured",
        "",
        f"- A copy of 1 GiB within the GPU: {cell(copied and copied / 1e9, 0)} GB/s read and "
        "written.",
        f"- Fused multiply-adds of float32 in registers: {cell(added and added / 1e12, 1)} "
        "TFLOP/s.",
        "",
    ]


def percent_text(percent: float | None) -> str:
    """Per cent, or a dash."""
    return "-" if percent is None else f"{percent:.1f}%"


def speed_lines(result: dict[str, Any]) -> list[str]:
    """Samples a second of everybody, and fastbp's figures."""
    rows = []
    for row, record in result["parts"]["speed"]["rows"].items():
        found = figures(result, row)
        rows.append(
            [
                row,
                *(short_number(found["rates"].get(name)) for name in NAMES),
                cell(found["ratio"]),
                f"{record['goal']:g}",
                cell(found["step_microseconds"], 1),
                cell(found["teraflops"]),
                percent_text(found["percent"]),
                cell(found["gigabytes_per_second"], 1),
                percent_text(found["percent_of_copy"]),
            ]
        )
    header = ["samples a second", *NAMES.values(), "ratio", "goal", "us a step", "TFLOP/s"]
    header += ["of multiply-adds", "GB/s at least", "of copy"]
    about = (
        "Ratio: fastbp by the best of the others. What follows the goal is fastbp's alone. TFLOP/s "
        "count 6 operations for each row and weight; beside them is their share of the measured "
        "ceiling of multiply-adds. GB/s count the least that a step must move: inputs and targets "
        "of the batch read once, parameters and the optimizer's slots read and written once, "
        "activations and gradients not at all; beside them is their share of the measured copy. "
        "They are no measurement of the traffic: a step may move more, and less of what stays in "
        "caches from one step to the next, so that a small network can be above the copy."
    )
    return [
        "### Training speed",
        "",
        *textwrap.wrap(about, 100),
        "",
        *markdown(header, rows),
        "",
    ]


def report(result: dict[str, Any]) -> str:
    """The whole report in Markdown."""
    parts = result["parts"]
    lines = [f"`{result['command']}`", "", gpu_line(result["machine"]), ""]
    if parts.get("correctness", {}).get("golden"):
        lines += correctness_lines(parts["correctness"])
    if parts.get("questions", {}).get("found"):
        lines += question_lines(parts["questions"])
    if parts.get("ceilings", {}).get("found"):
        lines += ceiling_lines(result)
    if parts.get("speed", {}).get("rows"):
        lines += speed_lines(result)
    held = goals(result)
    reached = [goal for goal in held if goal.reached]
    lines += listed("Failed", failures(result))
    lines += listed("Not run", not_run(result))
    lines += listed("Goals missed", [str(goal) for goal in held if not goal.reached])
    lines.append(
        f"{len(reached)} of {len(held)} goals reached; {len(failures(result))} failures; "
        f"{result['seconds'] / 60:.1f} minutes."
    )
    return without_folders("\n".join(lines) + "\n")


def write_json(result: dict[str, Any], path: Path) -> None:
    """All that was measured, and the figures and goals drawn from it, replaced in one go."""
    rows = (result["parts"].get("speed") or {}).get("rows", {})
    content = result | {
        "figures": {row: figures(result, row) for row in rows},
        "goals": [
            {"name": g.name, "found": g.found, "bound": g.bound, "reached": g.reached}
            for g in goals(result)
        ],
    }
    write_text(path, without_folders(json.dumps(content, indent=1)) + "\n")
