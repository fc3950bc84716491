"""What training returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.network import Network
from fastbp.text import without_nan

__all__ = ["LAYER_FIELDS", "History", "TrainResult", "history_dtype", "summarize"]

# What a row of the history holds of every layer, in the order of `Network.members()`; NaN where it
# was not looked at, or makes no sense.
LAYER_FIELDS = (
    "layer_gradient_norm",
    "layer_parameter_norm",
    "layer_update_ratio",
    "layer_dead_share",
    "layer_saturated_share",
)
FIELDS = ("loss", "validation_loss", "metric", "learning_rate", "gradient_norm", "seconds")


def history_dtype(network: Network) -> np.dtype[Any]:
    """The dtype of the history of a network's training."""
    layers = (sum(1 for _ in network.members()),)
    return np.dtype(
        [
            ("epoch", np.int64),
            *[(name, np.float64) for name in FIELDS],
            *[(name, np.float64, layers) for name in LAYER_FIELDS],
        ]
    )


class History:
    """Rows of the history, in memory that doubles when it is full.

    Parameters
    ----------
    network : Network
    """

    def __init__(self, network: Network) -> None:
        self.dtype = history_dtype(network)
        self.memory: NDArray[np.void] = self.empty(16)

    def empty(self, rows: int) -> NDArray[np.void]:
        """Rows in which nothing is known."""
        memory = np.zeros(rows, self.dtype)
        for name in LAYER_FIELDS:
            memory[name] = np.nan
        return memory

    def row(self, index: int) -> np.void:
        """A row to be filled in place."""
        if index >= len(self.memory):
            self.memory = np.concatenate([self.memory, self.empty(len(self.memory))])
        row: np.void = self.memory[index]
        return row

    def rows(self, count: int) -> NDArray[np.void]:
        """A copy of the first rows."""
        return self.memory[:count].copy()

    def fill(self, rows: NDArray[np.void]) -> None:
        """Begin with rows of before."""
        self.memory = np.concatenate([rows, self.empty(max(len(rows), 16))])


@dataclass(frozen=True)
class TrainResult:
    """What a call of `fastbp.train` did.

    Attributes
    ----------
    success : bool
        Whether training ended as it was asked to; False where it diverged.
    message : str
        One sentence.
    stopped_by : str
        ``"epochs"``, ``"patience"``, ``"callback"``, or ``"divergence"`` with
        ``on_divergence="stop"``.
    loss : float
        Of the last epoch, the mean over its batches of the objective before each update, penalties
        included.
    validation_loss : float
        Of the parameters that the model now has; NaN without validation data.
    best_epoch : int
        The epoch whose parameters the model now has.
    epochs, steps : int
        Finished.
    seconds : float
        Of all epochs, validation included, compilation not.
    samples_per_second : float
        Training rows by the time of the training passes.
    device : str
        ``"cpu"`` or ``"cuda:N"``.
    threads : int
        Of the processor: 1 where the work of a step was too little to divide, or other work kept
        the cores busy. Always 1 on a GPU, which has no use for more.
    history : structured array
        One row an epoch: epoch (from 1), loss, validation_loss (NaN without), metric (that `monitor`
        names; NaN without), learning_rate (of the epoch's first step), gradient_norm (mean over the
        batches, before clipping), seconds. And, with a number for each layer in the order of
        ``network.members()``, what the epoch's last batch says of it (NaN where that makes no
        sense, and in epochs so short that looking would take 2% of the time): layer_gradient_norm
        (before clipping), layer_parameter_norm, layer_update_ratio (norm of the change that the
        step made by that of the parameters), layer_dead_share (of the relu family: units idle in
        all rows of the batch's last segment), layer_saturated_share (of tanh, sigmoid and their
        kind: outputs where the derivative is below 5% of its maximum).
    """

    success: bool
    message: str
    stopped_by: str
    loss: float
    validation_loss: float
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    samples_per_second: float
    device: str
    threads: int
    history: NDArray[np.void]

    def __str__(self) -> str:
        lines = [
            f"{name:>20}: {value}" for name, value in self.__dict__.items() if name != "history"
        ]
        return "\n".join([*lines, f"{'history':>20}: {len(self.history)} epochs"])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data; NaN becomes None."""

        described: dict[str, Any] = {**self.__dict__}
        names = self.history.dtype.names or ()
        described["history"] = [
            {name: np.asarray(row[name]).tolist() for name in names} for row in self.history
        ]
        plain: dict[str, Any] = without_nan(described)
        return plain


def summarize(
    history: NDArray[np.void],
    *,
    stopped_by: str,
    message: str,
    best_epoch: int,
    patience: int | None,
    watched: str,
    steps: int,
    seconds: float,
    samples: int,
    training_seconds: float,
    device: str,
    threads: int,
) -> TrainResult:
    """A result, with its sentence and what follows from the history."""
    epochs = len(history)
    kept = "" if best_epoch == epochs else f" The parameters are those of epoch {best_epoch}."
    messages = {
        "epochs": f"All {epochs} epochs were run.{kept}",
        "patience": f"The watched {watched} did not improve for {patience} epochs.{kept}",
        "callback": f"A callback stopped training after epoch {epochs}.{kept}",
    }
    has_epochs = epochs > 0
    return TrainResult(
        success=stopped_by in messages,
        message=message or messages[stopped_by],
        stopped_by=stopped_by,
        loss=float(history["loss"][-1]) if has_epochs else math.nan,
        validation_loss=float(history["validation_loss"][best_epoch - 1])
        if has_epochs
        else math.nan,
        best_epoch=best_epoch,
        epochs=epochs,
        steps=steps,
        seconds=seconds,
        samples_per_second=samples / max(training_seconds, 1e-9),
        device=device,
        threads=threads,
        history=history,
    )
