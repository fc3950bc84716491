"""What a fresh process waits for: the import, the first training, and the first one ever.

Every figure is the time of a whole process. The import is that of ``import fastbp`` less that of an
empty program; the two take turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from benchmarks.processes import source_environment

__all__ = ["measure_startup"]

REPETITIONS = 7
TRAINING = """
import numpy as np
import fastbp as fb
X = np.random.default_rng(0).normal(size=(1024, 4)).astype("float32")
model = fb.Model(fb.mlp(4, 32, 32, 1, activation="tanh"))
fb.train(model, X, X[:, :1], epochs=1, batch_size=32, progress=False)
"""


def process_seconds(program: str, environment: dict[str, str]) -> float:
    """Wall time of a fresh interpreter that runs a program."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    return time.perf_counter() - started


def measure_startup(say: Callable[[str], None]) -> dict[str, float]:
    """Seconds of the import, of a first training with cached kernels, and with none."""
    environment = source_environment()
    say("start-up: import")
    process_seconds("import fastbp", environment)  # its bytecode is on disk then
    extra = [
        process_seconds("import fastbp", environment) - process_seconds("pass", environment)
        for _ in range(REPETITIONS)
    ]
    say("start-up: first training, without and with cached kernels")
    with tempfile.TemporaryDirectory() as folder:
        environment["FASTBP_CACHE_DIR"] = folder
        cold = process_seconds(TRAINING, environment)
        warm = [process_seconds(TRAINING, environment) for _ in range(REPETITIONS)]
    return {
        "import_seconds": statistics.median(extra),
        "first_training_seconds": statistics.median(warm),
        "first_training_empty_cache_seconds": cold,
    }
