"""``fastbp predict MODEL DATA``: predictions for the rows of a table."""

from __future__ import annotations

import argparse
from typing import Any

from fastbp.commands.common import Formatter, Report, add_common, output_path
from fastbp.engines import device_for
from fastbp.errors import CheckpointError
from fastbp.losses import Loss
from fastbp.model import load
from fastbp.tables import read_table, write_csv

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "predict",
        help="predict with a trained network",
        description="Predict for the rows of a table, whose columns are found by name. Writes a "
        "CSV with the predictions in the target's units; for classes, with their probabilities.",
        formatter_class=Formatter,
    )
    parser.add_argument("model", metavar="MODEL", help="what fastbp train wrote")
    parser.add_argument("data", metavar="DATA", help="the table; it may lack the target")
    parser.add_argument(
        "--output", metavar="FILE", help="(default: DATA's name with _predictions.csv)"
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="auto, cpu, cuda or cuda:N")
    add_common(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Report:
    """Load, read, predict, write."""
    model = load(options.model)
    notes = model.metadata
    if not {"columns", "target", "classes", "loss"} <= set(notes):
        raise CheckpointError(
            f"{options.model}: expected a model that `fastbp train` wrote; it names no columns"
        )
    path = output_path(options.output, options.data, "_predictions.csv")
    table = read_table(options.data)
    inputs = table.numbers(notes["columns"])
    device = device_for(options.device, model.network, "predict", len(inputs))
    outputs = model.predict(inputs, device=device)
    columns: dict[str, list[Any]] = {}
    response = Loss.resolve(notes["loss"]).response(outputs)
    if notes["classes"] is None:
        columns[notes["target"]] = response[:, 0].tolist()
    else:
        classes = notes["classes"]
        columns[notes["target"]] = [classes[i] for i in outputs.argmax(axis=1)]
        for name, share in zip(classes, response.T, strict=True):
            columns[f"P({notes['target']}={name})"] = share.tolist()
    write_csv(path, columns)
    text = f"{table.rows:,} predictions of {notes['target']}, made on {device}, written to {path}"
    data = {
        "rows": table.rows,
        "target": notes["target"],
        "device": device,
        "output": str(path),
    }
    return Report(text, data)
