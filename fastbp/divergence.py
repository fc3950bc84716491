"""When training has diverged, and of what the error speaks.

The rule. After every step the loss of its batch and the norm of its gradient must be finite, and
the loss no more than `RUNAWAY` times the larger of two: the loss of the run's first batch, and the
largest loss that outputs of -1, 0 or 1 would have on the targets, which is about where networks
begin. After every epoch the parameters and the validation loss must be finite. So a parameter that
overflows in the last step of an epoch is found at that epoch's end, in any other step by the loss
of the next one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.errors import DivergenceError
from fastbp.losses import Loss
from fastbp.network import Network

__all__ = [
    "RUNAWAY",
    "all_finite",
    "divergence_error",
    "layer_of_gradient",
    "layer_of_outputs",
    "layer_of_parameters",
    "usual_loss",
]

# Batches may differ by far, by a few outliers in the inputs or by a start at the very optimum; a
# run whose loss has grown a million times is lost, long before float32 ends at 1e38.
RUNAWAY = 1e6


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite.

    A sum takes a fraction of the time of looking at each, and is finite only if all of them are;
    it may also be infinite because it is large.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())


def usual_loss(loss: Loss, targets: NDArray[Any], outputs: int) -> float:
    """The largest loss that outputs of -1, 0 or 1 have on some targets.

    Losses of one output are largest where its target is the smallest or the largest. A law that
    cannot be called here counts as 0.
    """
    if loss.law is None:
        return math.log(outputs)
    law = getattr(loss.law, "py_func", loss.law)  # compiling a user's law is not worth the time
    total = 0.0
    with np.errstate(all="ignore"):
        for column in np.asarray(targets, dtype=np.float64).reshape(len(targets), -1).T:
            ends = float(column.min()), float(column.max())
            try:
                total += max(
                    abs(float(law(output, end, loss.settings)[0]))
                    for output in (-1.0, 0.0, 1.0)
                    for end in ends
                )
            except Exception:  # a user's law may need what is compiled
                return 0.0
    mean = total / outputs
    return mean if math.isfinite(mean) else 0.0


def layer_of_outputs(engine: Any, network: Network, batch: int, rows: int) -> str | None:
    """The first layer whose outputs are not all finite, in what the last segment of a batch left.

    Parameters
    ----------
    engine : Engine
        That has just run the batch.
    network : Network
    batch : int
        Its number in the epoch, from 0.
    rows : int
        Of the training data.
    """
    plan = engine.plan
    in_batch = min(plan.batch_rows, rows - batch * plan.batch_rows)
    in_segment = in_batch - (in_batch - 1) // plan.segment_rows * plan.segment_rows
    tensors = {tensor.name for tensor in plan.tensors}
    for name, _, _ in network.members():
        tensor = f"{name}.output"
        if tensor in tensors and not all_finite(engine.read_rows(tensor, rows=in_segment)):
            return name
    return None


def layer_of_gradient(norms: dict[str, float]) -> str | None:
    """The last layer whose gradient is not finite: where backpropagation met it first."""
    found = [name for name, norm in norms.items() if not math.isfinite(norm)]
    return found[-1] if found else None


def layer_of_parameters(network: Network, flat: NDArray[Any]) -> str | None:
    """The first layer with a parameter that is not finite, in a flat vector."""
    for name, values in network.views(flat).items():
        if not all_finite(values):
            return name.rpartition(".")[0]
    return None


def divergence_error(
    quantity: str, layer: str | None, step: int, epoch: int, *, loss: float, limit: float
) -> DivergenceError:
    """The error in words.

    Parameters
    ----------
    quantity : str
        ``"loss"``, ``"gradient"``, ``"parameter"`` or ``"validation loss"``.
    layer : str or None
        Where it was found first, if that is known.
    step, epoch : int
        Counted from 1, of the whole run.
    loss, limit : float
        Of the last batch, and what it may be.
    """
    of_layer = "" if layer is None else f" of layer {layer}"
    what = {
        "loss": f"the outputs{of_layer} are no longer finite"
        if layer
        else "the loss is no longer finite",
        "gradient": f"the gradient{of_layer} is no longer finite",
        "parameter": f"a parameter{of_layer} is no longer finite",
        "validation loss": "the validation loss is no longer finite",
    }[quantity]
    if quantity == "loss" and math.isfinite(loss) and loss > limit:
        what = f"the loss is {loss:.3g}, over {RUNAWAY:,.0f} times that of the start,"
    kept = "initial parameters" if epoch == 1 else f"parameters of epoch {epoch - 1}"
    return DivergenceError(
        f"{what} at step {step} (epoch {epoch}); the model has the {kept}. A smaller learning "
        "rate, clip_norm, or standardize=True helps.",
        epoch=epoch,
        step=step,
        quantity=quantity,
        layer=layer,
    )
