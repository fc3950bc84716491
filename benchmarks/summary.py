"""From the rounds of a run to its figures, and from those to what falls short of the goals.

Ratios are taken round by round, between turns that lie close together, and the median is of the
ratios: drift of the machine from one round to the next leaves them alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import key_of
from benchmarks.workloads import WORKLOADS

__all__ = [
    "Goal",
    "goals",
    "paired_ratio",
    "problems",
    "shortfalls",
    "single_row_overhead",
    "summarize",
]

FRAMEWORKS = ("jax", "torch")  # whose faster one the goals are set against
TWO_THREADS_LARGE = 1.7
# "Never slower than one thread": equal, to within what two runs of the same program differ by.
TWO_THREADS_SMALL = 0.97
FLOAT64_SHARE = 0.5
BATCH_PREDICTION = 2.0
SINGLE_ROW_MICROSECONDS = 5.0
STARTUP_SECONDS = {
    "import_seconds": ("import fastbp", 0.15),
    "first_training_seconds": ("first training, kernels cached", 0.7),
    "first_training_empty_cache_seconds": ("first training, empty cache", 10.0),
}


def median(numbers: list[float] | None) -> float | None:
    """The median, or None for nothing."""
    return statistics.median(numbers) if numbers else None


def paired_ratio(numerators: list[float] | None, denominators: list[float] | None) -> float | None:
    """The median of the ratios of each round, or None where one was not measured."""
    if not numerators or not denominators:
        return None
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def best(rates: dict[str, list[float]], keys: list[str]) -> str | None:
    """The contestant with the highest median, of those that were measured."""
    present = [key for key in keys if rates.get(key)]
    return max(present, key=lambda key: statistics.median(rates[key]), default=None)


def summarize(record: dict[str, Any], threads: int, dtype: str = "float32") -> dict[str, Any]:
    """The figures of one workload with some threads; None for what was not measured."""
    rates, own = record["rates"], key_of("fastbp", threads, dtype)
    measured = rates.get(own)
    faster = best(rates, [key_of(name, threads) for name in FRAMEWORKS])
    counts = range(1, threads + 1)
    fastest = best(rates, [key_of(name, n) for name in FRAMEWORKS for n in counts])
    speed = median(measured)
    peak = record["peak_gigaflops"].get(f"{threads}" if dtype == "float32" else f"{dtype}-1")
    flops = None
    if measured is not None:
        flops = [rate / record["batch_size"] * record["step_flops"] / 1e9 for rate in measured]
    share = paired_ratio(flops, peak)
    single = rates.get(key_of("fastbp", 1))
    return {
        "rates": {
            name: median(rates.get(key_of(name, threads))) for name in ("torch", "jax", "sklearn")
        }
        | {"fastbp": speed},
        "ratio": paired_ratio(measured, rates.get(faster or "")),
        "best_peer": faster,
        "ratio_to_best_thread_count": paired_ratio(measured, rates.get(fastest or "")),
        "ratio_to_sklearn": paired_ratio(measured, rates.get(key_of("sklearn", threads))),
        "ratio_to_one_thread": paired_ratio(measured, single),
        "percent_of_peak": None if share is None else 100 * share,
        "peak_gigaflops": median(peak),
        "step_microseconds": None if speed is None else record["batch_size"] / speed * 1e6,
        "compile_seconds": {
            name: record["compile_seconds"].get(key_of(name, threads)) for name in ("fastbp", "jax")
        },
    }


def single_row_overhead(latency: dict[str, list[float]]) -> float | None:
    """Microseconds of a call with one row that are not the arithmetic of its row."""
    one, many = median(latency.get("1")), median(latency.get("32"))
    return None if one is None or many is None else one - (many - one) / 31


@dataclass(frozen=True)
class Goal:
    """One figure and what it is to be.

    Attributes
    ----------
    name : str
    found : float or None
        None where it could not be measured.
    bound : float
    at_most : bool
        Whether smaller is better.
    """

    name: str
    found: float | None
    bound: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the figure is there and good enough."""
        if self.found is None:
            return False
        return self.found <= self.bound if self.at_most else self.found >= self.bound

    def __str__(self) -> str:
        found = "not measured" if self.found is None else f"{self.found:.2f}"
        return (
            f"{self.name}: {found}, to be at {'most' if self.at_most else 'least'} {self.bound:g}"
        )


def training_goals(result: dict[str, Any]) -> Iterator[Goal]:
    """Of every workload that was asked for."""
    threads = result["settings"]["threads"]
    for name, record in result["workloads"].items():
        work = WORKLOADS[name]
        for count in threads:
            plural = "s" if count > 1 else ""
            found = summarize(record, count)
            yield Goal(
                f"{name}, {count} thread{plural}, ratio to JAX and PyTorch",
                found["ratio"],
                work.goal,
            )
            if count == 2 and 1 in threads:
                bound = TWO_THREADS_LARGE if work.scales else TWO_THREADS_SMALL
                yield Goal(f"{name}, two threads by one", found["ratio_to_one_thread"], bound)
        if 1 in threads:
            share = summarize(record, 1, "float64")["ratio_to_one_thread"]
            yield Goal(f"{name}, float64 by float32", share, FLOAT64_SHARE)


def goals(result: dict[str, Any]) -> list[Goal]:
    """Every goal that a result can be held against."""
    found = list(training_goals(result))
    prediction = result.get("prediction") or {}
    for name, rates in prediction.get("batch", {}).items():
        ratio = paired_ratio(rates.get("fastbp"), rates.get("jax"))
        found.append(Goal(f"{name}, prediction in batches by JAX", ratio, BATCH_PREDICTION))
    if prediction.get("latency"):
        overhead = single_row_overhead(prediction["latency"].get("fastbp", {}))
        name = "overhead of predicting one row, microseconds"
        found.append(Goal(name, overhead, SINGLE_ROW_MICROSECONDS, at_most=True))
    for key, seconds in (result.get("startup") or {}).items():
        name, bound = STARTUP_SECONDS[key]
        found.append(Goal(f"{name}, seconds", seconds, bound, at_most=True))
    return found


def shortfalls(result: dict[str, Any]) -> list[str]:
    """What `--check` complains about: goals not reached, failed checks, failed workers."""
    complaints = [str(goal) for goal in goals(result) if not goal.reached]
    return [*problems(result), *complaints]


def problems(result: dict[str, Any]) -> list[str]:
    """Everything that went wrong in a run, in sentences."""
    found = list(result.get("verification_failures", []))
    for name, record in result["workloads"].items():
        found += [f"{name}: {message}" for message in record["errors"].values()]
    found += [
        f"{key}: {message}"
        for key, message in (result.get("prediction") or {}).get("errors", {}).items()
    ]
    return found
