"""The epochs of a training run: batches, validation, early stopping, history, checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.contract import Scalar, Status
from fastbp.checkpoint import write_run_file
from fastbp.datasets import Data
from fastbp.divergence import (
    RUNAWAY,
    all_finite,
    divergence_error,
    layer_of_gradient,
    layer_of_outputs,
    layer_of_parameters,
    usual_loss,
)
from fastbp.errors import DeviceError, DivergenceError
from fastbp.model import Model
from fastbp.progress import NoProgress
from fastbp.result import History, TrainResult, summarize
from fastbp.run_engines import RunEngines
from fastbp.run_state import RunState, check_engine, describe_data, read_state, state_file
from fastbp.scaling import Scaling
from fastbp.settings import Settings

__all__ = ["Run"]


@dataclass(frozen=True)
class Reached:
    """What a run has reached after some whole epochs. Replaced in one assignment, never changed.

    So an exception at any moment finds parameters, history and epoch that belong together.

    Attributes
    ----------
    epochs : int
        Finished; the history may already have a row of the next one.
    best_epoch : int
    kept, best : array
        Snapshots of the parameters, of the last epoch and of the best one.
    """

    epochs: int
    best_epoch: int
    kept: NDArray[Any]
    best: NDArray[Any]


class Run:
    """One call of `train`: the engines, the history, and what to watch.

    Parameters
    ----------
    model : Model
    settings : Settings
    training : Data
    held_out : Data or None
    scaling : Scaling or None
        That the model will have.

    Raises
    ------
    DeviceError
        For a device that is not to be had or has too little memory.
    CheckpointError
        If the run is to be resumed and its checkpoint is damaged or of another run.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        training: Data,
        held_out: Data | None,
        scaling: Scaling | None,
    ) -> None:
        self.model, self.settings, self.training = model, settings, training
        self.scaling, self.scaling_before = scaling, model.scaling
        self.steps_per_epoch = -(-training.rows // min(settings.batch_size, training.rows))
        self.rates: NDArray[np.float64] = np.zeros(0)  # of the epoch
        self.history = History(model.network)
        self.watched: list[float] = []
        self.training_seconds, self.seconds_before = 0.0, 0.0
        self.stopped_by: str | None = None
        self.sums: NDArray[np.float64] | None = None  # of an epoch that a checkpoint cut in two
        self.data = describe_data(training, held_out) if settings.checkpoint else {}
        state = None
        if settings.resume:
            state = read_state(model, settings, self.data, self.history.dtype)
        self.engines = RunEngines(model, settings, training, held_out, scaling)
        try:
            # A GPU's engine takes memory only now, when it knows of all that will need some.
            self.engines.load_parameters(model.parameters)
            self.start = self.engines.snapshot()
            self.buffers = [self.start]
            self.reached = Reached(0, 0, self.start, self.start)
            if state is not None:
                self.restore(state)
        except BaseException:  # whoever keeps the exception would keep the engines' memory, too
            self.close()
            raise

    def close(self) -> None:
        """Give back what the engines hold besides themselves."""
        self.engines.close()

    # The run.

    def train(self, display: NoProgress) -> TrainResult:
        """Run the epochs; the model has usable parameters however this ends."""
        model = self.model
        self.started = self.saved_at = time.perf_counter()
        self.saved_epochs = self.reached.epochs
        try:
            while self.stopped_by is None:
                row = self.run_epoch()
                speed = self.training.rows * self.reached.epochs / max(self.training_seconds, 1e-9)
                display.update(row, speed)
                self.stopped_by = self.ending(row)
                self.save_if_due()
            if self.settings.checkpoint is not None:
                self.save()
            self.keep(self.final_parameters)
            return self.result()
        except DivergenceError as error:
            is_stopped = self.settings.on_divergence == "stop"
            self.keep(self.final_parameters if is_stopped else self.reached.kept)
            error.parameters = model.parameters.copy()
            if not is_stopped:
                raise
            self.stopped_by = "divergence"
            return self.result(str(error))
        except DeviceError:
            self.keep(self.reached.kept)
            raise
        except BaseException as error:
            self.leave(error)
            raise
        finally:
            self.close()

    @property
    def final_parameters(self) -> NDArray[Any]:
        """The snapshot whose parameters the model gets at the end."""
        return self.reached.kept if self.settings.patience is None else self.reached.best

    @property
    def steps(self) -> int:
        """Steps of the whole run that are done."""
        return int(self.engines.engine.scalars[Scalar.STEP])

    def keep(self, snapshot: NDArray[Any]) -> None:
        """Give the model the parameters of a snapshot, and the scaling that goes with them."""
        parameters, scaling = self.model.parameters, self.scaling
        flat = np.empty_like(parameters)
        self.engines.store_parameters(flat, snapshot)
        if snapshot is self.start and self.reached.epochs == 0:
            scaling = self.scaling_before
        parameters[...] = flat  # no call after this: an interrupt would come between the two
        self.model.scaling = scaling

    def leave(self, error: BaseException) -> None:
        """The parameters of the last whole batch, and with a checkpoint the run as it stands."""
        snapshot = self.engines.snapshot()
        is_whole = all_finite(snapshot)
        kept = snapshot if is_whole else self.reached.kept
        self.keep(kept if self.steps > 0 else self.start)
        checkpoint = self.settings.checkpoint
        if checkpoint is None or not isinstance(error, KeyboardInterrupt) or not is_whole:
            return
        try:
            if self.steps == (self.reached.epochs + 1) * self.steps_per_epoch:
                self.end_epoch(self.reached.epochs)  # what it looks at is in no file
            self.save()
            path, steps = checkpoint.path, self.steps
            error.add_note(f"{path} has the run up to step {steps}; resume=True goes on from it")
        except (OSError, DivergenceError) as failure:
            error.add_note(f"the run could not be saved: {failure}")

    def ending(self, row: np.void) -> str | None:
        """What the run ends by after an epoch, if by anything."""
        if self.settings.callbacks:
            self.keep(self.reached.kept)
            answers = [callback(row, self.model) for callback in self.settings.callbacks]
            if any(answers):
                return "callback"
        return self.limit()

    def limit(self) -> str | None:
        """What ends the run after the last finished epoch, by the settings alone."""
        settings, epochs = self.settings, self.reached.epochs
        if settings.patience is not None and epochs - self.reached.best_epoch >= settings.patience:
            return "patience"
        return "epochs" if epochs >= settings.epochs else None

    # An epoch.

    def run_epoch(self) -> np.void:
        """One epoch, or the rest of one, and its validation; returns its row of the history."""
        settings, engine = self.settings, self.engines.engine
        epoch = self.reached.epochs
        self.epoch_started = time.perf_counter()
        engine.begin_epoch(
            self.training.rows,
            # One batch of all rows has the same gradient in any order.
            shuffle_seed=settings.seed if settings.shuffle and self.steps_per_epoch > 1 else None,
            mask_seed=settings.seed,
            epoch=epoch,
            learning_rates=self.learning_rates(epoch),
        )
        if self.sums is not None:
            engine.load_scalars(self.sums)
            self.sums = None
        self.run_batches(epoch)
        self.training_seconds += time.perf_counter() - self.epoch_started
        return self.end_epoch(epoch)

    def end_epoch(self, epoch: int) -> np.void:
        """What follows an epoch's last batch; up to its last line it may be done again."""
        engine, steps = self.engines.engine, self.steps_per_epoch
        snapshot = self.engines.snapshot(self.free_buffer())
        if not all_finite(snapshot):
            self.diverged("parameter", steps * (epoch + 1))
        row = self.history.row(epoch)
        if self.engines.is_due(epoch, steps):
            self.engines.fill_statistics(row)
        validation_loss, metric = self.engines.validate(snapshot)
        if self.engines.held_out is not None and not math.isfinite(validation_loss):
            self.diverged("validation loss", steps * (epoch + 1))
        row["epoch"] = epoch + 1
        row["loss"] = engine.scalars[Scalar.LOSS_SUM] / steps
        row["validation_loss"], row["metric"] = validation_loss, metric
        row["learning_rate"] = self.rates[0]
        row["gradient_norm"] = engine.scalars[Scalar.NORM_SUM] / steps
        row["seconds"] = time.perf_counter() - self.epoch_started
        self.finish_epoch(row, snapshot)
        return row

    def finish_epoch(self, row: np.void, snapshot: NDArray[Any]) -> None:
        """Make an epoch part of what was reached."""
        reached, epochs = self.reached, self.reached.epochs + 1
        watched = self.settings.monitor.watched(row)
        del self.watched[epochs - 1 :]
        self.watched.append(watched)
        is_best = reached.best_epoch == 0 or watched < self.watched[reached.best_epoch - 1]
        best_epoch, best = (epochs, snapshot) if is_best else (reached.best_epoch, reached.best)
        self.reached = Reached(epochs, best_epoch, snapshot, best)

    def free_buffer(self) -> NDArray[Any] | None:
        """One of the buffers for snapshots that holds none of those that count."""
        used = (self.reached.kept, self.reached.best)
        free = [buffer for buffer in self.buffers if not any(buffer is each for each in used)]
        if not free:
            free = [np.empty_like(self.start)]
            self.buffers += free
        return free[0]

    def run_batches(self, epoch: int) -> None:
        """The batches of an epoch that are left."""
        count = self.steps_per_epoch
        if self.steps == 0:
            self.run_until(epoch, 1)
            self.limit_loss()
        if self.engines.is_due(epoch, count):
            self.run_until(epoch, count - 1)
            self.engines.prepare_statistics()
        self.run_until(epoch, count)

    def run_until(self, epoch: int, last: int) -> None:
        """Run batches of the epoch until so many are done."""
        done = self.steps - epoch * self.steps_per_epoch
        status, done = self.engines.engine.run_in_calls(last, done, self.save_if_due)
        if status is not Status.DONE:
            self.diverged(
                "loss" if status is Status.LOSS_NOT_FINITE else "gradient",
                epoch * self.steps_per_epoch + done + 1,
            )

    def learning_rates(self, epoch: int) -> NDArray[np.float64]:
        """The learning rate of every step of an epoch."""
        if not len(self.rates) or not self.settings.schedule.is_same_every_epoch:
            watched = self.watched[: self.reached.epochs]
            factors = self.settings.schedule.checked_factors(
                epoch, self.settings.epochs, self.steps_per_epoch, watched
            )
            self.rates = self.settings.optimizer.learning_rate * factors
        return self.rates

    # Divergence.

    def limit_loss(self) -> None:
        """Set what no later batch's loss may exceed, by the first batch and by the targets."""
        engine, targets = self.engines.engine, self.training.targets
        usual = usual_loss(self.settings.loss, targets, self.model.network.outputs)
        reference = max(abs(float(engine.scalars[Scalar.LOSS])), usual)
        engine.scalars[Scalar.LOSS_LIMIT] = RUNAWAY * reference if reference > 0 else np.inf
        engine.load_scalars(engine.scalars)

    def diverged(self, quantity: str, step: int) -> NoReturn:
        """Say what is no longer finite, or too large, and where."""
        engines, network, epoch = self.engines, self.model.network, self.reached.epochs
        layer = None
        if quantity == "parameter":
            engines.engine.store_parameters(engines.flat)
            layer = layer_of_parameters(network, engines.flat)
        elif quantity == "gradient":
            layer = layer_of_gradient(engines.statistics.gradient_norms())
        elif quantity == "loss":
            batch = step - 1 - epoch * self.steps_per_epoch
            layer = layer_of_outputs(engines.engine, network, batch, self.training.rows)
        raise divergence_error(
            quantity,
            layer,
            step,
            epoch + 1,
            loss=float(engines.engine.scalars[Scalar.LOSS]),
            limit=float(engines.engine.scalars[Scalar.LOSS_LIMIT]),
        )

    # Checkpoints.

    def save_if_due(self) -> None:
        """Write the checkpoint, if there is one and it is time; at a batch boundary."""
        checkpoint = self.settings.checkpoint
        if checkpoint is None:
            return
        epochs = self.reached.epochs - self.saved_epochs
        if checkpoint.is_due(epochs, time.perf_counter() - self.saved_at):
            self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        assert self.settings.checkpoint is not None
        content = state_file(self.model, self.scaling, self.state(), self.settings, self.data)
        write_run_file(self.settings.checkpoint.path, content)
        self.saved_at, self.saved_epochs = time.perf_counter(), self.reached.epochs

    def state(self) -> RunState:
        """Where the run stands."""
        reached = self.reached
        kept, best = np.empty((2, *self.model.parameters.shape), self.model.dtype)
        self.engines.store_parameters(kept, reached.kept)
        self.engines.store_parameters(best, reached.best)
        return RunState(
            engine=self.engines.engine.read_state(),
            kept=kept,
            best=best,
            history=self.history.rows(reached.epochs),
            watched=self.watched[: reached.epochs],
            best_epoch=reached.best_epoch,
            training_seconds=self.training_seconds,
            seconds=self.seconds_before + time.perf_counter() - self.started,
            stopped_by=self.stopped_by,
        )

    def restore(self, state: RunState) -> None:
        """Go on from where a run stood."""
        engine = self.engines.engine
        check_engine(state, engine.read_state(), self.settings, self.steps_per_epoch)
        snapshots = []
        for flat in (state.kept, state.best):
            engine.load_parameters(flat)
            snapshots.append(engine.snapshot())
        engine.write_state(state.engine)
        self.history.fill(state.history)
        self.watched = list(state.watched)
        epochs = len(state.history)
        self.reached = Reached(epochs, state.best_epoch, *snapshots)
        self.training_seconds = state.training_seconds
        self.seconds_before = state.seconds
        self.sums = engine.scalars.copy() if self.steps > epochs * self.steps_per_epoch else None
        # It may have more epochs now, or have been interrupted before it saw that it had ended.
        self.stopped_by = state.stopped_by if state.stopped_by == "callback" else self.limit()

    def result(self, message: str = "") -> TrainResult:
        """What `train` returns."""
        reached, settings = self.reached, self.settings
        return summarize(
            self.history.rows(reached.epochs),
            stopped_by=self.stopped_by or "",
            message=message,
            best_epoch=reached.epochs if settings.patience is None else reached.best_epoch,
            patience=settings.patience,
            watched=settings.monitor.name,
            steps=reached.epochs * self.steps_per_epoch,
            seconds=self.seconds_before + time.perf_counter() - self.started,
            samples=self.training.rows * reached.epochs,
            training_seconds=self.training_seconds,
            device=settings.device,
            threads=settings.threads if self.engines.engine.pace.prefers_parallel else 1,
        )
