"""The exceptions that are fastbp's own. Bad arguments raise ValueError or TypeError."""

from __future__ import annotations

from typing import Any

__all__ = ["CheckpointError", "DeviceError", "DivergenceError"]


class DivergenceError(ArithmeticError):
    """Training met a value that is not finite, or a loss that has run away.

    Attributes
    ----------
    epoch, step : int
        Epoch (counted from 1) and step of the whole run (counted from 1) that failed.
    quantity : str
        What was not finite: ``"loss"``, ``"gradient"``, ``"parameter"`` or ``"validation loss"``; or
        what was too large: ``"loss"``.
    layer : str or None
        The layer where it was found first (``"2"``, ``"2.0"``), if there is one: the first whose
        outputs or parameters, or the last whose gradient, are not finite.
    parameters : array or None
        The last good parameters, which the model has as well: of the last finished epoch, or the
        initial ones.
    """

    def __init__(
        self, message: str, *, epoch: int, step: int, quantity: str, layer: str | None = None
    ) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
        self.quantity = quantity
        self.layer = layer
        self.parameters: Any = None


class CheckpointError(ValueError):
    """A file of a model or of a run is damaged, or is none of fastbp's."""


class DeviceError(RuntimeError):
    """A device was asked for that this machine, or this installation, does not offer."""
