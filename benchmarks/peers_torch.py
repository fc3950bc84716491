"""PyTorch as a contestant: eager, fused optimizer, data resident, shuffled with randperm."""

from __future__ import annotations

import itertools
import time

import torch

from benchmarks.workloads import Workload, initial_parameters, make_data

__all__ = ["Contestant", "versions"]

ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
LOSSES = {"mse": torch.nn.functional.mse_loss, "cross_entropy": torch.nn.functional.cross_entropy}


def versions() -> dict[str, str]:
    """What is measured."""
    return {"torch": torch.__version__}


class Contestant:
    """Trains a workload as a careful user of eager PyTorch would."""

    def __init__(self, work: Workload, threads: int, dtype: str) -> None:
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self.work = work
        X, y = make_data(work, dtype)
        self.X, self.y = torch.from_numpy(X), torch.from_numpy(y)
        self.loss = LOSSES[work.loss]
        self.reset()

    def reset(self) -> None:
        """The parameters that all libraries start from, and a new optimizer."""
        modules: list[torch.nn.Module] = []
        for a, b in itertools.pairwise(self.work.sizes):
            modules += [
                torch.nn.Linear(a, b, dtype=self.X.dtype),
                ACTIVATIONS[self.work.activation](),
            ]
        self.model = torch.nn.Sequential(*modules[:-1])
        with torch.no_grad():
            for layer, (weight, bias) in zip(
                self.model[::2], initial_parameters(self.work), strict=True
            ):
                layer.weight.copy_(torch.from_numpy(weight).T)
                layer.bias.copy_(torch.from_numpy(bias))
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[self.work.optimizer]
        self.optimizer = kind(self.model.parameters(), lr=self.work.learning_rate, fused=True)

    def compile(self) -> None:
        """Nothing is compiled; the first step builds what later steps use."""
        self.step(self.X[: self.work.batch_size], self.y[: self.work.batch_size])

    def step(self, X: torch.Tensor, y: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model(X), y).backward()
        self.optimizer.step()

    def train(self, epochs: int, latest: float) -> int:
        """Some epochs over all rows, in a new order each; returns how many rows were trained on."""
        X, y, rows, batch = self.X, self.y, self.work.rows, self.work.batch_size
        trained = 0
        for _ in range(epochs):
            for index in torch.randperm(rows).split(batch):
                self.step(X.index_select(0, index), y.index_select(0, index))
                trained += batch
                if time.perf_counter() > latest:
                    return trained
        return trained

    def loss_after(self, rows: int, epochs: int) -> tuple[float, float]:
        """The loss of the first rows before and after some epochs over them, in their order."""
        self.reset()
        X, y, batch = self.X[:rows], self.y[:rows], self.work.batch_size
        with torch.no_grad():
            before = float(self.loss(self.model(X), y))
        for _ in range(epochs):
            for part, target in zip(X.split(batch), y.split(batch), strict=True):
                self.step(part, target)
        with torch.no_grad():
            return before, float(self.loss(self.model(X), y))

    def predict(self) -> None:
        """All rows in one call."""
        with torch.inference_mode():
            self.model(self.X)

    def predict_first(self, rows: int):
        """A call that predicts the first rows, to be timed."""
        X, model = self.X[:rows].clone(), self.model

        def call():
            with torch.no_grad():
                return model(X)

        return call
