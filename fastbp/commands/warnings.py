"""What a training on the command line warns of, after its first and its last epoch."""

from __future__ import annotations

import sys
from typing import Any

from numpy import void
from numpy.typing import NDArray

from fastbp.diagnosis import diagnose
from fastbp.model import Model

__all__ = ["Warnings"]

# The arguments of `fastbp.train` that a diagnosis takes as well. The model has its scaling by then.
SHARED = ("loss", "optimizer", "batch_size", "clip_norm", "class_weight", "seed", "threads")


class Warnings:
    """Looks at a model while it is trained; a callback of `fastbp.train`.

    Parameters
    ----------
    X, y : array
        The training rows.
    settings : dict
        The arguments of `fastbp.train`.
    quiet : bool
        Print nothing.
    """

    def __init__(
        self, X: NDArray[Any], y: NDArray[Any], settings: dict[str, Any], quiet: bool
    ) -> None:
        self.X, self.y, self.quiet = X, y, quiet
        self.settings = {name: settings[name] for name in SHARED}
        self.found: dict[str, list[dict[str, Any]]] = {"first_epoch": [], "last_epoch": []}

    def __call__(self, row: void, model: Model) -> None:
        """After every epoch; the first one is looked at."""
        if row["epoch"] == 1:
            self.look(model, "first_epoch")

    def look(self, model: Model, when: str) -> None:
        """Print what is wrong, and keep it for the report.

        Parameters
        ----------
        model : Model
        when : str
            ``"first_epoch"`` or ``"last_epoch"``.
        """
        report = diagnose(model, self.X, self.y, **self.settings)
        self.found[when] = report.as_dict()["findings"]
        if self.quiet or report.is_healthy:
            return
        from tqdm import tqdm

        for finding in report.findings:  # above a progress bar, where there is one
            line = f"fastbp: after the {when.replace('_', ' ')}: {finding}"
            tqdm.write(line, file=sys.stderr)
