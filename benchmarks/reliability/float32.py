"""Gradients of random networks in float32 against the reference in float64."""

from __future__ import annotations

import numpy as np

from benchmarks.reliability.networks import nearest_kink, random_problem, scaled_error
from benchmarks.reliability.shares import in_shares
from benchmarks.reliability.subjects import Outcome, Request

__all__ = ["check"]

CASES = 20_000
SHARE = 250
EPSILON = float(np.finfo(np.float32).eps)
THRESHOLD = 4.0
NEAR = 1e-5  # of a kink
PERCENTILES = (50, 90, 99, 99.9, 100)

METHOD = f"""\
The same kind of networks, all numbers rounded to float32 first, so that what is measured is the
arithmetic alone. The error max |g - g*| / max(1, max |g*|) is given in units of 2**-23 times
(depth + largest fan-in): every layer rounds, and a sum of n terms rounds n times. The threshold is
{THRESHOLD:g} units. Where a derivative jumps, float32 may come out on the other side; of a network
above the threshold with a number within {NEAR:g} of a kink it is said and it is not counted."""


def some_cases(first: int, last: int, seed: int) -> list[tuple[float, float, float, str]]:
    """Of each network: the errors of gradient and loss in units, and how near a kink it comes."""
    found = []
    for number in range(first, last):
        problem = random_problem(number, seed, dtype="float32")
        loss, gradient = problem.derivatives("float32")
        expected_loss, expected = problem.expected()
        unit = EPSILON * (len(problem.activations) + max(problem.sizes[:-1]))
        error = scaled_error(gradient, expected) / unit
        of_loss = scaled_error(loss, expected_loss) / unit
        is_large = not max(error, of_loss) <= THRESHOLD
        near = nearest_kink(problem) if is_large else np.inf
        text = f"network {number} ({problem}): {max(error, of_loss):.3g} units" if is_large else ""
        found.append((error, of_loss, near, text))
    return found


def check(request: Request) -> Outcome:
    """20,000 networks, or as many as the scale says."""
    cases = request.count(CASES)
    found = [case for part in in_shares(some_cases, cases, SHARE, request) for case in part]
    kinks = sorted(text for _, _, near, text in found if text and near < NEAR)
    failures = sorted(text for _, _, near, text in found if text and not near < NEAR)
    counted = [case for case in found if not case[3] or not case[2] < NEAR]
    figures: dict[str, dict[str, float]] = {}
    for place, name in enumerate(("gradient", "loss")):
        values = np.array([case[place] for case in counted])
        figures[name] = {f"{p:g}%": float(np.percentile(values, p)) for p in PERCENTILES}
    lines = [
        f"- {name}: "
        + ", ".join(f"{p} of the networks below {value:.3g}" for p, value in values.items())
        for name, values in figures.items()
    ]
    lines += [f"- at a kink: {text}" for text in kinks]
    spread = figures["gradient"]
    return Outcome(
        promise="Gradients in float32 are within the rounding of their sums.",
        cases=cases,
        unit="networks",
        result=f"median {spread['50%']:.2g}, 99% below {spread['99%']:.2g}, largest "
        f"{spread['100%']:.2g} of {THRESHOLD:g} units",
        method=METHOD,
        lines=lines,
        figures={"threshold": THRESHOLD, **figures, "at_kinks": kinks, "failures": len(failures)},
        broken=failures[:20],
    )
