"""Showing how training goes."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

from numpy import void

__all__ = ["NoProgress", "ProgressBar", "resolve_progress"]


class NoProgress:
    """Shows nothing."""

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def update(self, row: void, samples_per_second: float) -> None:
        """Called after every epoch with its row of the history."""


class ProgressBar(NoProgress):
    """A line with a bar over the epochs: loss, validation loss, samples a second, time left."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.bar: Any = None

    def __enter__(self) -> ProgressBar:
        from tqdm import tqdm

        self.bar = tqdm(
            total=self.epochs,
            unit="epoch",
            dynamic_ncols=True,
            desc="compiling",
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]",
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def update(self, row: void, samples_per_second: float) -> None:
        """Move the bar by one epoch."""
        parts = [f"loss {row['loss']:.4g}"]
        if not math.isnan(row["validation_loss"]):
            parts.append(f"validation {row['validation_loss']:.4g}")
        parts.append(f"{samples_per_second:,.0f} samples/s")
        if self.bar.n == 0:  # a run that goes on has epochs behind it, which took none of this time
            self.bar.n = self.bar.initial = self.bar.last_print_n = int(row["epoch"]) - 1
        self.bar.set_description_str("", refresh=False)
        self.bar.set_postfix_str(", ".join(parts), refresh=False)
        self.bar.update(1)


def resolve_progress(progress: bool | None, epochs: int) -> NoProgress:
    """The display that a `progress=` argument means.

    Raises
    ------
    TypeError
        For anything but None, True or False.
    """
    if progress is None or progress is False:
        return NoProgress()
    if progress is True:
        return ProgressBar(epochs)
    raise TypeError(f"progress: expected True, False or None; got {type(progress).__name__}")
