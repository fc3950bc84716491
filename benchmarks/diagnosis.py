"""What `fastbp.diagnose` sees of healthy and troubled networks: ``python -m benchmarks.diagnosis``.

For each number that a limit is set on: its range over the healthy networks of tests/troubled.py,
before training, after one epoch and after sixty, and its range over those with the trouble that it
is to find.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

import fastbp as fb
from benchmarks.reliability.subjects import find_tests
from fastbp.datasets import prepare_data
from fastbp.diagnosis import checks
from fastbp.diagnosis.observation import Observation, observe
from fastbp.losses import Loss
from fastbp.optimizers import Adam, Optimizer

__all__ = ["main", "numbers_of"]

# Number -> the trouble that it tells of, and its limit.
LIMITS: dict[str, tuple[str, float]] = {
    "largest root mean square of inputs": ("unscaled_inputs", checks.LARGE),
    "gradient norm by parameter norm": ("exploding_gradients", checks.STEEP),
    "largest gradient of a batch by the median": ("exploding_gradients", checks.SPREAD),
    "first layer's gradient by the last's": ("vanishing_gradients", checks.VANISHED),
    "saturated share": ("saturated_units", checks.SATURATED),
    "dead share": ("dead_units", checks.DEAD),
    "learning rate by the best one": ("learning_rate_too_high", checks.UNSTABLE),
    "rise of the loss in the trial": ("learning_rate_too_high", checks.WORSE),
    "learning rate by the best one, slow": ("learning_rate_too_low", checks.IDLE_RATE),
    "change of the parameters in an epoch": ("learning_rate_too_low", checks.IDLE_MOVE),
}


def seen(model: fb.Model, X: Any, y: Any, keywords: dict[str, Any]) -> Observation:
    """What a diagnosis begins with."""
    loss = Loss.resolve(keywords.get("loss", "mse"))
    is_fresh = model.scaling is None and keywords.get("standardize", False)
    weights = keywords.get("sample_weight")
    data, _, scaling = prepare_data(model, X, y, weights, None, is_fresh, loss, 0)
    return observe(
        model,
        data,
        np.asarray(y),
        loss,
        Optimizer.resolve(keywords.get("optimizer", Adam())),
        keywords.get("batch_size", 256),
        keywords.get("clip_norm"),
        0,
        None,
        scaling is not None,
    )


def numbers_of(observation: Observation) -> dict[str, float]:
    """The numbers that limits are set on; NaN where one makes no sense."""
    found = dict.fromkeys(LIMITS, np.nan)
    names = iter(LIMITS)
    found[next(names)] = float(checks.root_mean_squares(observation.sample.inputs).max())
    if not observation.is_finite:
        return found
    norms, weights = observation.batch_norms, float(np.linalg.norm(observation.parameters))
    has_learned = checks.has_learned(observation)
    found[next(names)] = float(np.linalg.norm(observation.here[1])) / weights
    found[next(names)] = np.nan if has_learned else float(norms.max() / np.median(norms))
    dense = [layer for layer in observation.layers if layer.weight_gradient_norm >= 0]
    found[next(names)] = dense[0].weight_gradient_norm / dense[-1].gradient_norm
    if len(dense) < 2:
        found["first layer's gradient by the last's"] = np.nan
    for field in ("saturated_share", "dead_share"):
        shares = [value for x in observation.layers if (value := getattr(x, field)) >= 0]
        is_told = shares and not has_learned
        found[next(names)] = max(shares) if is_told else np.nan
    step, optimizer = observation.step, observation.optimizer
    if step is None or not step.best_rate > 0:
        return found
    rate = optimizer.learning_rate / (1 - getattr(optimizer, "momentum", 0.0))
    epoch = -(-observation.data.rows // observation.batch_size)
    worst = max(observation.here[0], observation.constant_loss)
    found[next(names)] = optimizer.learning_rate / step.best_rate
    found[next(names)] = (observation.trial_loss - worst) / abs(worst)
    found[next(names)] = rate / step.best_rate
    found[next(names)] = rate * step.length * epoch
    return found


def main() -> int:
    """Print the table."""
    find_tests()
    from troubled import HEALTHY, TROUBLED  # type: ignore[import-not-found]

    healthy: list[dict[str, float]] = []
    troubled: dict[str, list[dict[str, float]]] = {}
    seconds = []
    for make in HEALTHY.values():
        for epochs in (0, 1, 60):
            model, X, y, keywords = make()
            if epochs:
                fb.train(model, X, y, epochs=epochs, **keywords)
            healthy.append(numbers_of(seen(model, X, y, keywords)))
            if model.scaling is not None:
                keywords.pop("standardize", None)
            started = time.perf_counter()
            fb.diagnose(model, X, y, **keywords)
            seconds.append(time.perf_counter() - started)
    for trouble, make in TROUBLED.values():
        troubled.setdefault(trouble, []).append(numbers_of(seen(*make())))
    print(
        "| number | healthy, from | to | limit | troubled, from | to |\n|---|---|---|---|---|---|"
    )
    for name, (trouble, limit) in LIMITS.items():
        ranges = [
            np.array([each[name] for each in cases]) for cases in (healthy, troubled[trouble])
        ]
        cells = [f"{pick(part):.2g}" for part in ranges for pick in (np.nanmin, np.nanmax)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {limit:g} | {cells[2]} | {cells[3]} |")
    print(
        f"\n{len(healthy)} observations of {len(HEALTHY)} healthy networks, {len(TROUBLED)} "
        f"troubled ones. A diagnosis took {np.median(seconds):.2f} s in the median, "
        f"{max(seconds):.2f} s at most."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
