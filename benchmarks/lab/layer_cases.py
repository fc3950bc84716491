"""The kernels of dropout, layer normalisation and residual blocks, as `cases` has the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.lab.cases import Case, Tensor, batch_tensor, integers
from fastbp import masks

__all__ = ["cases_of_layers"]


def cases_of_layers(dtype: str, n: int, width: int) -> list[Case]:
    """Those kernels on n rows of a width."""
    rng = np.random.default_rng(2)
    item = np.dtype(dtype).itemsize
    A, D, B = (rng.normal(size=(n, width)).astype(dtype).astype(np.float64) for _ in range(3))
    gain, bias = np.ones(width), np.zeros(width)
    zeros, ones, rows, numbers = np.zeros((n, width)), np.ones((n, width)), [(0, n)], n * width
    keys = [int(key) for key in masks.epoch_keys(1, 1)]
    words = [
        [masks.mask_word(j, masks.row_key(i, 0, keys)) for j in range(width)] for i in range(n)
    ]
    kept = 2.0 * (np.array(words) >= masks.threshold_of(0.5))
    centred = A - A.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    normalized = centred * scale
    slope = (D * normalized).mean(axis=1, keepdims=True)
    before = (D - D.mean(axis=1, keepdims=True) - normalized * slope) * scale

    def t(matrix: Any) -> Tensor:
        return Tensor(matrix, dtype)

    def streams(count: int) -> float:
        return float(count * item * numbers)

    law = {"gain": t(gain), "bias": t(bias), "settings": t(1e-5)}
    return [
        Case("dropout_forward", {"output": t(zeros), "derivative": t(zeros), "inputs": t(A),
                                 "keys": integers(keys), "batch": batch_tensor(n),
                                 "settings": t(2.0)}, (width, 0, masks.threshold_of(0.5)), rows,
             {"output": A * kept, "derivative": kept}, bytes=streams(3)),
        Case("multiply_delta", {"input_delta": t(D), "delta": t(ones)}, (width, 0), rows,
             {"input_delta": D}, bytes=streams(3)),
        Case("layer_norm_forward", {"output": t(zeros), "derivative": t(zeros), "inputs": t(A),
                                    "normalized": t(zeros), "scale": t(np.zeros(n)), **law},
             (width,), rows, {"output": normalized, "derivative": ones}, bytes=streams(4)),
        Case("layer_norm_forward", {"output": t(zeros), "derivative": None, "inputs": t(A),
                                    "normalized": None, "scale": None, **law},
             (width,), rows, {"output": normalized}, bytes=streams(2)),
        Case("layer_norm_backward", {"input_delta": t(zeros), "gain_delta": t(zeros),
                                     "delta": t(D), "normalized": t(normalized),
                                     "scale": t(scale[:, 0]), "gain": t(gain)}, (width, 1), rows,
             {"input_delta": before, "gain_delta": D * normalized}, bytes=streams(4)),
        Case("residual_forward", {"output": t(zeros), "derivative": t(zeros), "inputs": t(A),
                                  "branch": t(B)}, (width,), rows,
             {"output": A + B, "derivative": ones}, bytes=streams(4)),
        Case("residual_backward", {"input_delta": t(zeros), "delta": t(D), "branch_delta": t(B)},
             (width, 1), rows, {"input_delta": D + B}, bytes=streams(3)),
    ]  # fmt: skip
