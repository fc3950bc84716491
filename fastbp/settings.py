"""The arguments of `fastbp.train`, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp.backends.choose import check_device, check_precision, resolve_threads
from fastbp.checkpoint import Checkpoint
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.monitoring import Monitor
from fastbp.optimizers import Adam, Optimizer
from fastbp.registry import finite, positive_integer
from fastbp.schedules import Constant, Schedule

__all__ = ["Callback", "Settings", "check_settings"]

Callback = Callable[[np.void, Model], Any]


@dataclass(frozen=True)
class Settings:
    """The checked arguments of `train`, but for the data."""

    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    epochs: int
    batch_size: int
    clip_norm: float | None
    clip_value: float | None
    l1: float
    l2: float
    ema: float | None
    shuffle: bool
    seed: int
    patience: int | None
    monitor: Monitor
    on_divergence: str
    device: str
    precision: str
    threads: int
    callbacks: tuple[Callback, ...]
    checkpoint: Checkpoint | None
    resume: bool

    def describe(self) -> dict[str, Any]:
        """What the bits of a run depend on, by the names of the arguments, as plain data."""
        return {
            "loss": self.loss.describe(),
            "optimizer": self.optimizer.describe(),
            "schedule": self.schedule.describe(),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "clip_norm": self.clip_norm,
            "clip_value": self.clip_value,
            "l1": self.l1,
            "l2": self.l2,
            "ema": self.ema,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "patience": self.patience,
            "monitor": self.monitor.name,
            "device": self.device.partition(":")[0],
            "precision": self.precision,
        }


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
    ema: float | None,
    shuffle: bool,
    seed: int,
    patience: int | None,
    monitor: Any,
    on_divergence: str,
    device: str,
    precision: str,
    dtype: str,
    threads: int | None,
    callbacks: Iterable[Callback],
    checkpoint: Any,
    resume: bool,
    has_validation: bool,
) -> Settings:
    """Refuse what cannot be trained with.

    Raises
    ------
    TypeError, ValueError, DeviceError
    """
    for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if value is not None:
            finite(name, value, 0.0, open_low=True)
    check_precision(precision, dtype)
    check_device(device, precision)
    finite("l1", l1, 0.0)
    finite("l2", l2, 0.0)
    if ema is not None:
        finite("ema", ema, 0.0, 1.0, open_low=True, open_high=True)
    for name, flag in (("shuffle", shuffle), ("resume", resume)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}: expected True or False; got {type(flag).__name__}")
    if on_divergence not in ("raise", "stop"):
        raise ValueError(f"on_divergence: expected 'raise' or 'stop'; got {on_divergence!r}")
    if resume and checkpoint is None:
        raise ValueError("resume: expected a checkpoint= to resume from; got None")
    try:
        members = tuple(callbacks)
    except TypeError:
        kind = type(callbacks).__name__
        raise TypeError(f"callbacks: expected a sequence of callables; got {kind}") from None
    for i, callback in enumerate(members):
        if not callable(callback):
            raise TypeError(f"callbacks[{i}]: expected a callable; got {type(callback).__name__}")
    resolved = Loss.resolve(loss)
    return Settings(
        loss=resolved,
        optimizer=Adam() if optimizer is None else Optimizer.resolve(optimizer),
        schedule=Constant() if schedule is None else Schedule.resolve(schedule),
        epochs=positive_integer("epochs", epochs),
        batch_size=positive_integer("batch_size", batch_size),
        clip_norm=None if clip_norm is None else float(clip_norm),
        clip_value=None if clip_value is None else float(clip_value),
        l1=float(l1),
        l2=float(l2),
        ema=None if ema is None else float(ema),
        shuffle=shuffle,
        seed=positive_integer("seed", seed, low=0),
        patience=None if patience is None else positive_integer("patience", patience),
        monitor=Monitor.resolve(monitor, resolved, has_validation),
        on_divergence=on_divergence,
        device=device,
        precision=precision,
        threads=resolve_threads(threads),
        callbacks=members,
        checkpoint=None if checkpoint is None else Checkpoint.resolve(checkpoint),
        resume=resume,
    )
