"""Memory that is not given back: over training steps, and over calls that fail."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastbp as fb
from benchmarks.processes import ROOT, source_environment
from benchmarks.reliability.subjects import Outcome, Request

__all__ = ["check", "failing_calls", "readings_of"]

STEPS = 100_000
FAILURES = 10_000
READINGS = 10
BOUND = 1 << 20  # bytes
WARM_UP = 0.1  # of the work, before the first reading
PATIENCE = 600.0

METHOD = f"""\
In a fresh process each. The resident memory is the second number of /proc/self/statm, in pages,
read after `gc.collect()`. A tenth as much work as is measured goes before the first reading, so
that what is kept for good (compiled kernels, engines, the allocator's arenas) is there. Then follow
{READINGS} equal parts, with a reading after each; the growth is the largest of these readings less
the first. The steps are those of trainings with validation, clipping, standardisation and patience,
which are begun anew again and again; the failing calls go round through every kind of refusal
(shapes, NaN, names, settings, files, devices) and trainings that diverge."""


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def some_data() -> tuple[Any, Any]:
    """A small problem."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(1000, 6))
    return X, np.sin(X[:, 0]) + X[:, 1]


def train_steps(steps: int) -> None:
    """So many steps of training, in trainings of a thousand."""
    X, y = some_data()
    for number in range(max(steps // 1000, 1)):
        model = fb.Model(fb.mlp(6, 16, 1, activation="tanh"), seed=number)
        result = fb.train(
            model,
            X,
            y,
            optimizer=fb.Adam(1e-4),
            epochs=10,
            batch_size=8,
            validation=0.2,
            clip_norm=1.0,
            standardize=True,
            patience=20,
            seed=number,
        )
        if result.steps != 1000:
            raise RuntimeError(f"expected 1000 steps; got {result.steps}")


def failing_calls(folder: Path) -> list[Callable[[], Any]]:
    """Calls that must all fail, one of each kind."""
    X, y = some_data()
    X, y = X[:40], y[:40]
    model = fb.Model(fb.mlp(6, 16, 1, activation="tanh"))
    classifier = fb.Model(fb.mlp(6, 3))
    broken, infinite = X.copy(), y.copy()
    broken[7, 2], infinite[3] = np.nan, np.inf
    damaged, missing = folder / "damaged.safetensors", folder / "missing.safetensors"
    model.save(damaged)
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)

    def train(**keywords: Any) -> Any:
        arguments = {"X": X, "y": y, **keywords}
        return fb.train(model, arguments.pop("X"), arguments.pop("y"), **arguments)

    return [
        lambda: model.predict(X[:, :5]),
        lambda: model.predict(broken),
        lambda: model.predict(broken[7:8].astype("float32")),
        lambda: model.predict(X, out=np.empty((40, 1), "float64")),
        lambda: model.loss(X, y[:39]),
        lambda: model.loss_and_gradient(X, y, "mes"),
        lambda: model.loss_and_gradient(broken, y),
        lambda: model.input_gradient(X, infinite),
        lambda: model.vjp(X, np.ones((39, 1))),
        lambda: model.jacobian("no array"),
        lambda: classifier.loss(X, np.full(40, 3), "cross_entropy"),
        lambda: setattr(model, "parameters", [1.0]),
        lambda: train(X=broken),
        lambda: train(y=infinite, standardize=True),
        lambda: train(sample_weight=-np.ones(40)),
        lambda: train(optimizer="adamm"),
        lambda: train(loss="poisson"),
        lambda: train(validation=0.001),
        lambda: train(device="tpu"),
        lambda: train(epochs=0),
        lambda: train(schedule="cosine"),
        lambda: train(y=y * 1e20, optimizer=fb.SGD(1e30), epochs=3),  # diverges
        lambda: train(y=y * 1e18, optimizer=fb.SGD(1e30), epochs=3, clip_norm=1e30, batch_size=7),
        lambda: fb.load(damaged),
        lambda: fb.load(missing),
        lambda: fb.mlp(6, 0, 1),
        lambda: fb.Dense(3, "rellu"),
        lambda: fb.Adam(beta1=1.5),
    ]


def fail(calls: list[Callable[[], Any]], count: int) -> None:
    """So many failing calls, kind after kind."""
    for number in range(count):
        kind = number % len(calls)
        failed = False
        with contextlib.suppress(
            ValueError, TypeError, OSError, fb.DivergenceError, fb.CheckpointError
        ):
            calls[kind]()
            failed = True
        if failed:
            raise RuntimeError(f"call {kind} did not fail")


def measure(what: str, count: int) -> list[int]:
    """The readings in this process."""
    with tempfile.TemporaryDirectory() as folder:
        work: Callable[[int], None] = train_steps
        if what == "failures":
            calls = failing_calls(Path(folder))

            def work(count: int) -> None:
                fail(calls, count)

        return readings_of(work, count)


def readings_of(work: Callable[[int], None], count: int) -> list[int]:
    """The resident memory after a warm-up, and after each part of so much work."""
    work(max(round(WARM_UP * count), 30))
    readings = [resident()]
    for _ in range(READINGS):
        work(max(count // READINGS, 1))
        readings.append(resident())
    return readings


def in_a_process(what: str, count: int) -> list[int]:
    """The readings in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability.memory", what, str(count)],
        env=source_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{what}: {done.stderr.strip()[-500:]}")
    readings: list[int] = json.loads(done.stdout.strip().splitlines()[-1])
    return readings


def check(request: Request) -> Outcome:
    """100,000 steps and 10,000 failing calls, or as many as the scale says."""
    counts = {
        "steps": request.count(STEPS, least=READINGS * 1000),
        "failures": request.count(FAILURES, least=READINGS * 28),
    }
    words = {"steps": "training steps", "failures": "failing calls"}
    growth, figures, broken, lines = {}, {}, [], []
    for what, count in counts.items():
        readings = in_a_process(what, count)
        growth[what] = max(readings[1:]) - readings[0]
        figures[what] = {"count": count, "growth_bytes": growth[what], "readings": readings}
        kilobytes = ", ".join(f"{(each - readings[0]) / 1024:.0f}" for each in readings[1:])
        lines.append(
            f"- {count:,} {words[what]}: {readings[0] / 2**20:.1f} MiB at first, then more by "
            f"{kilobytes} KiB"
        )
        if growth[what] > BOUND:
            broken.append(f"{words[what]}: {growth[what] / 2**20:.2f} MiB more")
        request.say(f"  {count:,} {words[what]}: {growth[what] / 1024:.0f} KiB more")
    return Outcome(
        promise="A process that trains, or fails, for long takes no more memory: at most 1 MiB.",
        cases=sum(counts.values()),
        unit="steps and failing calls",
        result=f"{growth['steps'] / 1024:.0f} KiB more after steps, "
        f"{growth['failures'] / 1024:.0f} KiB after failing calls",
        method=METHOD,
        lines=lines,
        figures=figures,
        broken=broken,
    )


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
