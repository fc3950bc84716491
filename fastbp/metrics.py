"""Measures of how good predictions are. Plain NumPy; nothing here is in a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "classification_metrics", "regression_metrics"]


def regression_metrics(targets: NDArray[Any], predictions: NDArray[Any]) -> dict[str, float]:
    """RMSE, MAE and R2 = 1 - sum (y - p)**2 / sum (y - mean y)**2, in float64.

    Parameters
    ----------
    targets, predictions : array (rows,)

    Returns
    -------
    dict
        ``rmse``, ``mae``, ``r2`` (NaN for constant targets).
    """
    y = np.asarray(targets, dtype=np.float64)
    residuals = y - np.asarray(predictions, dtype=np.float64)
    spread = float(((y - y.mean()) ** 2).sum())
    return {
        "rmse": float(np.sqrt((residuals**2).mean())),
        "mae": float(np.abs(residuals).mean()),
        "r2": 1.0 - float((residuals**2).sum()) / spread if spread > 0 else float("nan"),
    }


def classification_metrics(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> dict[str, Any]:
    """Accuracy, recall of each class (NaN where it has no rows) and the confusion matrix.

    Parameters
    ----------
    labels, predicted : int array (rows,)
    classes : int

    Returns
    -------
    dict
        ``accuracy``; ``recall``, one a class; ``confusion``, true classes down, predicted across.
    """
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    totals = confusion.sum(axis=1)
    recall = [
        float(confusion[i, i] / totals[i]) if totals[i] else float("nan") for i in range(classes)
    ]
    return {
        "accuracy": float((labels == predicted).mean()),
        "recall": recall,
        "confusion": confusion.tolist(),
    }


# Single numbers, for watching a training: targets as the loss takes them, predictions (rows,
# outputs) as `Loss.response` gives them.


def labels_of(targets: NDArray[Any], predictions: NDArray[Any]) -> tuple[Any, Any]:
    """True and predicted classes: of labels, of probabilities, or of signs."""
    if targets.ndim == 1 and targets.dtype.kind == "i":
        return targets, predictions.argmax(axis=1)
    if (targets < 0).any():
        return targets > 0, predictions > 0
    return targets > 0.5, predictions > 0.5


def accuracy(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    """The share of right classes."""
    true, found = labels_of(targets, predictions)
    return float((true == found).mean())


def balanced_accuracy(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    """The mean over the classes that occur of the share of their rows that are right."""
    true, found = (np.ravel(each) for each in labels_of(targets, predictions))
    return float(np.mean([(found[true == label] == label).mean() for label in np.unique(true)]))


def rmse(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    """The root of the mean squared error."""
    return regression_metrics(np.ravel(targets), np.ravel(predictions))["rmse"]


def mae(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    """The mean absolute error."""
    return regression_metrics(np.ravel(targets), np.ravel(predictions))["mae"]


def r2(targets: NDArray[Any], predictions: NDArray[Any]) -> float:
    """1 - sum (y - p)**2 / sum (y - mean y)**2, the mean over the outputs."""
    columns = zip(targets.T, predictions.T, strict=True)
    return float(np.mean([regression_metrics(y, p)["r2"] for y, p in columns]))


CLASSES, NUMBERS = {"class", "probability", "sign"}, {"real", "count"}
# Each with whether larger is better, and of which losses' targets.
METRICS: dict[str, tuple[Callable[..., float], bool, set[str]]] = {
    "accuracy": (accuracy, True, CLASSES),
    "balanced_accuracy": (balanced_accuracy, True, CLASSES),
    "rmse": (rmse, False, NUMBERS),
    "mae": (mae, False, NUMBERS),
    "r2": (r2, True, NUMBERS),
}
