"""Gradients of random networks in float64 against complex-step differentiation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from benchmarks.reliability.networks import Problem, nearest_kink, random_problem, scaled_error
from benchmarks.reliability.shares import in_shares, processes
from benchmarks.reliability.subjects import Outcome, Request
from fastbp.activations import Activation
from fastbp.backends.choose import geometry
from fastbp.losses import Loss
from fastbp.network import mlp
from fastbp.optimizers import SGD
from fastbp.warmup import build

__all__ = ["check", "errors_of"]

CASES = 100_000
SHARE = 500
BOUND = 1e-12
DTYPES = ("float64", "float32")  # float32 comes next (`float32.py`)
ENTRIES = 2  # single parameters of a network that are moved alone
NEAR = 1e-12  # of a kink: rounding may put a number on either side of it

METHOD = f"""\
Depth 1 to 5, widths 1 to 70 (four fifths below 10), batches of 1 to 200 rows (four fifths below 8),
half of them with sample weights; every pair of an activation and a loss equally often, the other
layers' activations at random. Each network has four comparisons: the loss with that of a naive
float64 program (`tests/reference.py`); every entry of the gradient with the chain rule of that
program, whose laws are differentiated by a complex step; the slope along a random direction through
all parameters, sum |d| = 1, with one complex step of the whole network, which knows nothing of the
chain rule; and {ENTRIES} parameters that are moved alone in the same way. Errors are
max |g - g*| / max(1, max |g*|). Where a derivative jumps (relu at 0), rounding may put a number on
either side: of a network above the bound that comes as near to a kink as {NEAR:g}, it is said and
it is not counted as a failure. None is left out beforehand."""


def errors_of(problem: Problem, rng: np.random.Generator) -> dict[str, float]:
    """The scaled errors of one network, by what was compared."""
    loss, gradient = problem.derivatives()
    expected_loss, expected = problem.expected()
    scale = max(1.0, float(np.abs(expected).max()))
    direction = rng.uniform(-1.0, 1.0, expected.size)
    direction /= np.abs(direction).sum()
    errors = {
        "loss": scaled_error(loss, expected_loss),
        "gradient": scaled_error(gradient, expected),
        "direction": abs(problem.slope(direction) - float(gradient @ direction)) / scale,
        "entries": 0.0,
    }
    for place in rng.integers(0, expected.size, ENTRIES):
        unit = np.zeros(expected.size)
        unit[place] = 1.0
        error = abs(problem.slope(unit) - float(gradient[place])) / scale
        errors["entries"] = max(errors["entries"], error)
    return errors


def some_cases(first: int, last: int, seed: int) -> dict[str, Any]:
    """The largest errors of some networks, by comparison, activation and loss."""
    largest: dict[str, float] = {}
    pairs: dict[str, float] = {}
    failures, kinks, parameters = [], [], 0
    for number in range(first, last):
        problem = random_problem(number, seed)
        errors = errors_of(problem, np.random.Generator(np.random.Philox(key=[seed + 1, number])))
        worst = max(errors.values())
        parameters += problem.flat.size
        if not worst <= BOUND:
            near = nearest_kink(problem) < NEAR
            (kinks if near else failures).append(f"network {number} ({problem}): {worst:.2g}")
            if near:
                continue
        for name, error in errors.items():
            largest[name] = max(largest.get(name, 0.0), error)
        for name in {*problem.activations, problem.loss}:
            pairs[name] = max(pairs.get(name, 0.0), worst)
    return {
        "largest": largest,
        "by_law": pairs,
        "failures": failures,
        "kinks": kinks,
        "parameters": parameters,
    }


def compile_gradients(dtype: str) -> None:
    """Compile what gradients of networks need, with every activation and every loss."""
    activations, losses = (
        [family.resolve(name) for name in family.names()] for family in (Activation, Loss)
    )
    for activation, loss in zip(activations, itertools.cycle(losses), strict=False):
        for units, rows in ((5, geometry("cpu").lane_rows), (70, 2)):  # in lanes, and not
            network = mlp(3, units, 2, activation=activation)
            build(network, "gradient", loss, SGD(), dtype, rows)


def compile_ahead(request: Request) -> None:
    """Fill the cache of kernels, each worker with those of one precision.

    Workers that begin with the cases would all compile the same.
    """
    if request.workers > 1 and request.scale >= 1.0:  # a few cases need few laws
        with processes(request) as pool:
            list(pool.map(compile_gradients, DTYPES))


def merge(into: dict[str, float], found: dict[str, float]) -> None:
    """The larger of two numbers for every name."""
    for name, value in found.items():
        into[name] = max(into.get(name, 0.0), value)


def check(request: Request) -> Outcome:
    """100,000 networks, or as many as the scale says."""
    cases = request.count(CASES)
    largest: dict[str, float] = {}
    by_law: dict[str, float] = {}
    failures: list[str] = []
    kinks: list[str] = []
    parameters = 0
    compile_ahead(request)
    for part in in_shares(some_cases, cases, SHARE, request):
        merge(largest, part["largest"])
        merge(by_law, part["by_law"])
        failures += part["failures"]
        kinks += part["kinks"]
        parameters += part["parameters"]
    words = {
        "loss": "loss",
        "gradient": "every entry, by the chain rule",
        "direction": "slope along a direction",
        "entries": "single parameters",
    }
    lines = [f"- {words[name]}: largest error {error:.2g}" for name, error in largest.items()]
    lines.append(f"- derivatives compared: {parameters:,}")
    for family, names in (("activation", Activation.names()), ("loss", Loss.names())):
        worst = sorted((name for name in names if name in by_law), key=lambda n: -by_law[n])[:3]
        if worst:
            found = ", ".join(f"{name} {by_law[name]:.2g}" for name in worst)
            lines.append(f"- largest by {family}: {found}")
    lines += [f"- at a kink: {text}" for text in kinks]
    worst_error = max(largest.values(), default=0.0)
    return Outcome(
        promise=f"Gradients in float64 are exact to rounding: scaled error at most {BOUND:g}.",
        cases=cases,
        unit="networks",
        result=f"largest error {worst_error:.2g}, {len(failures)} above {BOUND:g}",
        method=METHOD,
        lines=lines,
        figures={
            "bound": BOUND,
            "largest": largest,
            "by_law": dict(sorted(by_law.items())),
            "failures": len(failures),
            "at_kinks": kinks,
            "derivatives": parameters,
        },
        broken=failures[:20] + ([f"and {len(failures) - 20} more"] if len(failures) > 20 else []),
    )
