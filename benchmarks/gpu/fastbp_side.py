"""fastbp as a contestant, through its public API alone, and the losses that others must have."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Sequence
from typing import Any

import fastbp as fb
from benchmarks.fastbp_side import make_model
from benchmarks.gpu.contest import LEAST_REPETITIONS, contend, grouped
from benchmarks.gpu.helpers import Skipped
from benchmarks.gpu.rows import ROWS, Row, data_for

__all__ = ["COMMANDS", "Contestant"]

OPTIMIZERS = {"adam": fb.Adam, "sgd": fb.SGD}
MANY = 1_000_000  # epochs, of which the clock stops the last ones


class Stopwatch:
    """A callback that takes the time after every epoch, and stops when the time is up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stamps: list[float] = []

    def __call__(self, row: Any, model: fb.Model) -> bool:
        self.stamps.append(time.perf_counter())
        is_over = self.stamps[-1] - self.stamps[0] > self.seconds
        return is_over and len(self.stamps) > LEAST_REPETITIONS

    def times(self) -> list[float]:
        """Of every epoch but the first, from one call to the next."""
        return [b - a for a, b in zip(self.stamps, self.stamps[1:], strict=False)]


class Contestant:
    """Trains with `fb.train`; the data lie on the device throughout the epochs of a call."""

    def __init__(self, row: Row, device: str = "cuda") -> None:
        self.row, self.device = row, device
        self.settings: dict[str, Any] = {}
        if row.precision != "float32":
            if "precision" not in inspect.signature(fb.train).parameters:
                raise Skipped("fb.train has no keyword precision")
            self.settings["precision"] = row.precision
        self.X, self.y = data_for(row.work)
        self.model = make_model(row.work)

    def train(self, rows: int, **settings: Any) -> fb.TrainResult:
        """Train on the first rows."""
        work = self.row.work
        return fb.train(
            self.model,
            self.X[:rows],
            self.y[:rows],
            loss=work.loss,
            optimizer=OPTIMIZERS[work.optimizer](work.learning_rate),
            batch_size=work.batch_size,
            device=self.device,
            threads=1,  # on the processor, where others work out other losses meanwhile
            progress=False,
            **self.settings,
            **settings,
        )

    def loss_after(self) -> tuple[float, float]:
        """The loss before and after the steps of the check, both worked out on the processor."""
        row = self.row
        X, y = self.X[: row.check_rows], self.y[: row.check_rows]
        self.model = make_model(row.work)
        before = self.model.loss(X, y, row.work.loss)
        self.train(row.check_rows, epochs=row.check_epochs, shuffle=False)
        return before, self.model.loss(X, y, row.work.loss)

    def times(self, seconds: float) -> list[float]:
        """Seconds of an epoch, all that Python does in it included."""
        watch = Stopwatch(seconds)
        self.train(self.row.work.rows, epochs=MANY, callbacks=[watch])
        return grouped(watch.times())


def compete(row: str, expected: Sequence[float], seconds: float) -> dict[str, Any]:
    """Check and time fastbp."""
    return contend(lambda: Contestant(ROWS[row]), ROWS[row], expected, seconds)


def reference(row: str) -> dict[str, Any]:
    """The losses that every contestant must have: those of float32 on the processor."""
    exact = dataclasses.replace(ROWS[row], precision="float32")
    before, after = Contestant(exact, "cpu").loss_after()
    return {"losses": [before, after]}


def compile_kernels(row: str) -> dict[str, Any]:
    """One step on the GPU, after which all kernels of the row are in the cache."""
    started = time.perf_counter()
    found = ROWS[row]
    one = dataclasses.replace(found.work, rows=found.work.batch_size)
    Contestant(dataclasses.replace(found, work=one)).train(one.rows, epochs=1)
    return {"seconds": time.perf_counter() - started}


COMMANDS = {"compete": compete, "reference": reference, "compile": compile_kernels}
