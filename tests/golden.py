"""The golden trajectories: 49 small training runs computed by an independent implementation.

``data/golden_trajectories.npz`` holds, in float64, outputs, gradients, 30 losses and the final
weights of a 5-7-6-3 network for every activation, loss and optimizer (PyTorch 2.13).
"""

import json
from pathlib import Path

import numpy as np

import fastbp as fb

PATH = Path(__file__).parent / "data" / "golden_trajectories.npz"
STORED = np.load(PATH, allow_pickle=False)
CASES = json.loads(str(STORED["cases"]))


def optimizer(case):  # noqa: PLR0911
    """The fastbp optimizer of a case, built from PyTorch's names of the settings."""
    s, name = case["optimizer_settings"], case["optimizer"]
    rate = s["lr"]
    if name in {"sgd", "momentum", "nesterov"}:
        return fb.SGD(rate, momentum=s["momentum"], nesterov=s["nesterov"])
    if name.startswith("rmsprop"):
        return fb.RMSprop(
            rate, rho=s["alpha"], momentum=s["momentum"], centered=s["centered"], epsilon=s["eps"]
        )
    if name == "adagrad":
        return fb.Adagrad(rate, epsilon=s["eps"])
    if name == "adadelta":
        return fb.Adadelta(rate, rho=s["rho"], epsilon=s["eps"])
    if name == "rprop":
        decrease, increase = s["etas"]
        minimum, maximum = s["step_sizes"]
        return fb.Rprop(
            rate, increase=increase, decrease=decrease, minimum=minimum, maximum=maximum
        )
    if name == "lion":
        return fb.Lion(rate, *s["b"])
    beta1, beta2 = s["betas"]
    if name in {"adam", "amsgrad"}:
        return fb.Adam(rate, beta1, beta2, s["eps"], amsgrad=s["amsgrad"])
    if name == "adamw":
        decay = s["weight_decay_on_weights_only"]
        return fb.AdamW(rate, beta1, beta2, s["eps"], weight_decay=decay)
    if name == "nadam":
        return fb.NAdam(rate, beta1, beta2, s["eps"], momentum_decay=s["momentum_decay"])
    return {"adamax": fb.Adamax, "radam": fb.RAdam}[name](rate, beta1, beta2, s["eps"])


def loss(case):
    """The fastbp loss of a case."""
    return fb.Quantile(0.9) if case["loss"] == "quantile" else case["loss"]


def model(case, dtype):
    """The model of a case at its initial parameters."""
    network = fb.mlp(5, 7, 6, 3, activation=case["activation"])
    result = fb.Model(network, dtype=dtype)
    for name, view in result.weights.items():
        view[...] = STORED[f"initial/{name}"]
    return result


def data(case):
    """X, y and sample weights of a case."""
    weights = STORED["sample_weight"] if case.get("sample_weight") else None
    return STORED["X"], STORED[case["target"]], weights


def label(number):
    """A readable name for a case."""
    case = CASES[number]
    extras = [
        key for key in ("clip_norm", "clip_value", "l1", "l2", "sample_weight") if key in case
    ]
    return "-".join([str(number), case["activation"], case["loss"], case["optimizer"], *extras])
