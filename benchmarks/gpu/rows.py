"""The rows of the table of speeds: workloads of ``benchmarks``, and one network at many batches."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workloads import WORKLOADS, Workload, make_data

__all__ = ["GROUPS", "ROWS", "Row", "data_for"]

NAMES = ("tiny", "surrogate", "actor", "mnist_mlp", "wide")
SLOTS = {"adam": 2, "sgd": 0}  # numbers that an optimizer keeps for each parameter
LABEL_BYTES = 8
GOALS = {"tiny": 10.0, "surrogate": 10.0}  # by the best peer; 1 for all others
RELU64_SIZES = (64, *[64] * 5, 16)
BATCHES = tuple(2**n for n in (10, 12, 14, 16, 18, 20, 21))
RELU64_ROWS = 2**18
DISTINCT_ROWS = 65_536  # more rows than these repeat them

CHECK_STEPS = 16
# The processor takes the same steps: about ten seconds for so many operations.
CHECK_FLOPS = 5e11
# Of a loss after equal steps against the processor's, relative. tf32 has 10 bits, bfloat16 has 7.
LOSS_BOUNDS = {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes
    ----------
    name, group : str
        The group is what ``--workloads`` names.
    work : Workload
    precision : str
        ``"float32"``, ``"tf32"`` or ``"bf16"``: of the products.
    goal : float
        The ratio to the best peer that fastbp is to be above.
    """

    name: str
    group: str
    work: Workload
    precision: str = "float32"
    goal: float = 1.0

    @property
    def weights(self) -> int:
        """Weights of the network, without biases."""
        return sum(a * b for a, b in itertools.pairwise(self.work.sizes))

    @property
    def step_flops(self) -> int:
        """Three passes of two operations for each weight and row."""
        return 3 * 2 * self.work.batch_size * self.weights

    @property
    def step_bytes(self) -> int:
        """The least that a step moves, if nothing stays in caches from one step to the next.

        Inputs and targets of the batch are read once, parameters and the optimizer's slots read and
        written once; no activation and no gradient leaves the processor.
        """
        work = self.work
        inputs, outputs = work.sizes[0], work.sizes[-1]
        target = LABEL_BYTES if work.loss == "cross_entropy" else 4 * outputs
        parameters = self.weights + sum(work.sizes[1:])
        state = 4 * parameters * (1 + SLOTS[work.optimizer])
        return work.batch_size * (4 * inputs + target) + 2 * state

    @property
    def check_steps(self) -> int:
        """How many steps are compared with the processor's: a power of two."""
        steps = CHECK_STEPS
        while steps > 2 and steps * self.step_flops > CHECK_FLOPS:
            steps //= 2
        return steps

    @property
    def check_rows(self) -> int:
        """The rows of those steps; they are gone through several times where there are few."""
        return min(self.check_steps, self.work.steps_per_epoch) * self.work.batch_size

    @property
    def check_epochs(self) -> int:
        """How many times."""
        return self.check_steps * self.work.batch_size // self.check_rows

    @property
    def loss_bound(self) -> float:
        """How far the loss after those steps may be from the processor's."""
        return LOSS_BOUNDS[self.precision]


def relu64(batch: int) -> Row:
    """Five hidden layers of 64 units at a batch size."""
    rows = max(RELU64_ROWS, 2 * batch)
    name = f"relu64 {batch:,}"
    work = Workload(
        name, RELU64_SIZES, "relu", "mse", "adam", 1e-3, batch, rows, goal=1.0, scales=True
    )
    return Row(name, "relu64", work)


def all_rows() -> list[Row]:
    """In the order of the table."""
    found = [Row(name, name, WORKLOADS[name], goal=GOALS.get(name, 1.0)) for name in NAMES]
    found += [relu64(batch) for batch in BATCHES]
    found += [Row(f"wide {kind}", "wide", WORKLOADS["wide"], kind) for kind in ("tf32", "bf16")]
    return found


ROWS = {row.name: row for row in all_rows()}
GROUPS = tuple(dict.fromkeys(row.group for row in ROWS.values()))


def data_for(work: Workload) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and targets in float32."""
    distinct = min(work.rows, DISTINCT_ROWS)
    X, y = make_data(dataclasses.replace(work, rows=distinct))
    times = work.rows // distinct
    if times > 1:
        X, y = np.tile(X, (times, 1)), np.tile(y, (times, *[1] * (y.ndim - 1)))
    return X, y
