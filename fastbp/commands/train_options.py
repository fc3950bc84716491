"""The options of ``fastbp train``."""

from __future__ import annotations

import argparse

from fastbp.activations import Activation
from fastbp.commands.common import add_common
from fastbp.commands.train_settings import LEARNING_RATE, WEIGHT_DECAY, rate_or_auto
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer
from fastbp.schedules import Schedule

__all__ = ["add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to the parser of the command."""
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
        "--label-smoothing",
        type=float,
        default=0.0,
        metavar="S",
        help="of cross_entropy and binary_cross_entropy, in [0, 1)",
    )
    parser.add_argument(
        "--class-weight",
        metavar="WEIGHTS",
        help="balanced, or NAME=WEIGHT,NAME=WEIGHT; classes that are not named have 1 (default: 1 "
        "for all)",
    )
    parser.add_argument(
        "--optimizer",
        default="adamw",
        metavar="NAME",
        help=f"one of {', '.join(Optimizer.names())}; adamw decays weights by {WEIGHT_DECAY}",
    )
    parser.add_argument(
        "--learning-rate",
        type=rate_or_auto,
        metavar="RATE",
        help="the highest of the run; auto looks for one on the training rows (default: "
        f"{LEARNING_RATE} for adamw, otherwise the optimizer's own)",
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
    parser.add_argument(
        "--ema",
        type=float,
        metavar="F",
        help="average the parameters over the steps, those of s steps ago with a weight in "
        "proportion to F**s (default: no average)",
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
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="keep the run there, so that --resume goes on with it (default: it is not kept)",
    )
    parser.add_argument(
        "--checkpoint-every",
        metavar="N",
        help="write it every N epochs, or with 10m every 10 minutes (default: every 30 seconds); "
        "also on Ctrl-C and at the end",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint, to the same model as without the break; begin anew where "
        "there is none (default: begin anew)",
    )
    add_common(parser)
