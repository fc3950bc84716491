"""Factors that are powers of two go through a homogeneous network without changing a bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reliability.networks import Problem, flattened, random_problem
from benchmarks.reliability.shares import in_shares
from benchmarks.reliability.subjects import Outcome, Request

__all__ = ["check", "differing_bits"]

CASES = 10_000
SHARE = 100
HOMOGENEOUS = ("identity", "relu", "leaky_relu")
# By what the loss and its derivative are multiplied where outputs and targets are by f: f**power.
POWERS = {"mse": (2, 1), "mae": (1, 0), "quantile": (1, 0)}
LARGEST = 12  # the exponent of a factor

METHOD = f"""\
Networks of identity, relu and leaky_relu with the losses mse, mae and quantile, in float32 and
float64 by turns. Each is computed twice: as it is, and with random factors 2**k, abs(k) up to
{LARGEST}, at once on the inputs (undone in the first weight), on every hidden layer (undone in the
next), on the last layer and the targets, and on the sample weights. Each rounding is then the same,
so the loss and each layer's gradient must be multiplied by a known power of two, to the bit. Bits
that differ are counted."""


def differing_bits(found: Any, expected: Any) -> int:
    """How many bits of some floating-point numbers differ; zeros of either sign are the same."""
    found, expected = np.atleast_1d(found) + 0.0, np.atleast_1d(expected) + 0.0
    kind = np.dtype(f"u{found.itemsize}")
    return int(np.bitwise_count(found.view(kind) ^ expected.view(kind)).sum())


def scaled(problem: Problem, exponents: NDArray[np.int64]) -> tuple[Problem, float, Any]:
    """The problem with factors, and by what its loss and its gradient are multiplied.

    `exponents` are those of the inputs, of every layer's outputs, and of the sample weights.
    """
    factors = np.ldexp(1.0, exponents[:-1])
    weights, shares = [], []
    of_loss, of_slope = (factors[-1] ** power for power in POWERS[problem.loss])
    for layer, (W, b) in enumerate(problem.weights):
        before, own = factors[layer], factors[layer + 1]
        weights.append((W * (own / before), b * own))
        # The delta of a layer is the derivative of the loss by its outputs.
        delta = of_slope * factors[-1] / own
        shares.append((np.full(W.shape, before * delta), np.full(b.shape, delta)))
    w = problem.sample_weight
    other = Problem(
        problem.sizes,
        problem.activations,
        problem.loss,
        weights,
        problem.X * factors[0],
        problem.y * factors[-1],
        None if w is None else np.ldexp(w, int(exponents[-1])),
    )
    return other, float(of_loss), flattened(shares)


def some_cases(first: int, last: int, seed: int) -> tuple[int, int, list[str]]:
    """Bits that differ, numbers that were compared, and the networks where bits differ."""
    different, compared, where = 0, 0, []
    for number in range(first, last):
        dtype = ("float32", "float64")[number % 2]
        problem = random_problem(
            number // 2, seed, activations=HOMOGENEOUS, losses=tuple(POWERS), dtype=dtype
        )
        rng = np.random.Generator(np.random.Philox(key=[seed + 2, number]))
        exponents = rng.integers(-LARGEST, LARGEST + 1, len(problem.sizes) + 1)
        other, of_loss, shares = scaled(problem, exponents)
        loss, gradient = problem.derivatives(dtype)
        found_loss, found = other.derivatives(dtype)
        bits = differing_bits(found, gradient * shares.astype(dtype))
        bits += differing_bits(found_loss, loss * of_loss)
        compared += gradient.size + 1
        if bits:
            different += bits
            where.append(f"case {number} ({problem}, {dtype}): {bits} bits")
    return different, compared, where


def check(request: Request) -> Outcome:
    """10,000 networks, or as many as the scale says."""
    cases = request.count(CASES, least=2)
    parts = list(in_shares(some_cases, cases, SHARE, request))
    different = sum(part[0] for part in parts)
    compared = sum(part[1] for part in parts)
    where = sorted(text for part in parts for text in part[2])
    return Outcome(
        promise="Where the mathematics is homogeneous, factors of powers of two change no bit.",
        cases=cases,
        unit="networks",
        result=f"{different} bits of {compared:,} numbers differ",
        method=METHOD,
        lines=[f"- numbers compared: {compared:,}", f"- bits that differ: {different}"],
        figures={"numbers": compared, "differing_bits": different},
        broken=where[:20],
    )
