"""scikit-learn as a contestant: MLPRegressor and MLPClassifier, its own shuffle and initial values.

Its squared error is half of fastbp's, a factor in the gradient that costs no time. Early stopping,
penalty and momentum are off. A run is one call of `fit`, which checks the data and draws initial
values once.
"""

from __future__ import annotations

import warnings

import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

from benchmarks.workloads import Workload, make_data

__all__ = ["Contestant", "versions"]


def versions() -> dict[str, str]:
    """What is measured."""
    return {"scikit-learn": sklearn.__version__}


class Contestant:
    """Trains a workload with scikit-learn's own mini-batch loop."""

    def __init__(self, work: Workload, threads: int, dtype: str) -> None:
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is told how many epochs to run
        self.limits = threadpool_limits(threads)
        self.work = work
        self.X, self.y = make_data(work, dtype)
        if self.y.ndim == 2 and self.y.shape[1] == 1:
            self.y = self.y[:, 0]

    def estimator(self, epochs: int, batch: int):
        kind = MLPClassifier if self.work.loss == "cross_entropy" else MLPRegressor
        return kind(
            hidden_layer_sizes=self.work.sizes[1:-1],
            activation=self.work.activation,
            solver=self.work.optimizer,
            alpha=0.0,
            batch_size=batch,
            learning_rate_init=self.work.learning_rate,
            max_iter=epochs,
            shuffle=True,
            tol=0.0,
            n_iter_no_change=2**31 - 1,
            momentum=0.0,
            nesterovs_momentum=False,
            random_state=0,
        )

    def compile(self) -> None:
        """Nothing is compiled; the first step builds what later steps use."""
        rows = max(self.work.batch_size, 100)  # so that a classifier meets every class
        self.estimator(1, self.work.batch_size).fit(self.X[:rows], self.y[:rows])

    def train(self, epochs: int, latest: float) -> int:
        """Some epochs over all rows, in a new order each; returns how many rows were trained on."""
        self.estimator(epochs, self.work.batch_size).fit(self.X, self.y)
        return epochs * self.work.rows
