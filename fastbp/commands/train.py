"""``fastbp train DATA --target COLUMN``: from a table to a model file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.checkpoint import Checkpoint
from fastbp.commands.common import Formatter, Report, output_path
from fastbp.commands.kept_runs import (
    choose_checkpoint,
    explained,
    options_of_run,
    refuse_other_options,
)
from fastbp.commands.learning_curve import draw_learning_curve, picture_path
from fastbp.commands.report import classification_text, regression_text, training_text
from fastbp.commands.target import read_target
from fastbp.commands.train_options import add_options
from fastbp.commands.train_settings import (
    AUTO,
    choose_class_weight,
    choose_loss,
    choose_optimizer,
    parse_layers,
    with_found_rate,
)
from fastbp.commands.warnings import Warnings
from fastbp.datasets import split_rows
from fastbp.losses import Loss
from fastbp.metrics import classification_metrics, regression_metrics
from fastbp.model import Model
from fastbp.network import mlp
from fastbp.registry import finite, positive_integer
from fastbp.result import TrainResult
from fastbp.schedules import Schedule
from fastbp.tables import read_table
from fastbp.training import train

__all__ = ["add_parser"]

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
    add_options(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Job:
    """What the options ask for, checked, before anything is trained or written.

    Attributes
    ----------
    X, y : array
        All rows of the table; y holds labels where there are classes.
    classes : list or None
    train_rows, test_rows : array
        Row numbers.
    held_out : int
        Of the training rows, those for validation.
    model : Model
        With the notes that `fastbp predict` needs.
    settings : dict
        The arguments of `fastbp.train` besides the model and the training rows.
    output : Path
    checkpoint : Checkpoint or None
    """

    X: NDArray[Any]
    y: NDArray[Any]
    classes: list[Any] | None
    train_rows: NDArray[Any]
    test_rows: NDArray[Any]
    held_out: int
    model: Model
    settings: dict[str, Any]
    output: Path
    checkpoint: Checkpoint | None

    @property
    def loss(self) -> Loss:
        """What is made small."""
        loss: Loss = self.settings["loss"]
        return loss


def run(options: argparse.Namespace) -> Report:
    """Read, split, train, write, test."""
    job = prepare(options)
    X, y = job.X[job.train_rows], job.y[job.train_rows]
    if is_rate_sought(options):
        job.settings["optimizer"] = with_found_rate(job.model, X, y, job.settings)
    warnings = Warnings(X, y, job.settings, options.quiet)
    with explained(options, job.checkpoint, job.output):
        result = train(job.model, X, y, **job.settings, callbacks=[warnings])
        job.model.save(job.output)
        warnings.look(job.model, "last_epoch")
        return report(options, job, result, warnings.found)


def is_rate_sought(options: argparse.Namespace) -> bool:
    """Whether the learning rate is yet to be found."""
    return bool(options.learning_rate == AUTO)


def prepare(options: argparse.Namespace) -> Job:
    """Read and split the table, and choose the settings."""
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
    _, held_rows = split_rows(
        len(train_rows), options.validation_fraction, seed, "--validation-fraction"
    )
    loss = choose_loss(options.loss, options.label_smoothing, has_classes=classes is not None)
    class_weight = choose_class_weight(options.class_weight, loss, classes)
    outputs = 1 if classes is None else len(classes)
    network = mlp(len(features), *layers, outputs, activation=options.activation)
    model = Model(network, dtype=options.dtype, seed=options.seed)
    meant = {
        "task": "regression" if classes is None else "classification",
        "layers": ",".join(map(str, layers)),
        "loss": loss.name,
        "learning_rate": AUTO if is_rate_sought(options) else optimizer.learning_rate,
    }
    # Before training, so that a checkpoint is a model that can be predicted with.
    model.metadata = {
        "columns": features,
        "target": options.target,
        "classes": classes,
        "loss": loss.name,
        "options": options_of_run(options, **meant),
    }
    output = output_path(options.output, options.data, ".safetensors")
    checkpoint = choose_checkpoint(options, output, picture_path(output))
    if checkpoint is not None and options.resume:
        refuse_other_options(checkpoint.path, model.metadata)
    settings = {
        "loss": loss,
        "optimizer": optimizer,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "validation": options.validation_fraction,
        "schedule": Schedule.resolve(options.schedule, "--schedule"),
        "clip_norm": options.clip_norm or None,
        "standardize": True,
        "seed": options.seed,
        "patience": options.patience,
        "device": options.device,
        "threads": options.threads,
        "progress": not (options.quiet or options.json),
        "precision": options.precision,
        "ema": options.ema,
        "class_weight": class_weight,
        "checkpoint": checkpoint,
        "resume": options.resume,
    }
    held_out = len(held_rows)
    return Job(X, y, classes, train_rows, test_rows, held_out, model, settings, output, checkpoint)


def report(
    options: argparse.Namespace, job: Job, result: TrainResult, warnings: dict[str, Any]
) -> Report:
    """Draw the learning curve, test the model, and say what came of it."""
    model, output, loss = job.model, job.output, job.loss
    data: dict[str, Any] = {
        "data": options.data,
        "rows": {
            "train": len(job.train_rows) - job.held_out,
            "validation": job.held_out,
            "test": len(job.test_rows),
        },
        "network": str(model.network),
        "parameters": model.network.parameter_count,
        "learning_rate": job.settings["optimizer"].learning_rate,
        "is_rate_found": is_rate_sought(options),
        "training": result.as_dict(),
        "warnings": warnings,
        "output": str(output),
        "checkpoint": None if job.checkpoint is None else job.checkpoint.path,
        "picture": draw_learning_curve(
            result.history, picture_path(output), result.best_epoch, loss.name
        ),
    }
    measured, found = measure(job, options.target)
    return Report(training_text(data, result) + "\n\n" + measured, data | found)


def measure(job: Job, target: str) -> tuple[str, dict[str, Any]]:
    """How good the model is on the test rows, beside the trivial predictor: as text and as data."""
    X, y, train_rows, test_rows = job.X, job.y, job.train_rows, job.test_rows
    predictions = job.model.predict(X[test_rows])
    if job.classes is None:
        trivial = np.full(len(test_rows), y[train_rows].mean())
        test = regression_metrics(y[test_rows], job.loss.response(predictions)[:, 0])
        by_mean = regression_metrics(y[test_rows], trivial)
        return regression_text(target, test, by_mean), {"test": test, "trivial": by_mean}
    labels = y[test_rows]
    common = np.full(len(labels), int(np.argmax(np.bincount(y[train_rows]))))
    tested = classification_metrics(labels, predictions.argmax(axis=1), len(job.classes))
    tested["classes"] = job.classes
    by_common = {"accuracy": float((labels == common).mean())}
    return classification_text(target, tested, by_common), {"test": tested, "trivial": by_common}
