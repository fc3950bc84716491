"""How good suggestions of learning rates are: ``python -m benchmarks.learning_rates``.

For each problem, optimizer and batch size: the loss on all rows after about 400 steps with what
`fastbp.find_learning_rate` suggests, by the least that any rate of a grid gives (half decades from
1e-4 to 3.2). Beside it
the same for two other rules that are in use: the rate where the smoothed loss falls most steeply,
and a tenth of the one where it is lowest.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import fastbp as fb
from benchmarks.processes import ROOT
from fastbp.optimizers import Optimizer
from fastbp.tables import read_table

__all__ = ["PROBLEMS", "main"]

STEPS = 400
GRID = 10.0 ** np.arange(-4, 0.6, 0.5)
OPTIMIZERS = (fb.SGD(), fb.SGD(momentum=0.9), fb.Adam(), fb.RMSprop(), fb.Lion())
WORST = 1000.0  # ratios above it count as it


@dataclass(frozen=True)
class Problem:
    """Data, loss and network."""

    X: Any
    y: Any
    loss: str
    network: fb.Network


def california() -> Problem:
    """Regression on 8 columns of a census."""
    table = read_table(ROOT / "examples" / "data" / "california_housing.csv.gz")
    target = "MedHouseVal"
    X = table.numbers([name for name in table.columns if name != target])
    return Problem(X, table.numbers([target])[:, 0], "mse", fb.mlp(8, 64, 64, 1))


def spirals() -> Problem:
    """Three spirals in the plane."""
    rng = np.random.default_rng(0)
    radius, labels = rng.uniform(0, 1, 1500), rng.integers(0, 3, 1500)
    angle = 5 * radius + 2 * np.pi / 3 * labels + rng.normal(0, 0.1, 1500)
    X = np.c_[radius * np.cos(angle), radius * np.sin(angle)]
    return Problem(X, labels, "cross_entropy", fb.mlp(2, 32, 32, 3, activation="tanh"))


def waves() -> Problem:
    """A product of a sine and a line, with noise."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    y = np.sin(2 * X[:, 0]) * X[:, 1] + 0.05 * rng.normal(size=400)
    return Problem(X, y, "mse", fb.mlp(3, 32, 1, activation="tanh"))


def classes() -> Problem:
    """Two classes by the sign of a product and a sum."""
    X = np.random.default_rng(0).normal(size=(4000, 20))
    y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(float)
    return Problem(X, y, "binary_cross_entropy", fb.mlp(20, 64, 64, 64, 1))


def few() -> Problem:
    """A plane through 60 rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = X @ [1, 2, -1, 0.5] + 0.1 * rng.normal(size=60)
    return Problem(X, y, "huber", fb.mlp(4, 8, 1, activation="elu"))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    function.__name__: function for function in (california, spirals, waves, classes, few)
}


def loss_after(problem: Problem, optimizer: Optimizer, rate: float, batch_size: int) -> float:
    """On all rows; infinite where training diverges or there is no rate."""
    if not math.isfinite(rate):
        return math.inf
    model = fb.Model(problem.network, seed=1)
    result = fb.train(
        model,
        problem.X,
        problem.y,
        problem.loss,
        replace(optimizer, learning_rate=rate),
        epochs=max(STEPS * batch_size // len(problem.X), 3),
        batch_size=batch_size,
        standardize=True,
        on_divergence="stop",
    )
    return model.loss(problem.X, problem.y, problem.loss) if result.success else math.inf


def other_rules(curve: fb.LearningRateCurve) -> dict[str, float]:
    """Rates by other rules from the same curve."""
    known = np.isfinite(curve.smoothed)
    rates, smoothed = curve.rates[known], curve.smoothed[known]
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed[: lowest + 2], np.log(rates[: lowest + 2]))
    return {
        "steepest": float(rates[np.argmin(slopes)]),
        "lowest / 10": float(rates[lowest]) / 10,
    }


def main() -> int:
    """Print a line for each case, and what comes of all."""
    ratios: dict[str, list[float]] = {}
    for name, make in PROBLEMS.items():
        problem = make()
        for optimizer in OPTIMIZERS:
            for batch_size in (32, 256):
                curve = fb.find_learning_rate(
                    fb.Model(problem.network, seed=1),
                    problem.X,
                    problem.y,
                    problem.loss,
                    optimizer,
                    batch_size=batch_size,
                    standardize=True,
                )
                of_grid = [loss_after(problem, optimizer, rate, batch_size) for rate in GRID]
                rules = {"suggestion": curve.suggestion, **other_rules(curve)}
                found = {
                    rule: loss_after(problem, optimizer, rate, batch_size) / min(of_grid)
                    for rule, rate in rules.items()
                }
                for rule, ratio in found.items():
                    ratios.setdefault(rule, []).append(min(ratio, WORST))
                momentum = getattr(optimizer, "momentum", 0.0)
                print(
                    f"{name:10} {optimizer.name:7} momentum {momentum:.1f} batches of "
                    f"{batch_size:3}: best of the grid {GRID[int(np.argmin(of_grid))]:.1e};",
                    ", ".join(f"{rule} {rules[rule]:.1e}: {found[rule]:.2f}" for rule in rules),
                    flush=True,
                )
    print("\n| rule | geometric mean | median | 80% are below | largest |\n|---|---|---|---|---|")
    for rule, values in ratios.items():
        print(
            f"| {rule} | {math.exp(np.mean(np.log(values))):.2f} | {np.median(values):.2f} | "
            f"{np.quantile(values, 0.8):.1f} | {max(values):.0f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
