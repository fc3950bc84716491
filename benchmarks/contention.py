"""Training beside other programs on the same cores: ``python -m benchmarks.contention``.

N processes keep a core busy each while 8-128-128-1 is trained (batch 64, 20 epochs of 15,000 rows)
on one thread, on two with serial trials (the engine's rule), and on two without them. All three are
checked to give the same bits. Prints a Markdown table of seconds, the median of three rounds.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from unittest import mock

import numpy as np

import fastbp as fb
from fastbp.backends.cpu.pace import Pace

ROUNDS = 3


def always_parallel(pace):
    """A pace without trials."""
    return pace.may_run_parallel, pace.batches


def train(X, threads, trials):
    """Seconds of one training, and its parameters."""
    model = fb.Model(fb.mlp(8, 128, 128, 1))
    with mock.patch.object(Pace, "next_call", Pace.next_call if trials else always_parallel):
        result = fb.train(model, X, X[:, 0], epochs=20, batch_size=64, threads=threads)
    return result.seconds, model.parameters


def main():
    """The table."""
    X = np.random.default_rng(0).normal(size=(15_000, 8)).astype("float32")
    kinds = {"one thread": (1, True), "two threads": (2, True), "two, no trials": (2, False)}
    print("| busy processes | " + " | ".join(kinds) + " |")
    print("|---" * (1 + len(kinds)) + "|")
    for busy in range(4):
        command = [sys.executable, "-c", "while True: pass"]
        others = [subprocess.Popen(command) for _ in range(busy)]
        try:
            seconds = {kind: [] for kind in kinds}
            parameters = []
            for _ in range(ROUNDS):
                for kind, (threads, trials) in kinds.items():
                    elapsed, found = train(X, threads, trials)
                    seconds[kind].append(elapsed)
                    parameters.append(found)
        finally:
            for process in others:
                process.kill()
        assert all(np.array_equal(found, parameters[0]) for found in parameters)
        cells = [f"{statistics.median(seconds[kind]):.2f}" for kind in kinds]
        print(f"| {busy} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
