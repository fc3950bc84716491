"""Training: epochs, validation, early stopping, progress. Everything here may be Python."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.arrays import as_inputs, as_targets, as_weights
from fastbp.backends.choose import create_engine, geometry, resolve_device, resolve_threads
from fastbp.backends.contract import Scalar, Status
from fastbp.errors import DivergenceError
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.optimizers import Adam, Optimizer
from fastbp.plan import build_plan
from fastbp.progress import NoProgress, resolve_progress
from fastbp.registry import finite, positive_integer
from fastbp.result import HISTORY_DTYPE, TrainResult
from fastbp.scaling import Scaling, prepare_inputs, prepare_targets
from fastbp.schedules import Constant, Schedule

__all__ = ["train"]

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


@dataclass(frozen=True)
class Data:
    """Checked arrays as the network sees them."""

    inputs: NDArray[Any]
    targets: NDArray[Any]
    weights: NDArray[Any] | None

    @property
    def rows(self) -> int:
        """Rows."""
        return int(self.inputs.shape[0])


def train(
    model: Model,
    X: Any,
    y: Any,
    loss: str | Loss = "mse",
    optimizer: str | Optimizer | None = None,
    epochs: int = 100,
    batch_size: int = 256,
    validation: None | float | tuple[Any, ...] = None,
    sample_weight: Any = None,
    schedule: str | Schedule | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    standardize: bool = False,
    shuffle: bool = True,
    seed: int = 0,
    patience: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: bool | None = None,
    callbacks: Iterable[Callback] = (),
) -> TrainResult:
    """Train a model in place by mini-batch gradient descent.

    For every batch, with weights w_i (1 without `sample_weight`)::

        objective = sum_i w_i loss_i / sum_i w_i + l1 sum|W| + l2/2 sum W**2
        gradient  = d objective / d parameters, scaled by min(1, clip_norm/|gradient|),
                    then each component clipped to [-clip_value, clip_value]
        parameters, slots = optimizer(parameters, gradient, slots)

    Parameters
    ----------
    model : Model
        Changed in place.
    X : array (rows, inputs)
        Any real dtype and layout; used in the model's precision.
    y : array (rows, outputs), or (rows,) for one output or integer labels
    loss : str or Loss
    optimizer : str or Optimizer, optional
        Adam(1e-3) by default.
    epochs : int
    batch_size : int
        The last batch of an epoch may be smaller. More than the rows means all of them.
    validation : None, float, or (X, y) or (X, y, sample_weight)
        A fraction in (0, 1) holds out that share of the rows, chosen by `seed`.
    sample_weight : array (rows,), optional
        Numbers of at least 0.
    schedule : str or Schedule, optional
        Of the learning rate; constant by default.
    clip_norm, clip_value : float, optional
        Above 0.
    l1, l2 : float
        Penalties on weights, not on biases.
    standardize : bool
        Fit means and scales of the inputs, and of the targets for losses on real targets, on the
        training rows, and keep them in the model. Otherwise a scaling that the model already has is
        used as it is.
    shuffle : bool
        Visit the rows in a new order each epoch, a function of `seed` and the epoch alone.
    seed : int
        Of the shuffle and of the held-out share.
    patience : int, optional
        Stop when the watched loss (validation, or training without validation data) has not fallen
        for so many epochs, and put the best parameters back.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    threads : int, optional
        The most threads; all by default. Results do not depend on it.
    progress : bool, optional
        True shows a bar.
    callbacks : iterable of callable
        Each is called as ``callback(row, model)`` after every epoch, with the epoch's row of the
        history; a true result stops training.

    Returns
    -------
    TrainResult

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, shape or range; nothing has been changed then.
    DeviceError
        For a device that is not to be had.
    DivergenceError
        When the loss or the gradient stops being finite; the model then has the parameters of the
        last finished epoch.

    Source: the chain rule as in Rumelhart, Hinton and Williams, Learning representations by
    back-propagating errors, 1986.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a Model; got {type(model).__name__}")
    settings = check_settings(
        loss, optimizer, schedule, epochs, batch_size, clip_norm, clip_value, l1, l2, shuffle,
        seed, patience, device, threads, callbacks,
    )
    if not isinstance(standardize, bool):
        raise TypeError(f"standardize: expected True or False; got {type(standardize).__name__}")
    display = resolve_progress(progress, settings.epochs)
    training, held_out, scaling = prepare_data(
        model, X, y, sample_weight, validation, standardize, settings
    )
    run = Run(model, settings, training, held_out, scaling)
    return run.train(display)


def check_settings(
    loss: str | Loss,
    optimizer: str | Optimizer | None,
    schedule: str | Schedule | None,
    epochs: int,
    batch_size: int,
    clip_norm: float | None,
    clip_value: float | None,
    l1: float,
    l2: float,
    shuffle: bool,
    seed: int,
    patience: int | None,
    device: str,
    threads: int | None,
    callbacks: Iterable[Callback],
) -> Settings:
    """Refuse what cannot be trained with."""
    for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if value is not None:
            finite(name, value, 0.0, open_low=True)
    finite("l1", l1, 0.0)
    finite("l2", l2, 0.0)
    if not isinstance(shuffle, bool):
        raise TypeError(f"shuffle: expected True or False; got {type(shuffle).__name__}")
    members = tuple(callbacks)
    for i, callback in enumerate(members):
        if not callable(callback):
            raise TypeError(f"callbacks[{i}]: expected a callable; got {type(callback).__name__}")
    return Settings(
        loss=Loss.resolve(loss),
        optimizer=Adam() if optimizer is None else Optimizer.resolve(optimizer),
        schedule=Constant() if schedule is None else Schedule.resolve(schedule),
        epochs=positive_integer("epochs", epochs),
        batch_size=positive_integer("batch_size", batch_size),
        clip_norm=None if clip_norm is None else float(clip_norm),
        clip_value=None if clip_value is None else float(clip_value),
        l1=float(l1),
        l2=float(l2),
        shuffle=shuffle,
        seed=positive_integer("seed", seed, low=0),
        patience=None if patience is None else positive_integer("patience", patience),
        device=resolve_device(device),
        threads=resolve_threads(threads),
        callbacks=members,
    )


def split_rows(rows: int, fraction: float, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Row numbers for training and for validation, each in ascending order."""
    finite("validation", fraction, 0.0, 1.0, open_low=True, open_high=True)
    held_out = round(rows * fraction)
    if not 0 < held_out < rows:
        raise ValueError(
            f"validation: expected a fraction that leaves rows on both sides of {rows}; "
            f"got {fraction}"
        )
    order = np.random.Generator(np.random.Philox(key=[seed % 2**64, 2**63])).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def prepare_data(
    model: Model,
    X: Any,
    y: Any,
    sample_weight: Any,
    validation: Any,
    standardize: bool,
    settings: Settings,
) -> tuple[Data, Data | None, Scaling | None]:
    """Check all arrays, hold out the validation part, fit the scaling on the rest."""
    features, outputs, dtype = model.network.inputs, model.network.outputs, model.dtype
    loss = settings.loss
    # With scaling the raw numbers are taken in float64 and rounded once, after the scaling.
    raw_dtype = np.float64 if standardize or model.scaling is not None else dtype
    inputs = as_inputs(X, features, raw_dtype)
    targets = as_targets(y, loss, inputs.shape[0], outputs, raw_dtype)
    weights = as_weights(sample_weight, inputs.shape[0], dtype)
    held_out: tuple[Any, Any, Any] | None = None
    if isinstance(validation, tuple | list):
        if len(validation) not in {2, 3}:
            raise ValueError(
                f"validation: expected (X, y) or (X, y, sample_weight); got {len(validation)} items"
            )
        held_out = (validation[0], validation[1], validation[2] if len(validation) > 2 else None)
    elif validation is not None:
        finite("validation", validation)
        train_rows, held_rows = split_rows(inputs.shape[0], float(validation), settings.seed)
        held_weights = None if weights is None else weights[held_rows]
        held_out = (inputs[held_rows], targets[held_rows], held_weights)
        inputs, targets = inputs[train_rows], targets[train_rows]
        weights = None if weights is None else as_weights(weights[train_rows], len(train_rows), dtype)
    scaling = model.scaling
    if standardize:
        scaling = Scaling.fit(inputs, targets if loss.targets == "real" else None, weights)

    def prepared(X: Any, y: Any, weight: Any, names: tuple[str, str, str]) -> Data:
        ready = prepare_inputs(X, features, dtype, scaling, names[0])
        rows = ready.shape[0]
        target = prepare_targets(y, loss, rows, outputs, dtype, scaling, names[1])
        return Data(ready, target, as_weights(weight, rows, dtype, names[2]))

    training = prepared(inputs, targets, weights, ("X", "y", "sample_weight"))
    if held_out is None:
        return training, None, scaling
    names = ("validation[0]", "validation[1]", "validation[2]")
    return training, prepared(*held_out, names), scaling


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
            network, "train", dtype, batch_rows, shapes,
            loss=settings.loss, optimizer=settings.optimizer, l1=settings.l1, l2=settings.l2,
            clip_norm=settings.clip_norm, clip_value=settings.clip_value,
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
            raise
        except BaseException:
            self.engine.store_parameters(model.parameters)
            raise
        seconds = time.perf_counter() - started
        use_best = settings.patience is not None
        model.parameters[...] = self.best if use_best else self.last_good
        return self.result(stopped_by, epochs, seconds, self.best_epoch if use_best else epochs)

    def run_epoch(self, epoch: int) -> np.void:
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
        return any([bool(callback(row, self.model)) for callback in self.settings.callbacks])

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
