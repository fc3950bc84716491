"""The tests of the CUDA backend on the GPU itself: in several pytest processes at a time."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import Deadline
from benchmarks.processes import ROOT, source_environment

__all__ = ["missing_packages", "read_outcomes", "run_device_tests"]

PACKAGES = ("pytest", "hypothesis")  # hypothesis: for the tests' configuration
FIXTURES = frozenset({"gpu", "racing"})  # of tests/conftest.py: the machine's own GPU, if so told
OUTCOME = re.compile(r"^(tests/.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
COLLECT_SECONDS = 60.0


def missing_packages() -> list[str]:
    """What the tests need and this machine does not have."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def test_files() -> list[str]:
    """The files whose tests take the GPU from the fixtures."""
    files = sorted((ROOT / "tests").glob("test_cuda_*.py"))
    chosen = [path for path in files if takes_gpu(path.read_text("utf-8"))]
    return [str(path.relative_to(ROOT)) for path in chosen]


def takes_gpu(text: str) -> bool:
    """Whether a file has tests that use the fixtures, as a parameter or by a mark.

    It is read and not imported: other files need packages that are not here. A fixture of the same
    name in the file itself is another one.
    """
    nodes = list(ast.walk(ast.parse(text)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    shared = FIXTURES - {function.name for function in functions}
    used = {
        argument.arg
        for function in functions
        if function.name.startswith("test_")
        for argument in (*function.args.args, *function.args.kwonlyargs)
    }
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "usefixtures":
            used |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return bool(used & shared)


def environment() -> dict[str, str]:
    """In which the tests take the machine's own GPU."""
    return source_environment() | {"FASTBP_TEST_GPU": "1"}


def collect(deadline: Deadline) -> list[str]:
    """The names of all tests."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header"]
    done = subprocess.run(
        [*command, *test_files()],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=max(1.0, min(COLLECT_SECONDS, deadline.left())),
        check=False,
    )
    names = [line for line in done.stdout.splitlines() if line.startswith("tests/")]
    if done.returncode or not names:
        raise RuntimeError(f"the tests cannot be collected: {done.stdout[-500:]}{done.stderr}")
    return names


def read_outcomes(text: str) -> dict[str, str]:
    """From what ``pytest -v`` prints: how each test ended."""
    found: dict[str, str] = {}
    for name, outcome in OUTCOME.findall(text):
        if found.get(name) not in {"FAILED", "ERROR"}:  # an error of the teardown comes later
            found[name] = outcome
    return found


def reasons_from(text: str) -> dict[str, str]:
    """From the summary: why tests failed."""
    pattern = re.compile(r"^(?:FAILED|ERROR) (tests/.+?) - (.+)$", re.MULTILINE)
    return dict(pattern.findall(text))


def run_shards(
    shards: Sequence[Sequence[str]], deadline: Deadline
) -> tuple[dict[str, str], dict[str, str]]:
    """How the tests of each shard ended, and why some failed; a process for each shard."""
    command = [sys.executable, "-m", "pytest", "-v", "--no-header", "--tb=line", "-rfE"]
    outcomes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for i, shard in enumerate(shards):
            path = Path(folder) / f"{i}.txt"
            with path.open("w", encoding="utf-8") as output:
                process = subprocess.Popen(
                    [*command, "-p", "no:cacheprovider", *shard],
                    cwd=ROOT,
                    env=environment(),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            running.append((process, path))
        for process, path in running:
            try:
                process.wait(deadline.left())
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            text = path.read_text(encoding="utf-8", errors="replace")
            outcomes |= read_outcomes(text)
            reasons |= reasons_from(text)
    return outcomes, reasons


def run_device_tests(processes: int, deadline: Deadline) -> dict[str, Any]:
    """Run all of them; those that fail once more, one at a time, with the GPU to themselves.

    Returns
    -------
    dict
        ``counts`` of each outcome, ``failed`` with reasons, ``alone``: tests that passed in the
        second run alone, ``not_run``, and ``seconds``.
    """
    started = time.monotonic()
    names = collect(deadline)
    shards = [names[i::processes] for i in range(min(processes, len(names)))]
    outcomes, reasons = run_shards(shards, deadline)
    bad = {"FAILED", "ERROR"}
    failed = [name for name in names if outcomes.get(name) in bad]
    alone: list[str] = []
    if failed and deadline.left() > 5.0:
        again, more = run_shards([failed], deadline)
        alone = [name for name in failed if again.get(name) == "PASSED"]
        outcomes |= dict.fromkeys(alone, "PASSED")
        reasons |= more
    return {
        "counts": dict(Counter(outcomes.values())),
        "failed": {name: reasons.get(name, "") for name in names if outcomes.get(name) in bad},
        "alone": alone,
        "not_run": [name for name in names if name not in outcomes],
        "seconds": time.monotonic() - started,
    }
