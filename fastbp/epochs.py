"""The epochs of a training run: batches, validation, early stopping, history."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp.backends.choose import create_engine, geometry
from fastbp.backends.contract import Scalar, Status
from fastbp.datasets import Data
from fastbp.errors import DivergenceError
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.optimizers import Optimizer
from fastbp.plan import build_plan
from fastbp.progress import NoProgress
from fastbp.result import HISTORY_DTYPE, TrainResult
from fastbp.scaling import Scaling
from fastbp.schedules import Schedule

__all__ = ["Callback", "Run", "Settings"]

# An epoch is cut into calls of about this many seconds, so that Ctrl-C lands soon.
CALL_SECONDS = 0.04
EVALUATION_ROWS = 1024

Callback = Callable[[np.void, Model], Any]


@dataclass(frozen=True)
class Settings:
    """The checked arguments of `train`."""

    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    epochs: int
    batch_size: int
    clip_norm: float | None
    clip_value: float | None
    l1: float
    l2: float
    shuffle: bool
    seed: int
    patience: int | None
    device: str
    threads: int
    callbacks: tuple[Callback, ...]


class Run:
    """One call of `train`: the engines, the history, and what to watch."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        training: Data,
        held_out: Data | None,
        scaling: Scaling | None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.training = training
        self.held_out = held_out
        self.scaling = scaling
        batch_rows = min(settings.batch_size, training.rows)
        self.steps_per_epoch = -(-training.rows // batch_rows)
        network, dtype, shapes = model.network, model.dtype, geometry(settings.device)
        plan = build_plan(
            network,
            "train",
            dtype,
            batch_rows,
            shapes,
            loss=settings.loss,
            optimizer=settings.optimizer,
            l1=settings.l1,
            l2=settings.l2,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
        )
        self.engine = create_engine(plan, settings.device, settings.threads)
        self.evaluator = None
        if held_out is not None:
            rows = min(held_out.rows, EVALUATION_ROWS)
            evaluation = build_plan(network, "evaluate", dtype, rows, shapes, loss=settings.loss)
            self.evaluator = create_engine(
                evaluation, settings.device, settings.threads, {"parameters": self.engine}
            )
            bind(self.evaluator, held_out)
        bind(self.engine, training)
        self.calls = 1  # batches in one call of the driver
        self.history = np.zeros(settings.epochs, dtype=HISTORY_DTYPE)
        self.watched: list[float] = []
        self.best = model.parameters.copy()
        self.best_epoch = 0
        self.last_good = model.parameters.copy()
        self.training_seconds = 0.0

    def train(self, display: NoProgress) -> TrainResult:
        """Run the epochs; the model has usable parameters however this ends."""
        model, settings = self.model, self.settings
        scaling_before = model.scaling
        self.engine.load_parameters(model.parameters)
        model.scaling = self.scaling
        stopped_by = "epochs"
        started = time.perf_counter()
        epochs = 0
        try:
            with display:
                for epoch in range(settings.epochs):
                    row = self.run_epoch(epoch)
                    epochs = epoch + 1
                    self.engine.store_parameters(self.last_good)
                    self.remember_best(epoch)
                    speed = self.training.rows * epochs / max(self.training_seconds, 1e-9)
                    display.update(row, speed)
                    if self.stopped_by_callback(row):
                        stopped_by = "callback"
                        break
                    if self.out_of_patience(epoch):
                        stopped_by = "patience"
                        break
        except DivergenceError:
            model.parameters[...] = self.last_good
            if epochs == 0:  # the parameters are still those that went with the old scaling
                model.scaling = scaling_before
            raise
        except BaseException:
            self.engine.store_parameters(model.parameters)
            raise
        seconds = time.perf_counter() - started
        use_best = settings.patience is not None
        model.parameters[...] = self.best if use_best else self.last_good
        return self.result(stopped_by, epochs, seconds, self.best_epoch if use_best else epochs)

    def run_epoch(self, epoch: int) -> Any:
        """One epoch and its validation; returns its row of the history."""
        settings, engine = self.settings, self.engine
        started = time.perf_counter()
        total = self.steps_per_epoch * settings.epochs
        first = epoch * self.steps_per_epoch
        steps = np.arange(first, first + self.steps_per_epoch, dtype=np.float64)
        factors = settings.schedule.factors(steps, self.steps_per_epoch, total, self.watched)
        rates = np.ascontiguousarray(settings.optimizer.learning_rate * factors, dtype=np.float64)
        engine.begin_epoch(
            self.training.rows,
            shuffle_seed=settings.seed if settings.shuffle else None,
            epoch=epoch,
            learning_rates=rates,
        )
        self.run_batches(epoch)
        self.training_seconds += time.perf_counter() - started
        row = self.history[epoch]
        row["epoch"] = epoch + 1
        row["loss"] = engine.scalars[Scalar.LOSS_SUM] / self.steps_per_epoch
        row["gradient_norm"] = engine.scalars[Scalar.NORM_SUM] / self.steps_per_epoch
        row["learning_rate"] = rates[0]
        row["validation_loss"] = self.validate(epoch)
        row["seconds"] = time.perf_counter() - started
        watch = "loss" if self.held_out is None else "validation_loss"
        self.watched.append(float(row[watch]))
        return row

    def run_batches(self, epoch: int) -> None:
        """All batches of an epoch, in calls short enough for Ctrl-C."""
        done = 0
        while done < self.steps_per_epoch:
            last = min(done + self.calls, self.steps_per_epoch)
            started = time.perf_counter()
            status, completed = self.engine.run(done, last)
            elapsed = time.perf_counter() - started
            if status is not Status.DONE:
                self.diverged(status, epoch, done + completed)
            if last - done == self.calls:  # a full call: aim the next one at CALL_SECONDS
                ratio = CALL_SECONDS / max(elapsed, 1e-6)
                self.calls = max(1, int(self.calls * min(max(ratio, 0.25), 8.0)))
            done = last

    def validate(self, epoch: int) -> float:
        """The validation loss, or NaN without validation data."""
        if self.evaluator is None or self.held_out is None:
            return math.nan
        status = self.evaluator.run_all(self.held_out.rows)
        if status is not Status.DONE:
            self.diverged(status, epoch, self.steps_per_epoch - 1, "validation ")
        sums = self.evaluator.scalars
        return float(sums[Scalar.WEIGHTED_LOSS_SUM] / sums[Scalar.WEIGHT_SUM])

    def diverged(self, status: Status, epoch: int, batch: int, which: str = "") -> None:
        quantity = "loss" if status is Status.LOSS_NOT_FINITE else "gradient"
        step = epoch * self.steps_per_epoch + batch + 1
        kept = "initial parameters" if epoch == 0 else f"parameters of epoch {epoch}"
        raise DivergenceError(
            f"the {which}{quantity} is no longer finite at step {step} (epoch {epoch + 1}); the "
            f"model has the {kept}. A smaller learning rate, clip_norm, or standardize=True helps.",
            epoch=epoch + 1,
            step=step,
            quantity=quantity,
        )

    def remember_best(self, epoch: int) -> None:
        if self.best_epoch == 0 or self.watched[-1] < self.watched[self.best_epoch - 1]:
            self.best_epoch = epoch + 1
            self.best[...] = self.last_good

    def stopped_by_callback(self, row: np.void) -> bool:
        if not self.settings.callbacks:
            return False
        self.model.parameters[...] = self.last_good
        answers = [callback(row, self.model) for callback in self.settings.callbacks]
        return any(answers)

    def out_of_patience(self, epoch: int) -> bool:
        patience = self.settings.patience
        return patience is not None and epoch + 1 - self.best_epoch >= patience

    def result(self, stopped_by: str, epochs: int, seconds: float, best_epoch: int) -> TrainResult:
        history = self.history[:epochs].copy()
        messages = {
            "epochs": f"All {epochs} epochs were run.",
            "patience": f"The watched loss did not fall for {self.settings.patience} epochs; the "
            f"parameters are those of epoch {best_epoch}.",
            "callback": f"A callback stopped training after epoch {epochs}.",
        }
        return TrainResult(
            success=True,
            message=messages[stopped_by],
            stopped_by=stopped_by,
            loss=float(history["loss"][-1]),
            validation_loss=float(history["validation_loss"][best_epoch - 1]),
            best_epoch=best_epoch,
            epochs=epochs,
            steps=epochs * self.steps_per_epoch,
            seconds=seconds,
            samples_per_second=self.training.rows * epochs / max(self.training_seconds, 1e-9),
            device=self.settings.device,
            threads=self.settings.threads if self.engine.parallel else 1,
            history=history,
        )


def bind(engine: Any, data: Data) -> None:
    """Point an engine at some data."""
    engine.bind("data.inputs", data.inputs)
    engine.bind("data.targets", data.targets)
    engine.bind("data.weights", data.weights)
