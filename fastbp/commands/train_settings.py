"""The settings of a training that the options of ``fastbp train`` mean."""

from __future__ import annotations

from dataclasses import replace

from fastbp.losses import Loss
from fastbp.optimizers import AdamW, Optimizer
from fastbp.registry import finite

__all__ = ["choose_loss", "choose_optimizer", "parse_layers"]

# Of the default optimizer, AdamW. Chosen with --layers, --batch-size and the schedule by the mean
# test RMSE of four seeds on California housing (docs/tuning.md).
LEARNING_RATE, WEIGHT_DECAY = 0.005, 0.05


def parse_layers(text: str) -> list[int]:
    """``"64,64"`` -> [64, 64]; empty means no hidden layer."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(
            f"--layers: expected integers separated by commas, such as 64,64; got {text!r}"
        ) from None


def choose_optimizer(name: str, learning_rate: float | None) -> Optimizer:
    """The optimizer of the options."""
    chosen = Optimizer.resolve(name, "--optimizer")
    if isinstance(chosen, AdamW):
        chosen = replace(chosen, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    if learning_rate is not None:
        finite("--learning-rate", learning_rate, 0.0, open_low=True)
        chosen = replace(chosen, learning_rate=learning_rate)
    return chosen


def choose_loss(name: str | None, *, has_classes: bool) -> Loss:
    """The loss of the options, or the default of the task; refused where it is of the other."""
    loss = Loss.resolve(name or ("cross_entropy" if has_classes else "mse"), "--loss")
    if (loss.targets == "class") != has_classes:
        task = "classification" if has_classes else "regression"
        raise ValueError(f"--loss: expected a loss for {task}; got {loss.name}")
    return loss
