"""The workloads: shapes, batches, optimizers, data, and how much arithmetic a step is.

Nothing here imports fastbp or a peer, so that every worker builds the same data and the same
initial parameters from NumPy alone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORKLOADS", "Workload", "initial_parameters", "make_data"]

DATA_SEED, TEACHER_SEED, PARAMETER_SEED = 1, 2, 3
TEACHER_UNITS = 16
NOISE = 0.05  # of the real targets
RANDOM_LABELS = 0.1  # the share of labels that are drawn at random


@dataclass(frozen=True)
class Workload:
    """A network with the way that it is trained.

    Attributes
    ----------
    name : str
    sizes : tuple of int
        Inputs, units of each hidden layer, outputs.
    activation : str
        Of the hidden layers; the last layer is linear.
    loss : str
        ``"mse"`` or ``"cross_entropy"``.
    optimizer : str
        ``"adam"`` or ``"sgd"``.
    learning_rate : float
    batch_size : int
        Divides `rows`, so that every step of every library is the same amount of work.
    rows : int
    goal : float
        The ratio to the faster of JAX and PyTorch that fastbp is to reach.
    scales : bool
        Whether a step is enough work for two threads to be 1.7 times faster than one.
    """

    name: str
    sizes: tuple[int, ...]
    activation: str
    loss: str
    optimizer: str
    learning_rate: float
    batch_size: int
    rows: int
    goal: float
    scales: bool

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.rows // self.batch_size

    @property
    def step_flops(self) -> int:
        """Floating-point operations of the matrix products of one step.

        Forward, the gradient of the weights, and the gradient of the data for all layers but the
        first; a multiplication and an addition count as two. Activations, loss and optimizer are
        not counted, so the percentage of the peak is that of useful products.
        """
        products = [a * b for a, b in itertools.pairwise(self.sizes)]
        return 2 * self.batch_size * (3 * sum(products) - products[0])

    def describe(self) -> str:
        """One line, as in the table of the documents."""
        inputs, *hidden, outputs = self.sizes
        repeated = [
            f"{count}x{size}" if (count := len(list(group))) > 2 else "-".join([str(size)] * count)
            for size, group in itertools.groupby(hidden)
        ]
        shape = "-".join([str(inputs), *repeated, str(outputs)])
        loss = {"mse": "mse", "cross_entropy": "ce"}[self.loss]
        optimizer = {"adam": "Adam", "sgd": "SGD"}[self.optimizer]
        full = self.batch_size == self.rows
        batch = f"full batch {self.rows:,}" if full else f"batch {self.batch_size}"
        return f"{shape} {self.activation}, {loss}, {optimizer}, {batch}"


def workload(name, sizes, activation, loss, optimizer, rate, batch, rows, goal, scales=False):
    """A row of the table below, by its name."""
    return name, Workload(name, sizes, activation, loss, optimizer, rate, batch, rows, goal, scales)


WORKLOADS: dict[str, Workload] = dict(
    [
        workload("tiny", (4, 32, 32, 1), "tanh", "mse", "adam", 1e-3, 32, 65_536, 4.5),
        workload("surrogate", (8, 64, 64, 1), "tanh", "mse", "adam", 1e-3, 256, 65_536, 3.0),
        workload("simplechains", (4, 32, 16, 4), "tanh", "mse", "adam", 1e-3, 10_000, 10_000, 6.0),
        workload(
            "deep_narrow", (16, *[32] * 8, 4), "relu", "mse", "adam", 1e-3, 64, 32_768, 3.0
        ),
        workload("online", (10, 32, 1), "tanh", "mse", "sgd", 0.01, 1, 16_384, 3.0),
        workload("actor", (17, 256, 256, 6), "relu", "mse", "adam", 1e-3, 256, 65_536, 1.4, True),
        workload("higgs", (28, *[300] * 5, 1), "tanh", "mse", "sgd", 0.01, 100, 20_000, 1.2, True),
        workload(
            "mnist_small", (784, 128, 10), "relu", "cross_entropy", "sgd", 0.05, 128, 20_480,
            1.25, True,
        ),
        workload(
            "mnist_mlp", (784, 512, 512, 10), "relu", "cross_entropy", "adam", 1e-3, 256, 20_480,
            1.15, True,
        ),
        workload(
            "wide", (1024, 2048, 2048, 10), "relu", "cross_entropy", "adam", 1e-3, 512, 4_096,
            1.15, True,
        ),
    ]
)  # fmt: skip


def make_data(work: Workload, dtype: str = "float32") -> tuple[NDArray[Any], NDArray[Any]]:
    """Standard normal inputs, and targets of a smooth teacher with some noise.

    The noise keeps gradients from fading away over a long run: numbers below the normal range would
    slow the libraries down that do not flush them to zero.

    Parameters
    ----------
    work : Workload
    dtype : str

    Returns
    -------
    X : array (rows, inputs)
    y : array (rows, outputs), or (rows,) of integers for cross_entropy
    """
    inputs, outputs = work.sizes[0], work.sizes[-1]
    generator = np.random.default_rng(DATA_SEED)
    teacher = np.random.default_rng(TEACHER_SEED)
    X = generator.standard_normal((work.rows, inputs), dtype=np.float32)
    first = teacher.normal(size=(inputs, TEACHER_UNITS)) / math.sqrt(inputs)
    second = teacher.normal(size=(TEACHER_UNITS, outputs)) / math.sqrt(TEACHER_UNITS)
    values = np.tanh(X @ first) @ second
    if work.loss == "cross_entropy":
        labels = values.argmax(axis=1)
        random = generator.random(work.rows) < RANDOM_LABELS
        labels[random] = generator.integers(outputs, size=int(random.sum()))
        return X.astype(dtype), labels.astype(np.int64)
    values += NOISE * generator.standard_normal(values.shape)
    return X.astype(dtype), np.ascontiguousarray(values, dtype=dtype)


def initial_parameters(work: Workload) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """[(W (inputs, units), b (units,)), ...] in float32, the same for every library.

    Weights are normal with variance 1 / inputs; biases are small and not zero, so that a library
    that lost them would be found out.
    """
    generator = np.random.default_rng(PARAMETER_SEED)
    return [
        (
            (generator.standard_normal((a, b)) / math.sqrt(a)).astype(np.float32),
            (0.1 * generator.standard_normal(b)).astype(np.float32),
        )
        for a, b in itertools.pairwise(work.sizes)
    ]
