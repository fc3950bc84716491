"""What must hold before any time is taken.

1. fastbp's loss and gradient against the tests' reference (naive NumPy in float64), from the same
   parameters and rows.
2. fastbp's loss after equal steps over the same batches against the peers'.

scikit-learn takes no initial parameters, so it is not in the second check.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fastbp_side import make_model
from benchmarks.processes import ROOT
from benchmarks.workloads import Workload, initial_parameters, make_data

__all__ = ["VerificationError", "check_gradients", "check_losses", "steps_in_order"]

GRADIENT_BOUNDS = {"float64": 1e-10, "float32": 1e-4}
LOSS_BOUND = 1e-3
GRADIENT_ROWS = 128
STEPS = 20
KINK = 1e-5  # rows with a relu this near to its kink are left out: rounding may put it either side


class VerificationError(RuntimeError):
    """fastbp computed something else than the reference or a peer; no time was taken."""


@cache
def reference() -> ModuleType:
    """tests/reference.py, which is not in a package."""
    path = ROOT / "tests" / "reference.py"
    specification = importlib.util.spec_from_file_location("reference", path)
    if specification is None or specification.loader is None or not path.exists():
        raise VerificationError(f"the reference is not there: {path.relative_to(ROOT)}")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def away_from_kinks(work: Workload, X: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows keep every relu at some distance from zero."""
    keep = np.ones(len(X), dtype=bool)
    if work.activation != "relu":
        return keep
    for weight, bias in initial_parameters(work)[:-1]:
        z = X @ weight.astype(float) + bias
        keep &= (np.abs(z) > KINK).all(axis=1)
        X = np.maximum(z, 0)
    return keep


def check_gradients(work: Workload) -> dict[str, float]:
    """The largest scaled error of the gradient in each precision; raises where it is too large.

    The error of a parameter tensor is the norm of the difference over the norm of the reference.
    """
    X, y = make_data(work)
    X, y = X[:GRADIENT_ROWS], y[:GRADIENT_ROWS]
    keep = away_from_kinks(work, X.astype(float))
    X, y = X[keep], y[keep]
    weights = [(w.astype(float), b.astype(float)) for w, b in initial_parameters(work)]
    activations = [work.activation] * (len(weights) - 1) + ["identity"]
    exact_loss, exact, _ = reference().backpropagation(weights, activations, X, y, work.loss)
    errors = {}
    for dtype, bound in GRADIENT_BOUNDS.items():
        loss, gradient = make_model(work, dtype).loss_and_gradient(X, y, work.loss)
        found, worst = 0, float(abs(loss - exact_loss) / abs(exact_loss))
        for tensor in (tensor for pair in exact for tensor in pair):
            part = gradient[found : found + tensor.size].reshape(tensor.shape)
            found += tensor.size
            worst = max(worst, float(np.linalg.norm(part - tensor) / np.linalg.norm(tensor)))
        if not worst <= bound:
            raise VerificationError(
                f"{work.name}: the {dtype} gradient is off by {worst:.1e}; at most {bound:.0e}"
            )
        errors[dtype] = worst
    return errors


def steps_in_order(work: Workload) -> tuple[int, int]:
    """(rows, epochs) of about 20 steps over whole batches."""
    batches = min(STEPS, work.steps_per_epoch)
    return batches * work.batch_size, max(1, STEPS // batches)


def check_losses(work: Workload, losses: dict[str, dict[str, float]]) -> None:
    """Raise where fastbp's loss did not fall, or where it and a peer's are apart.

    Parameters
    ----------
    work : Workload
    losses : dict of str to dict
        Of ``"fastbp"`` and of peers, in float32: ``"before"`` and ``"after"`` the same steps from
        the same parameters.
    """
    own = losses["fastbp"]
    if not own["after"] < own["before"]:
        raise VerificationError(
            f"{work.name}: the loss did not fall: {own['before']:.6g} to {own['after']:.6g}"
        )
    for name, found in losses.items():
        for moment in ("before", "after"):
            apart = abs(found[moment] - own[moment]) / abs(found[moment])
            if not apart <= LOSS_BOUND:
                raise VerificationError(
                    f"{work.name}: the loss {moment} equal steps is {own[moment]:.6g}, and "
                    f"{name}'s is {found[moment]:.6g}"
                )
