"""The measurements behind fastbp/backends/cpu/tuning.py: ``python -m benchmarks.tuning``.

Every configuration is first checked (same bits as the default one, or the same numbers up to
rounding where sums run in another order) and then timed, all of them in
turn, several rounds, so that drift of the machine hits all alike. Prints Markdown tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import platform
import statistics
import time

import numpy as np

import fastbp as fb
from fastbp.backends.cpu import tuning
from fastbp.backends.cpu.engine import Engine
from fastbp.backends.cpu.processor import available_threads
from fastbp.losses import Mse
from fastbp.plan import build_plan

NETWORKS = {
    "tiny 4-32-32-1, batch 32": (fb.mlp(4, 32, 32, 1, activation="tanh"), 32),
    "surrogate 8-64-64-1, batch 256": (fb.mlp(8, 64, 64, 1, activation="tanh"), 256),
    "actor 17-256-256-6, batch 256": (fb.mlp(17, 256, 256, 6), 256),
    "higgs 28-5x300-1, batch 100": (fb.mlp(28, *[300] * 5, 1, activation="tanh"), 100),
    "mnist 784-128-10, batch 128": (fb.mlp(784, 128, 10), 128),
}
NARROW = {
    "4-32-16-4": fb.mlp(4, 32, 16, 4),
    "4-32-32-1": fb.mlp(4, 32, 32, 1, activation="tanh"),
    "16-8x32-4": fb.mlp(16, *[32] * 8, 4),
    "30-40-40-10": fb.mlp(30, 40, 40, 10),
}
ROUNDS, SECONDS = 5, 0.1


def make_engine(network, batch, geometry, parallel, threads):
    """A training engine on random data, checked to run."""
    plan = build_plan(
        network, "train", "float32", batch, geometry, loss=Mse(), optimizer=fb.Adam(1e-4)
    )
    engine = Engine(plan, threads, parallel=parallel)
    rows = 8 * batch
    rng = np.random.default_rng(0)
    engine.load_parameters(fb.Model(network).parameters)
    engine.bind("data.inputs", rng.normal(size=(rows, network.inputs)).astype("float32"))
    engine.bind("data.targets", rng.normal(size=(rows, network.outputs)).astype("float32"))
    engine.bind("data.weights", None)
    engine.begin_epoch(rows, shuffle_seed=0, learning_rates=np.full(8, 1e-4))
    return engine


def parameters_after(engine, network):
    """Parameters after one epoch, for the check."""
    engine.run(0, 8)
    flat = np.empty(network.parameter_count, dtype="float32")
    engine.store_parameters(flat)
    return flat


def microseconds(engine):
    """Microseconds a step."""
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        engine.run(0, 8)
        steps += 8
    return (time.perf_counter() - started) / steps * 1e6


def compare(configurations, networks=None, bound=0.0):
    """Median microseconds a step of each (geometry, parallel, threads), for each network.

    After an epoch, parameters may differ by `bound`.
    """
    networks = networks or NETWORKS
    print("| network | " + " | ".join(configurations) + " |")
    print("|---" * (1 + len(configurations)) + "|")
    for name, (network, batch) in networks.items():
        engines = {
            key: make_engine(network, batch, *arguments)
            for key, arguments in configurations.items()
        }
        results = [parameters_after(engine, network) for engine in engines.values()]
        for one, other in itertools.pairwise(results):
            assert np.max(np.abs(one - other)) <= bound, "configurations differ in their results"
        times = {key: [] for key in engines}
        for _ in range(ROUNDS):
            for key, engine in engines.items():
                times[key].append(microseconds(engine))
        cells = [f"{statistics.median(times[key]):.1f}" for key in engines]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print()


def main():
    """All tables."""
    base, most = tuning.GEOMETRY, available_threads()
    print(f"{platform.machine()}, {most} threads, float32, Adam; microseconds a step (median of")
    print(f"{ROUNDS} rounds)\n")
    print("Row block, serial:\n")
    compare(
        {
            f"{rows} rows": (dataclasses.replace(base, row_block=rows), False, 1)
            for rows in (16, 32, 64, 128, 256)
        }
    )
    print("Tile of parameters, serial:\n")
    compare(
        {
            f"{size} elements": (dataclasses.replace(base, tile_elements=size), False, 1)
            for size in (1024, 2048, 4096, 8192)
        }
    )
    print("Rows of a segment, serial, one batch of all rows:\n")
    compare(
        {
            f"{rows} rows": (
                dataclasses.replace(base, segment_rows=rows, lane_rows=0),
                False,
                1,
            )
            for rows in (128, 256, 1024, 4096, 10_000)
        },
        {"simplechains, units in lanes": (fb.mlp(4, 32, 16, 4, activation="tanh"), 10_000)},
    )
    print("Rows or units in lanes, serial:\n")
    compare(
        {
            "units in lanes": (dataclasses.replace(base, lane_rows=0), False, 1),
            "rows in lanes": (dataclasses.replace(base, lane_rows=1), False, 1),
        },
        {
            f"{name}, batch {batch}": (network, batch)
            for name, network in NARROW.items()
            for batch in (32, 64, 128, 512)
        },
        bound=1e-4,
    )
    if most > 1:
        print("Serial and parallel, beside the multiply-adds of a step:\n")
        for name, (network, batch) in NETWORKS.items():
            print(f"- {name}: {3 * batch * network.parameter_count:,}")
        print()
        compare(
            {
                "serial": (base, False, 1),
                "parallel, 2 threads": (base, True, 2),
            }
        )


if __name__ == "__main__":
    main()
