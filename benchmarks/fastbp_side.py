"""fastbp as a contestant, through its public API alone."""

from __future__ import annotations

import numpy as np

import fastbp as fb
from benchmarks.workloads import Workload, initial_parameters, make_data

__all__ = ["Contestant", "make_model", "versions"]


def versions() -> dict[str, str]:
    """What is measured."""
    from importlib.metadata import version

    return {"fastbp": fb.__version__, "numba": version("numba"), "numpy": np.__version__}


def make_model(work: Workload, dtype: str = "float32") -> fb.Model:
    """A model with the parameters that all libraries start from."""
    inputs, *rest = work.sizes
    model = fb.Model(fb.mlp(inputs, *rest, activation=work.activation), dtype=dtype)
    for i, (weight, bias) in enumerate(initial_parameters(work)):
        model.weights[f"{i}.weight"][...] = weight
        model.weights[f"{i}.bias"][...] = bias
    return model


class Contestant:
    """Trains a workload with `fb.train`; a run is one call, so all its Python counts."""

    def __init__(self, work: Workload, threads: int, dtype: str) -> None:
        self.work, self.threads, self.dtype = work, threads, dtype
        self.X, self.y = make_data(work, dtype)
        self.model = make_model(work, dtype)
        kind = {"adam": fb.Adam, "sgd": fb.SGD}[work.optimizer]
        self.optimizer = kind(work.learning_rate)

    def compile(self) -> None:
        """The first call: one step."""
        self.train_rows(self.work.batch_size, 1, shuffle=True)

    def train(self, epochs: int, latest: float) -> int:
        """Some epochs over all rows; returns how many rows were trained on."""
        self.train_rows(self.work.rows, epochs, shuffle=True)
        return epochs * self.work.rows

    def train_rows(self, rows: int, epochs: int, shuffle: bool) -> None:
        fb.train(
            self.model,
            self.X[:rows],
            self.y[:rows],
            loss=self.work.loss,
            optimizer=self.optimizer,
            epochs=epochs,
            batch_size=self.work.batch_size,
            shuffle=shuffle,
            threads=self.threads,
            progress=False,
        )

    def loss_after(self, rows: int, epochs: int) -> tuple[float, float]:
        """The loss of the first rows before and after some epochs over them, in their order."""
        self.model = make_model(self.work, self.dtype)
        before = self.model.loss(self.X[:rows], self.y[:rows], self.work.loss)
        self.train_rows(rows, epochs, shuffle=False)
        return before, self.model.loss(self.X[:rows], self.y[:rows], self.work.loss)

    def predict(self) -> None:
        """All rows in one call."""
        self.model.predict(self.X)

    def predict_first(self, rows: int):
        """A call that predicts the first rows, to be timed."""
        X = np.ascontiguousarray(self.X[:rows])
        predict = self.model.predict
        return lambda: predict(X)
