"""``fastbp train DATA --target COLUMN``: from a table to a model file."""

from __future__ import annotations

import argparse
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.activations import Activation
from fastbp.commands.common import Formatter, Report, add_common, output_path
from fastbp.commands.report import classification_text, regression_text, training_text
from fastbp.datasets import split_rows
from fastbp.files import write_whole
from fastbp.losses import Loss
from fastbp.metrics import classification_metrics, regression_metrics
from fastbp.model import Model
from fastbp.network import mlp
from fastbp.optimizers import AdamW, Optimizer
from fastbp.registry import finite, positive_integer
from fastbp.schedules import Schedule
from fastbp.tables import Table, number, read_table
from fastbp.training import train

__all__ = ["add_parser"]

# Of the default optimizer, AdamW. Chosen with --layers, --batch-size and the schedule by the mean
# test RMSE of four seeds on California housing (docs/tuning.md).
LEARNING_RATE, WEIGHT_DECAY = 0.005, 0.05
STANDARDISED = {name for name in Loss.names() if Loss.registry[name].targets == "real"}
TEST_SEED = 1  # added to --seed for the test part, so that it differs from the validation part


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train a network on a table",
        description="Train a network on a table (CSV with a header, also .gz, or .npz/.npy), test "
        "it on rows that it has not seen, and write the model.",
        formatter_class=Formatter,
    )
    parser.add_argument("data", metavar="DATA", help="the table")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="what to predict")
    parser.add_argument(
        "--task",
        choices=("auto", "regression", "classification"),
        default="auto",
        help="auto takes a target column of text as classes and one of numbers as regression",
    )
    parser.add_argument(
        "--layers", default="128,128", metavar="UNITS", help="units of the hidden layers"
    )
    parser.add_argument(
        "--activation",
        default="relu",
        metavar="NAME",
        help=f"of the hidden layers: {', '.join(Activation.names())}",
    )
    parser.add_argument(
        "--loss",
        metavar="NAME",
        help=f"one of {', '.join(Loss.names())} (default: mse, or cross_entropy for classes)",
    )
    parser.add_argument(
        "--optimizer",
        default="adamw",
        metavar="NAME",
        help=f"one of {', '.join(Optimizer.names())}; adamw decays weights by {WEIGHT_DECAY}",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help=f"the highest of the run (default: {LEARNING_RATE} for adamw, otherwise the "
        "optimizer's own)",
    )
    parser.add_argument(
        "--schedule",
        default="one_cycle",
        metavar="NAME",
        help=f"of the learning rate: {', '.join(Schedule.names())}",
    )
    parser.add_argument(
        "--clip-norm",
        type=float,
        default=0.3,
        metavar="NORM",
        help="scale gradients of a larger global norm down to this one; 0 for never",
    )
    parser.add_argument("--epochs", type=int, default=100, metavar="N", help="at most")
    parser.add_argument("--batch-size", type=int, default=64, metavar="ROWS", help="of a step")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of split, initial values and shuffling"
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=50,
        metavar="EPOCHS",
        help="stop when the validation loss has not fallen for so many epochs; the best parameters "
        "are kept in any case",
    )
    parser.add_argument(
        "--test-fraction", type=float, default=0.2, metavar="F", help="of the rows, for the test"
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.1,
        metavar="F",
        help="of the other rows, for early stopping",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="precision"
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "tf32", "bf16"),
        default="float32",
        help="of the factors of products on a GPU",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="the most CPU threads; a GPU ignores it (default: all)",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="the model (default: DATA's name with .safetensors)"
    )
    add_common(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Report:
    """Read, split, train, test, write."""
    layers = parse_layers(options.layers)
    finite("--clip-norm", options.clip_norm, 0.0)
    optimizer = choose_optimizer(options.optimizer, options.learning_rate)
    table = read_table(options.data)
    target = table.column(options.target, "target column")
    features = [name for name in table.columns if name != options.target]
    if not features:
        raise ValueError(f"{table.path}: expected a column besides the target; got none")
    X = table.numbers(features)
    classes, y = read_target(table, options.target, target, options.task)
    seed = positive_integer("--seed", options.seed, low=0)
    train_rows, test_rows = split_rows(
        len(X), options.test_fraction, seed + TEST_SEED, "--test-fraction"
    )
    # Checked here as well, so that the message has the option's name.
    fit_rows, held_rows = split_rows(
        len(train_rows), options.validation_fraction, seed, "--validation-fraction"
    )
    loss = Loss.resolve(options.loss or ("mse" if classes is None else "cross_entropy"), "--loss")
    if (loss.targets == "class") != (classes is not None):
        task = "regression" if classes is None else "classification"
        raise ValueError(f"--loss: expected a loss for {task}; got {loss.name}")
    outputs = 1 if classes is None else len(classes)
    network = mlp(len(features), *layers, outputs, activation=options.activation)
    model = Model(network, dtype=options.dtype, seed=options.seed)
    output = output_path(options.output, options.data, ".safetensors")
    result = train(
        model,
        X[train_rows],
        y[train_rows],
        loss=loss,
        optimizer=optimizer,
        epochs=options.epochs,
        batch_size=options.batch_size,
        validation=options.validation_fraction,
        schedule=Schedule.resolve(options.schedule, "--schedule"),
        clip_norm=options.clip_norm or None,
        standardize=True,
        seed=options.seed,
        patience=options.patience,
        device=options.device,
        threads=options.threads,
        progress=not (options.quiet or options.json),
        precision=options.precision,
    )
    model.metadata = {
        "columns": features,
        "target": options.target,
        "classes": classes,
        "loss": loss.name,
    }
    model.save(output)
    picture = draw_learning_curve(
        result.history, picture_path(output), result.best_epoch, loss.name
    )
    data: dict[str, Any] = {
        "data": options.data,
        "rows": {
            "train": len(fit_rows),
            "validation": len(held_rows),
            "test": len(test_rows),
        },
        "network": str(network),
        "parameters": network.parameter_count,
        "training": result.as_dict(),
        "output": str(output),
        "picture": picture,
    }
    predictions = model.predict(X[test_rows])
    if classes is None:
        trivial = np.full(len(test_rows), y[train_rows].mean())
        data["test"] = regression_metrics(y[test_rows], loss.response(predictions)[:, 0])
        data["trivial"] = regression_metrics(y[test_rows], trivial)
        measured = regression_text(options.target, data["test"], data["trivial"])
    else:
        labels, found = y[test_rows], predictions.argmax(axis=1)
        common = np.full(len(labels), int(np.argmax(np.bincount(y[train_rows]))))
        data["test"] = classification_metrics(labels, found, len(classes))
        data["test"]["classes"] = classes
        data["trivial"] = {"accuracy": float((labels == common).mean())}
        measured = classification_text(options.target, data["test"], data["trivial"])
    return Report(training_text(data, result) + "\n\n" + measured, data)


def parse_layers(text: str) -> list[int]:
    """``"64,64"`` -> [64, 64]; empty means no hidden layer."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(
            f"--layers: expected integers separated by commas, such as 64,64; got {text!r}"
        ) from None


def choose_optimizer(name: str, learning_rate: float | None) -> Optimizer:
    """The optimizer of the options."""
    chosen = Optimizer.resolve(name, "--optimizer")
    if isinstance(chosen, AdamW):
        chosen = replace(chosen, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    if learning_rate is not None:
        finite("--learning-rate", learning_rate, 0.0, open_low=True)
        chosen = replace(chosen, learning_rate=learning_rate)
    return chosen


def read_target(
    table: Table, name: str, column: NDArray[Any], task: str
) -> tuple[list[Any] | None, NDArray[Any]]:
    """The classes (None for regression), and the target as labels or numbers."""
    is_text = column.dtype.kind in "US"
    if task == "auto" and is_text:
        refuse_stray_text(table, name, column)
    if task == "regression" or (task == "auto" and not is_text):
        return None, table.numbers([name])[:, 0]
    if is_text and (column == "").any():
        i = int(np.argmax(column == ""))
        raise ValueError(
            f"{table.path}: expected a class in column {name!r}; "
            f"got an empty cell in {table.place(i)}"
        )
    if not is_text:
        table.numbers([name])  # refuses NaN and infinity
    classes, labels = np.unique(column, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{table.path}: expected at least two classes in column {name!r}; got {len(classes)}"
        )
    if len(classes) > max(len(column) // 2, 2):
        raise ValueError(
            f"{table.path}: expected classes in column {name!r} that repeat; "
            f"got {len(classes)} different values in {len(column)} rows"
        )
    names = [
        int(value) if isinstance(value, float) and value.is_integer() else value
        for value in classes.tolist()
    ]
    return names, labels.astype(np.int64)


def refuse_stray_text(table: Table, name: str, column: NDArray[Any]) -> None:
    """A column of numbers with a few other cells is a mistake and no column of classes."""
    others = [i for i, cell in enumerate(column) if number(str(cell)) is None]
    if len(others) <= len(column) // 10:
        cell = repr(str(column[others[0]])) if str(column[others[0]]) else "an empty cell"
        raise ValueError(
            f"{table.path}: expected numbers in column {name!r}, as in {len(column) - len(others)} "
            f"of {len(column)} rows; got {cell} in {table.place(others[0])} "
            "(--task classification takes every value as a class)"
        )


def picture_path(output: Path) -> Path:
    """Beside the model, under its name, and never the model itself."""
    path = output.with_suffix(".png")
    return path if path != output else output.with_name(f"{output.name}.learning_curve.png")


def draw_learning_curve(
    history: NDArray[np.void], path: Path, best_epoch: int, loss: str
) -> str | None:
    """Draw loss and validation loss over the epochs, where matplotlib is installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    marker = "." if len(history) < 10 else ""
    axes.plot(history["epoch"], history["loss"], marker=marker, label="training")
    axes.plot(history["epoch"], history["validation_loss"], marker=marker, label="validation")
    kept = history["validation_loss"][best_epoch - 1]
    axes.plot(best_epoch, kept, "o", color="C1", label=f"kept: epoch {best_epoch}")
    positive = (history["loss"] > 0).all() and (history["validation_loss"] > 0).all()
    axes.set(
        xlabel="epoch",
        ylabel=f"{loss}, standardised targets" if loss in STANDARDISED else loss,
        yscale="log" if positive else "linear",
        title=path.stem,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write_whole(path, content.getvalue())
    return str(path)
