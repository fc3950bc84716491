"""What training returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.text import without_nan

__all__ = ["HISTORY_DTYPE", "TrainResult"]

HISTORY_DTYPE = np.dtype(
    [
        ("epoch", np.int64),
        ("loss", np.float64),
        ("validation_loss", np.float64),
        ("learning_rate", np.float64),
        ("gradient_norm", np.float64),
        ("seconds", np.float64),
    ]
)


@dataclass(frozen=True)
class TrainResult:
    """What a call of `fastbp.train` did.

    Attributes
    ----------
    success : bool
        Whether training ended as it was asked to.
    message : str
        One sentence.
    stopped_by : str
        ``"epochs"``, ``"patience"`` or ``"callback"``.
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
        One row an epoch: epoch (from 1), loss, validation_loss (NaN without), learning_rate (of the
        epoch's first step), gradient_norm (mean over the batches, before clipping), seconds.
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
        described["history"] = [dict(zip(names, row, strict=True)) for row in self.history.tolist()]
        plain: dict[str, Any] = without_nan(described)
        return plain
