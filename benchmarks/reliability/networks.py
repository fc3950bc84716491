"""Random networks with data, and what they are compared with."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastbp as fb
from benchmarks.verify import reference
from fastbp.activations import Activation
from fastbp.losses import Loss

__all__ = ["Problem", "nearest_kink", "random_problem", "scaled_error"]

# Mostly small, so that many networks can be tried; and the edges of lines, panels and tiles.
SMALL, MIDDLE, WIDE = (
    (1, 2, 3, 4, 5, 7, 8, 9),
    (13, 15, 16, 17, 31, 32, 33),
    (61, 63, 64, 65, 67, 70),
)
FEW, SOME, MANY = (1, 2, 3, 4, 5, 7), (15, 16, 17, 31, 32, 33, 63, 64, 65), (97, 127, 128, 129, 200)
SHARES = (0.8, 0.15, 0.05)
DEPTHS = (1, 2, 3, 4, 5)
# Where a derivative jumps, by activation; of the losses, by what is left of a residual.
KINKS = {
    "relu": (0.0,),
    "leaky_relu": (0.0,),
    "elu": (0.0,),
    "selu": (0.0,),
    "hardtanh": (-1.0, 1.0),
    "relu6": (0.0, 6.0),
    "hardswish": (-3.0, 3.0),
}


@dataclass(frozen=True)
class Problem:
    """A network, its parameters, and data for one loss.

    Attributes
    ----------
    sizes : tuple of int
    activations : tuple of str
    loss : str
    weights : list of (W, b)
    X, y : array
    sample_weight : array or None
    """

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    loss: str
    weights: list[tuple[NDArray[Any], NDArray[Any]]]
    X: NDArray[Any]
    y: NDArray[Any]
    sample_weight: NDArray[Any] | None

    def __str__(self) -> str:
        layers = " ".join(self.activations)
        sizes = "-".join(map(str, self.sizes))
        weighted = "" if self.sample_weight is None else ", weighted"
        return f"{sizes} {layers}, {self.loss}, {len(self.X)} rows{weighted}"

    @cached_property
    def flat(self) -> NDArray[np.float64]:
        """The parameters in the order of the network."""
        return flattened(self.weights)

    def model(self, dtype: str) -> fb.Model:
        """The network in fastbp."""
        pairs = zip(self.sizes[1:], self.activations, strict=True)
        layers = [fb.Dense(units, activation, "zeros") for units, activation in pairs]
        model = fb.Model(fb.Network(self.sizes[0], layers), dtype=dtype)
        model.parameters = self.flat
        return model

    def derivatives(self, dtype: str = "float64") -> tuple[float, NDArray[Any]]:
        """fastbp's loss and gradient."""
        return self.model(dtype).loss_and_gradient(self.X, self.y, self.loss, self.sample_weight)

    def expected(self) -> tuple[float, NDArray[np.float64]]:
        """The reference's loss and gradient."""
        loss, pairs, _ = reference().backpropagation(
            self.weights, self.activations, self.X, self.y, self.loss, self.sample_weight
        )
        return float(loss), flattened(pairs)

    def slope(self, direction: NDArray[np.float64]) -> float:
        """The derivative of the loss along a direction of the parameters, by one complex step."""
        naive = reference()
        stepped, start = [], 0
        for pair in self.weights:
            moved = []
            for array in pair:
                along = direction[start : start + array.size].reshape(array.shape)
                moved.append(array + 1j * naive.STEP * along)
                start += array.size
            stepped.append(tuple(moved))
        outputs = naive.forward(stepped, self.activations, self.X)
        loss = naive.batch_loss(self.loss, outputs, self.y, self.sample_weight)
        return float(np.imag(loss) / naive.STEP)


def flattened(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> NDArray[np.float64]:
    """All numbers of [(W, b), ...]."""
    return np.concatenate([array.ravel() for pair in pairs for array in pair])


def targets_of(loss: str, rows: int, outputs: int, rng: np.random.Generator) -> NDArray[Any]:
    """Random targets that a loss allows."""
    kind, shape = Loss.registry[loss].targets, (rows, outputs)
    if kind == "class":
        return rng.integers(0, outputs, rows)
    if kind == "sign":
        return rng.integers(0, 2, shape) * 2.0 - 1.0
    if kind == "count":
        return rng.poisson(2.0, shape).astype(float)
    if kind == "probability":
        return rng.random(shape)
    return rng.normal(size=shape)


def random_problem(
    number: int,
    seed: int,
    *,
    activations: tuple[str, ...] = (),
    losses: tuple[str, ...] = (),
    dtype: str = "float64",
) -> Problem:
    """One of a sequence of problems in which every activation meets every loss equally often.

    Numbers are rounded to `dtype`, so that a comparison sees the rounding of the arithmetic alone.
    Parameters are scaled so that signals neither vanish nor explode.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, number]))
    activations = activations or tuple(Activation.names())
    losses = losses or tuple(Loss.names())
    depth = int(rng.choice(DEPTHS))
    chosen = [activations[i] for i in rng.integers(0, len(activations), depth)]
    chosen[int(rng.integers(depth))] = activations[number % len(activations)]
    loss = losses[number // len(activations) % len(losses)]

    def some(groups: tuple[tuple[int, ...], ...], count: int) -> list[int]:
        groups_of = rng.choice(3, count, p=SHARES)
        return [groups[g][int(rng.integers(len(groups[g])))] for g in groups_of]

    sizes = some((SMALL, MIDDLE, WIDE), depth + 1)
    (rows,) = some((FEW, SOME, MANY), 1)

    def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values if dtype == "float64" else values.astype(dtype).astype(np.float64)

    weights = [
        (rounded(rng.normal(size=(m, n)) * np.sqrt(1.5 / m)), rounded(0.1 * rng.normal(size=n)))
        for m, n in itertools.pairwise(sizes)
    ]
    X = rounded(rng.normal(size=(rows, sizes[0])))
    y = targets_of(loss, rows, sizes[-1], rng)
    if y.dtype.kind == "f":
        y = rounded(y)
    w = rounded(rng.uniform(0.1, 2.0, rows)) if rng.integers(2) else None
    return Problem(tuple(sizes), tuple(chosen), loss, weights, X, y, w)


def nearest_kink(problem: Problem) -> float:
    """How near any number comes to a place where a derivative jumps."""
    naive, a, nearest = reference(), problem.X, np.inf
    for (W, b), name in zip(problem.weights, problem.activations, strict=True):
        z = a @ W + b
        for kink in KINKS.get(name, ()):
            nearest = min(nearest, float(np.abs(z - kink).min()))
        a = naive.ACTIVATIONS[name](z)
    if problem.loss in {"mae", "quantile", "hinge", "huber"}:
        y = problem.y.reshape(a.shape)
        left = 1.0 - y * a if problem.loss == "hinge" else a - y
        left = np.abs(left) - 1.0 if problem.loss == "huber" else left
        nearest = min(nearest, float(np.abs(left).min()))
    return nearest


def scaled_error(found: Any, expected: Any) -> float:
    """max |g - g*| / max(1, max |g*|); infinite for what is not finite."""
    error = np.max(np.abs(np.asarray(found, dtype=np.float64) - expected))
    scale = max(1.0, float(np.max(np.abs(expected))))
    return float(error / scale) if np.isfinite(error) else np.inf
