"""fastbp trains feed-forward neural networks by backpropagation at the speed of the hardware.

Public names are imported when they are first used, so ``import fastbp`` costs little and a name
that is never used is never imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbp.activations import *  # noqa: F403
    from fastbp.backends.choose import Device as Device
    from fastbp.backends.choose import devices as devices
    from fastbp.checkpoint import Checkpoint as Checkpoint
    from fastbp.diagnosis import Diagnosis as Diagnosis
    from fastbp.diagnosis import Finding as Finding
    from fastbp.diagnosis import diagnose as diagnose
    from fastbp.errors import CheckpointError as CheckpointError
    from fastbp.errors import DeviceError as DeviceError
    from fastbp.errors import DivergenceError as DivergenceError
    from fastbp.gradient_checks import GradientCheck as GradientCheck
    from fastbp.gradient_checks import gradient_check as gradient_check
    from fastbp.layers import Dense as Dense
    from fastbp.layers import Dropout as Dropout
    from fastbp.layers import Layer as Layer
    from fastbp.layers import LayerNorm as LayerNorm
    from fastbp.layers import Residual as Residual
    from fastbp.learning_rate import LearningRateCurve as LearningRateCurve
    from fastbp.learning_rate import find_learning_rate as find_learning_rate
    from fastbp.losses import *  # noqa: F403
    from fastbp.model import Model as Model
    from fastbp.model import load as load
    from fastbp.monitoring import Metric as Metric
    from fastbp.network import Network as Network
    from fastbp.network import mlp as mlp
    from fastbp.optimizers import *  # noqa: F403
    from fastbp.result import TrainResult as TrainResult
    from fastbp.scaling import Scaling as Scaling
    from fastbp.schedules import *  # noqa: F403
    from fastbp.training import train as train

# Where each public name lives. The families (activations, losses, ...) need no list: their modules
# are asked for the name.
_HOMES = {
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "Dense": "layers",
    "Device": "backends.choose",
    "DeviceError": "errors",
    "Diagnosis": "diagnosis",
    "DivergenceError": "errors",
    "Dropout": "layers",
    "Finding": "diagnosis",
    "GradientCheck": "gradient_checks",
    "Layer": "layers",
    "LayerNorm": "layers",
    "LearningRateCurve": "learning_rate",
    "Metric": "monitoring",
    "Model": "model",
    "Network": "network",
    "Residual": "layers",
    "Scaling": "scaling",
    "TrainResult": "result",
    "devices": "backends.choose",
    "diagnose": "diagnosis",
    "find_learning_rate": "learning_rate",
    "gradient_check": "gradient_checks",
    "load": "model",
    "mlp": "network",
    "train": "training",
}
_FAMILIES = ("activations", "losses", "optimizers", "schedules")


def _version() -> str:
    from importlib.metadata import version

    return version("fastbp")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _HOMES:
        value = getattr(importlib.import_module(f"fastbp.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        for family in _FAMILIES:
            module = importlib.import_module(f"fastbp.{family}")
            if name in module.__all__:
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'fastbp' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = {"__version__", *_HOMES}
    for family in _FAMILIES:
        names.update(importlib.import_module(f"fastbp.{family}").__all__)
    return sorted(names)
