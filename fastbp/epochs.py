"""The epochs of a training run: batches, validation, early stopping, history."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.choose import create_engine, geometry
from fastbp.backends.contract import Scalar, Status
from fastbp.datasets import Data
from fastbp.errors import DeviceError, DivergenceError
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.optimizers import Optimizer
from fastbp.plan import build_plan
from fastbp.progress import NoProgress
from fastbp.result import HISTORY_DTYPE, TrainResult
from fastbp.scaling import Scaling
from fastbp.schedules import Schedule

__all__ = ["Callback", "Run", "Settings"]

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
    precision: str
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
        network, dtype = model.network, model.dtype
        shapes = geometry(settings.device, network, dtype, settings.precision)
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
        self.engine: Any = None
        self.evaluator: Any = None
        self.rates: NDArray[np.float64] | None = None
        self.history: list[np.void] = []
        self.watched: list[float] = []
        self.best_epoch = 0
        self.training_seconds = 0.0
        try:
            self.engine = create_engine(plan, settings.device, settings.threads)
            if held_out is not None:
                rows = min(held_out.rows, EVALUATION_ROWS)
                evaluation = build_plan(
                    network, "evaluate", dtype, rows, shapes, loss=settings.loss
                )
                self.evaluator = create_engine(
                    evaluation, settings.device, settings.threads, {"parameters": self.engine}
                )
                bind(self.evaluator, held_out)
            bind(self.engine, training)
            # A GPU's engine takes memory only now, when it knows of all that will need some.
            self.engine.load_parameters(model.parameters)
            # Copies of the engine's parameters: of the best epoch, the last one, one to write to.
            self.best, self.last_good, self.current = (self.engine.snapshot() for _ in range(3))
        except BaseException:  # whoever keeps the exception would keep the engines' memory, too
            self.close()
            raise

    def train(self, display: NoProgress) -> TrainResult:
        """Run the epochs; the model has usable parameters however this ends."""
        model, settings = self.model, self.settings
        scaling_before = model.scaling
        model.scaling = self.scaling
        stopped_by = "epochs"
        started = time.perf_counter()
        epochs = 0
        try:
            for epoch in range(settings.epochs):
                row = self.run_epoch(epoch)
                epochs = epoch + 1
                self.remember_best(epoch)
                speed = self.training.rows * epochs / max(self.training_seconds, 1e-9)
                display.update(row, speed)
                if self.stopped_by_callback(row):
                    stopped_by = "callback"
                    break
                if self.out_of_patience(epoch):
                    stopped_by = "patience"
                    break
        except (DivergenceError, DeviceError):
            self.engine.store_parameters(model.parameters, self.last_good)
            if epochs == 0:  # the parameters are still those that went with the old scaling
                model.scaling = scaling_before
            raise
        except BaseException:
            self.engine.store_parameters(model.parameters)
            if self.engine.scalars[Scalar.STEP] == 0:
                model.scaling = scaling_before
            raise
        finally:
            self.close()
        seconds = time.perf_counter() - started
        use_best = settings.patience is not None
        self.engine.store_parameters(model.parameters, self.best if use_best else self.last_good)
        return self.result(stopped_by, epochs, seconds, self.best_epoch if use_best else epochs)

    def close(self) -> None:
        """Give back what the engines hold besides themselves; the copies of parameters stay."""
        for engine in (self.evaluator, self.engine):
            if engine is not None:
                engine.close()

    def run_epoch(self, epoch: int) -> Any:
        """One epoch and its validation; returns its row of the history."""
        settings, engine = self.settings, self.engine
        started = time.perf_counter()
        rates = self.learning_rates(epoch)
        engine.begin_epoch(
            self.training.rows,
            # One batch of all rows has the same gradient in any order.
            shuffle_seed=settings.seed if settings.shuffle and self.steps_per_epoch > 1 else None,
            epoch=epoch,
            learning_rates=rates,
            mask_seed=settings.seed,
        )
        status, done = engine.run_in_calls(self.steps_per_epoch)
        if status is not Status.DONE:
            quantity = "loss" if status is Status.LOSS_NOT_FINITE else "gradient"
            self.diverged(quantity, epoch, done)
        self.training_seconds += time.perf_counter() - started
        engine.snapshot(self.current)
        if not all_finite(self.current):
            self.diverged("parameter", epoch, self.steps_per_epoch - 1)
        values = (
            epoch + 1,
            engine.scalars[Scalar.LOSS_SUM] / self.steps_per_epoch,
            self.validate(epoch),
            rates[0],
            engine.scalars[Scalar.NORM_SUM] / self.steps_per_epoch,
            time.perf_counter() - started,
        )
        row = np.array([values], dtype=HISTORY_DTYPE)[0]
        self.history.append(row)
        self.last_good, self.current = self.current, self.last_good
        watch = "loss" if self.held_out is None else "validation_loss"
        self.watched.append(float(row[watch]))
        return row

    def learning_rates(self, epoch: int) -> NDArray[np.float64]:
        """The learning rate of every step of an epoch."""
        if self.rates is None or not self.settings.schedule.is_same_every_epoch:
            first = epoch * self.steps_per_epoch
            steps = np.arange(first, first + self.steps_per_epoch, dtype=np.float64)
            self.rates = self.settings.optimizer.learning_rate * self.factors(steps)
        return self.rates

    def factors(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """The schedule's factors, checked: a schedule may be the user's own."""
        schedule, total = self.settings.schedule, self.steps_per_epoch * self.settings.epochs
        found = schedule.factors(steps, self.steps_per_epoch, total, self.watched)
        factors = np.array(found, dtype=np.float64)
        if factors.shape != steps.shape:
            raise ValueError(
                f"schedule: expected {schedule.name} to give factors of shape {steps.shape}; "
                f"got {factors.shape}"
            )
        if not (np.isfinite(factors) & (factors >= 0)).all():
            raise ValueError(
                f"schedule: expected {schedule.name} to give finite factors of at least 0; "
                f"got {factors[~(np.isfinite(factors) & (factors >= 0))][0]}"
            )
        return factors

    def validate(self, epoch: int) -> float:
        """The validation loss, or NaN without validation data."""
        if self.evaluator is None or self.held_out is None:
            return math.nan
        self.evaluator.run_all(self.held_out.rows)
        sums = self.evaluator.scalars
        loss = float(sums[Scalar.WEIGHTED_LOSS_SUM] / sums[Scalar.WEIGHT_SUM])
        if not math.isfinite(loss):
            self.diverged("validation loss", epoch, self.steps_per_epoch - 1)
        return loss

    def diverged(self, quantity: str, epoch: int, batch: int) -> None:
        step = epoch * self.steps_per_epoch + batch + 1
        kept = "initial parameters" if epoch == 0 else f"parameters of epoch {epoch}"
        raise DivergenceError(
            f"the {quantity} is no longer finite at step {step} (epoch {epoch + 1}); the "
            f"model has the {kept}. A smaller learning rate, clip_norm, or standardize=True helps.",
            epoch=epoch + 1,
            step=step,
            quantity=quantity,
        )

    def remember_best(self, epoch: int) -> None:
        if self.best_epoch == 0 or self.watched[-1] < self.watched[self.best_epoch - 1]:
            self.best_epoch = epoch + 1
            if self.settings.patience is not None:
                self.best[...] = self.last_good

    def stopped_by_callback(self, row: np.void) -> bool:
        if not self.settings.callbacks:
            return False
        self.engine.store_parameters(self.model.parameters, self.last_good)
        answers = [callback(row, self.model) for callback in self.settings.callbacks]
        return any(answers)

    def out_of_patience(self, epoch: int) -> bool:
        patience = self.settings.patience
        return patience is not None and epoch + 1 - self.best_epoch >= patience

    def result(self, stopped_by: str, epochs: int, seconds: float, best_epoch: int) -> TrainResult:
        history = np.array(self.history, dtype=HISTORY_DTYPE)
        kept = "" if best_epoch == epochs else f" The parameters are those of epoch {best_epoch}."
        messages = {
            "epochs": f"All {epochs} epochs were run.{kept}",
            "patience": f"The watched loss did not fall for {self.settings.patience} epochs.{kept}",
            "callback": f"A callback stopped training after epoch {epochs}.{kept}",
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
            threads=self.settings.threads if self.engine.pace.prefers_parallel else 1,
            history=history,
        )


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite.

    A sum takes a fraction of the time of looking at each, and is finite only if all of them are;
    it may also be infinite because it is large.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())


def bind(engine: Any, data: Data) -> None:
    """Point an engine at some data."""
    engine.bind("data.inputs", data.inputs, data.sources.get("inputs"))
    engine.bind("data.targets", data.targets, data.sources.get("targets"))
    engine.bind("data.weights", data.weights)
