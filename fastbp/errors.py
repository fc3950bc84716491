"""The exceptions that are fastbp's own. Bad arguments raise ValueError or TypeError."""

from __future__ import annotations

__all__ = ["CheckpointError", "DeviceError", "DivergenceError"]


class DivergenceError(ArithmeticError):
    """Training met a value that is not finite.

    Attributes
    ----------
    epoch, step : int
        Epoch (counted from 1) and step of the whole run (counted from 1) that failed.
    quantity : str
        What was not finite: ``"loss"``, ``"gradient"``, ``"parameter"`` or ``"validation loss"``.
    """

    def __init__(self, message: str, *, epoch: int, step: int, quantity: str) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
        self.quantity = quantity


class CheckpointError(ValueError):
    """A file of a model or of a run is damaged, or is none of fastbp's."""


class DeviceError(RuntimeError):
    """A device was asked for that this machine, or this installation, does not offer."""
