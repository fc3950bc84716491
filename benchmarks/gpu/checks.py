"""What helpers check: golden trajectories, the processor's results, the same bits in every run."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import fastbp as fb
from benchmarks.fastbp_side import make_model
from benchmarks.gpu.helpers import Failed
from benchmarks.gpu.rows import data_for
from benchmarks.processes import ROOT
from benchmarks.workloads import WORKLOADS, Workload, make_data
from fastbp.backends.cuda import tuning

__all__ = ["COMMANDS", "GOLDEN_CASES", "WAYS", "running"]

GOLDEN_CASES = 49
GOLDEN_EPOCHS = 30
# Those of tests/test_golden.py. Under the hinge some gradients cancel to zero, and Adam divides the
# rounding noise that is left by its own size.
GOLDEN_BOUNDS = {"float64": 1e-10, "float32": 1e-5}
NOISE_BOUNDS = {"float64": 1e-8, "float32": 2e-2}

STEP_BOUND = 1e-12
# Parameters that start a last bit apart are within 1e-13 of one another after an epoch on the
# processor, for every workload; an epoch rounds differently some thousand times.
EPOCH_BOUND = 1e-9

# Numbers of `tuning` with which every plan is run one way.
WAYS = {
    "resident": {"RESIDENT_MULTIPLY_ADDS": 1 << 60, "FUSED_COLUMNS": 256},
    "fused": {"RESIDENT_MULTIPLY_ADDS": 0, "FUSED_COLUMNS": 256},
    "layered": {"RESIDENT_MULTIPLY_ADDS": 0, "FUSED_COLUMNS": 0},
}
HASHED_BATCHES = 4
OPTIMIZERS = {"adam": fb.Adam, "sgd": fb.SGD}


def scaled_error(found: ArrayLike, expected: ArrayLike) -> float:
    """max |a - b| / max(1, max |b|)."""
    a, b = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    return float(np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(b))))


def golden() -> ModuleType:
    """tests/golden.py, which is not in a package."""
    folder = str(ROOT / "tests")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import golden

    return golden  # type: ignore[no-any-return]


def train_golden(number: int, dtype: str, epochs: int, device: str) -> tuple[fb.Model, Any]:
    """The model of a golden case after some epochs, and the result."""
    stored = golden()
    case = stored.CASES[number]
    model = stored.model(case, dtype)
    X, y, weights = stored.data(case)
    penalties = {key: case[key] for key in ("clip_norm", "clip_value", "l1", "l2") if key in case}
    result = fb.train(
        model,
        X,
        y,
        loss=stored.loss(case),
        optimizer=stored.optimizer(case),
        epochs=epochs,
        batch_size=16,
        shuffle=False,
        sample_weight=weights,
        device=device,
        progress=False,
        **penalties,
    )
    return model, result


def golden_bound(number: int, dtype: str) -> float:
    """How far a trajectory may be from the stored one."""
    case = golden().CASES[number]
    is_noisy = (case["loss"], case["optimizer"]) == ("hinge", "adam")
    return (NOISE_BOUNDS if is_noisy else GOLDEN_BOUNDS)[dtype]


def check_golden(
    number: int, dtype: str, epochs: int = GOLDEN_EPOCHS, device: str = "cuda"
) -> dict[str, Any]:
    """A golden trajectory: all losses and, after all epochs, the weights."""
    stored = golden()
    model, result = train_golden(number, dtype, epochs, device)
    worst = scaled_error(result.history["loss"], stored.STORED[f"{number}/losses"][:epochs])
    if epochs == GOLDEN_EPOCHS:
        for name, values in model.weights.items():
            expected = stored.STORED[f"{number}/final/{name}"]
            worst = max(worst, scaled_error(values, expected))
    bound = golden_bound(number, dtype)
    if not worst <= bound:
        raise Failed(f"{stored.label(number)}, {dtype}: off by {worst:.1e}; at most {bound:.0e}")
    return {"error": worst}


def train_workload(
    work: Workload, dtype: str, rows: int, device: str, epochs: int = 1
) -> tuple[fb.Model, Any]:
    """A model after some epochs over the first rows, shuffled if there are several batches."""
    X, y = make_data(work, dtype) if dtype == "float64" else data_for(work)
    model = make_model(work, dtype)
    result = fb.train(
        model,
        X[:rows],
        y[:rows],
        loss=work.loss,
        optimizer=OPTIMIZERS[work.optimizer](work.learning_rate),
        epochs=epochs,
        batch_size=work.batch_size,
        device=device,
        threads=1,  # on the processor, whose cores have other checks to do
        progress=False,
    )
    return model, result


def check_against_processor(workload: str | Workload, device: str = "cuda") -> dict[str, Any]:
    """A step and an epoch in float64 on both."""
    work = WORKLOADS[workload] if isinstance(workload, str) else workload
    errors = {}
    for name, rows, bound in (
        ("step", work.batch_size, STEP_BOUND),
        ("epoch", work.rows, EPOCH_BOUND),
    ):
        (own, on_gpu), (model, expected) = (
            train_workload(work, "float64", rows, where) for where in (device, "cpu")
        )
        errors[name] = max(
            scaled_error(own.parameters, model.parameters),
            scaled_error(on_gpu.history["loss"], expected.history["loss"]),
        )
        if not errors[name] <= bound:
            raise Failed(f"{work.name}: a {name} is off by {errors[name]:.1e}; at most {bound:.0e}")
    return errors


@contextlib.contextmanager
def running(way: str) -> Iterator[None]:
    """Have every plan run one way."""
    before = {name: getattr(tuning, name) for name in WAYS[way]}
    try:
        for name, value in WAYS[way].items():
            setattr(tuning, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(tuning, name, value)


def train_one_way(work: Workload, way: str, dtype: str, device: str) -> tuple[fb.Model, Any]:
    """A model after two epochs of a few batches, run one way."""
    with running(way):
        return train_workload(work, dtype, HASHED_BATCHES * work.batch_size, device, epochs=2)


def hash_runs(
    workload: str | Workload, way: str, dtype: str, runs: int, device: str = "cuda"
) -> dict[str, Any]:
    """Digests of parameters and losses, one for each run."""
    work = WORKLOADS[workload] if isinstance(workload, str) else workload
    digests = []
    for _ in range(runs):
        model, result = train_one_way(work, way, dtype, device)
        content = model.parameters.tobytes() + result.history["loss"].tobytes()
        digests.append(hashlib.sha256(content).hexdigest()[:16])
    return {"digests": digests}


COMMANDS = {
    "golden": check_golden,
    "against_processor": check_against_processor,
    "hashes": hash_runs,
}
