"""Optimizers: settings and laws. A new one is one class in one of these files (or in user code)."""

from fastbp.optimizers.accumulating import Adadelta, Adagrad, RMSprop
from fastbp.optimizers.base import Optimizer
from fastbp.optimizers.moments import Adam, Adamax, AdamW, NAdam, RAdam
from fastbp.optimizers.signed import Lion, Rprop
from fastbp.optimizers.steepest import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
]
