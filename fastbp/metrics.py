"""Measures of how good predictions are. Plain NumPy; nothing here is in a training step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["classification_metrics", "regression_metrics"]


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
