"""Reports as text."""

from __future__ import annotations

from typing import Any

from fastbp.result import TrainResult
from fastbp.text import table

__all__ = ["classification_text", "regression_text", "training_text"]


def training_text(data: dict[str, Any], result: TrainResult) -> str:
    """Rows, network, device, epochs, time, files."""
    rows = data["rows"]
    threads = f", {result.threads} thread{'s' if result.threads > 1 else ''}"
    if result.device != "cpu":
        threads = ""
    pairs = [
        (
            "data",
            f"{data['data']}: {rows['train']:,} rows to train on, {rows['validation']:,} for "
            f"validation, {rows['test']:,} for the test",
        ),
        ("network", f"{data['network']}, {data['parameters']:,} parameters"),
        *rate_pair(data),
        ("device", f"{result.device}{threads}"),
        ("epochs", f"{result.epochs} ({result.steps:,} steps). {result.message}"),
        ("time", f"{result.seconds:.2f} s, {result.samples_per_second:,.0f} samples/s"),
        ("model", data["output"]),
    ]
    if data["checkpoint"]:
        pairs.append(("checkpoint", data["checkpoint"]))
    if data["picture"]:
        pairs.append(("learning curve", data["picture"]))
    return "\n".join(f"{name:>14}  {value}" for name, value in pairs)


def rate_pair(data: dict[str, Any]) -> list[tuple[str, str]]:
    """The learning rate, where it was looked for."""
    if not data["is_rate_found"]:
        return []
    return [("learning rate", f"{data['learning_rate']:.2g}, found by the range test")]


def shown(value: float) -> str:
    """Four decimals where they say something, otherwise four digits."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def regression_text(target: str, test: dict[str, float], trivial: dict[str, float]) -> str:
    """RMSE, MAE and R2 beside those of the mean."""
    rows = [
        (label, shown(test[name]), shown(trivial[name]))
        for label, name in (("RMSE", "rmse"), ("MAE", "mae"), ("R2", "r2"))
    ]
    return "\n".join(table((f"test, {target}", "network", "mean"), rows))


def classification_text(target: str, test: dict[str, Any], trivial: dict[str, float]) -> str:
    """Accuracy, recall of each class, and the confusion matrix."""
    classes = [str(name) for name in test["classes"]]
    lines = [
        f"test accuracy of {target}: {test['accuracy']:.4f} "
        f"(always the most common class: {trivial['accuracy']:.4f})",
        "",
    ]
    header = ("true class", "recall", *(f"as {name}" for name in classes))
    rows = [
        (name, f"{recall:.4f}", *counts)
        for name, recall, counts in zip(classes, test["recall"], test["confusion"], strict=True)
    ]
    return "\n".join([*lines, *table(header, rows)])
