"""Kernels with tensors to work on, and what NumPy says that they should leave in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import fastbp as fb
from fastbp.activations import Tanh
from fastbp.backends.contract import Batch, Scalar
from fastbp.backends.cpu.tuning import PANEL_LINES
from fastbp.losses import Mse


class Tensor:
    """A matrix in panels, or row by row, on a line's boundary."""

    def __init__(self, matrix: Any, dtype: str, *, panels: bool = True) -> None:
        matrix = np.atleast_2d(np.asarray(matrix))
        self.rows, self.columns = matrix.shape
        line = 64 // np.dtype(dtype).itemsize
        self.panel = PANEL_LINES * line if panels else self.columns
        self.padded = -(-self.columns // line) * line if panels else self.columns
        raw = np.zeros(self.rows * self.padded + line, dtype=dtype)
        start = (-raw.ctypes.data % 64) // raw.itemsize
        self.flat = raw[start : start + self.rows * self.padded]
        self.fill(matrix)

    def views(self) -> list[Any]:
        """The panels as matrices."""
        found = []
        for column in range(0, self.padded, self.panel):
            width = min(self.panel, self.padded - column)
            part = self.flat[column * self.rows : (column + width) * self.rows]
            found.append(part.reshape(self.rows, width))
        return found

    def fill(self, matrix: Any) -> None:
        """Set all elements."""
        padded = np.zeros((self.rows, self.padded), dtype=self.flat.dtype)
        padded[:, : self.columns] = matrix
        column = 0
        for view in self.views():
            view[:] = padded[:, column : column + view.shape[1]]
            column += view.shape[1]

    def read(self) -> Any:
        """The matrix in float64."""
        return np.hstack(self.views())[:, : self.columns].astype(np.float64)

    @property
    def entry(self) -> list[int]:
        """Address, rows and padded columns."""
        return [self.flat.ctypes.data, self.rows, self.padded]


@dataclass
class Case:
    """One kernel on some tensors.

    Attributes
    ----------
    kernel : str
    tensors : dict
        By the names of the contract; None for an absent one.
    sizes : tuple of int
    spans : list of (int, int)
        The rows that each call works on.
    expected : dict
        What tensors hold after all spans ran once, in float64.
    flops, bytes : float
        Of all spans.
    law : object, optional
    """

    kernel: str
    tensors: dict[str, Tensor | None]
    sizes: tuple[int, ...]
    spans: list[tuple[int, int]]
    expected: dict[str, Any]
    flops: float = 0.0
    bytes: float = 0.0
    law: Any = None


def integers(values: Any) -> Tensor:
    """A vector of int64."""
    return Tensor(values, "int64")


def batch_tensor(rows: int) -> Tensor:
    """The batch of all rows."""
    values = np.zeros(int(Batch.COUNT))
    values[[Batch.ROWS, Batch.DATA_ROWS, Batch.BEGINS, Batch.ENDS, Batch.ORDER_END]] = (
        rows, rows, 1, 1, rows
    )  # fmt: skip
    return integers(values)


def shuffled_batch(rows: int) -> Tensor:
    """The batch of all rows in a random order, which is not known yet."""
    tensor = batch_tensor(rows)
    tensor.flat[[Batch.SHUFFLE, Batch.BITS, Batch.ORDER_END]] = 1, fb.shuffle.index_bits(rows), 0
    return tensor


def scalars_tensor() -> Tensor:
    """Scalars with a gradient's scale of one half."""
    values = np.zeros(int(Scalar.COUNT))
    values[[Scalar.GRADIENT_SCALE, Scalar.CLIP_SCALE, Scalar.STEP]] = 0.5, 1.0, 1.0
    return Tensor(values, "float64")


def cases(dtype: str, n: int, width: int) -> list[Case]:
    """All kernels on n rows, between layers of a width."""
    rng = np.random.default_rng(0)
    real = np.dtype(dtype)
    panel = 64 * PANEL_LINES // real.itemsize
    A, D = rng.normal(size=(n, width)), rng.normal(size=(n, width))
    W, b = rng.normal(size=(width, width)) / np.sqrt(width), rng.normal(size=width)
    A, D, W, b = (array.astype(dtype).astype(np.float64) for array in (A, D, W, b))
    o = rng.normal(size=(n, 4))
    # Deltas are multiplied in place again and again: by 1 or -1, or they would become subnormal.
    y = o + rng.choice([-2.0, 2.0], size=(n, 4))
    rows = [(0, n)]
    tiles = [
        (p * width + r, p * width + min(r + 2 * panel, width))
        for p in range(-(-width // panel))
        for r in range(0, width, 2 * panel)
    ]
    square, item = 2.0 * n * width * width, real.itemsize
    z = A @ W + b
    thin_z = A @ W[:, :4] + b[:4]
    zeros, wide = np.zeros((n, width)), np.zeros((width, width))
    none = Tensor(np.zeros(1), dtype)
    sums = Tensor(np.zeros(len(tiles)), "float64")
    gradient = 0.5 * A.T @ D
    sgd, stepped = fb.SGD(0.1), W - 0.01 * gradient
    index = integers(np.arange(n))

    def t(matrix: Any) -> Tensor:
        return Tensor(matrix, dtype)

    softmax = np.exp(o) / np.exp(o).sum(axis=1, keepdims=True)
    labels = np.arange(n) % 4
    smoothed = 0.75 * np.eye(4)[labels] + 0.25 / 4
    return [
        Case("order_rows", {"row_index": integers(np.zeros(n)),
                            "keys": integers(fb.shuffle.round_keys(1, 1)),
                            "batch": shuffled_batch(n)}, (), [(0, 0)],
             {"row_index": np.arange(n)[None]}, bytes=8 * n),
        Case("gather_inputs", {"inputs": t(zeros), "data_inputs": Tensor(A, dtype, panels=False),
                               "row_index": index, "batch": batch_tensor(n)}, (width,), rows,
             {"inputs": A}, bytes=2 * item * n * width),
        Case("dense_forward", {"output": t(zeros), "derivative": t(zeros), "inputs": t(A),
                               "weight": t(W), "bias": t(b), "settings": none},
             (width, width, 0), rows, {"output": np.tanh(z), "derivative": 1 - np.tanh(z) ** 2},
             flops=square, law=Tanh()),
        Case("dense_forward", {"output": t(zeros[:, :4]), "derivative": t(zeros[:, :4]),
                               "inputs": t(A), "weight": t(W[:, :4].T), "bias": t(b[:4]),
                               "settings": none}, (width, 4, 1), rows,
             {"output": np.tanh(thin_z)}, flops=8.0 * n * width, law=Tanh()),
        Case("dense_backward_data", {"input_delta": t(zeros), "delta": t(D),
                                     "transposed_weight": t(W.T)}, (width, width, 1), rows,
             {"input_delta": D @ W.T}, flops=square),
        Case("elementwise_loss", {"row_loss": t(np.zeros(n)), "row_weight": t(np.zeros(n)),
                                  "delta": t(o), "output": t(o),
                                  "data_targets": Tensor(y, dtype, panels=False),
                                  "data_weights": None, "row_index": index,
                                  "batch": batch_tensor(n), "settings": none}, (4,), rows,
             {"row_loss": ((o - y) ** 2).mean(axis=1)[None]}, bytes=5 * item * n * 4, law=Mse()),
        Case("cross_entropy_loss", {"row_loss": t(np.zeros(n)), "row_weight": t(np.zeros(n)),
                                    "delta": t(o), "output": t(o),
                                    "data_targets": Tensor(labels[:, None], "int64", panels=False),
                                    "data_weights": None, "row_index": index,
                                    "batch": batch_tensor(n)}, (4,), rows,
             {"row_loss": -np.log(softmax[np.arange(n), labels])[None]}, bytes=4 * item * n * 4),
        Case("smoothed_cross_entropy_loss", {"row_loss": t(np.zeros(n)),
                                             "row_weight": t(np.zeros(n)), "delta": t(o),
                                             "output": t(o), "data_weights": None,
                                             "data_targets": Tensor(labels[:, None], "int64",
                                                                    panels=False),
                                             "row_index": index, "batch": batch_tensor(n),
                                             "settings": t([0.25])}, (4,), rows,
             {"row_loss": -(np.log(softmax) * smoothed).sum(axis=1)[None]},
             bytes=4 * item * n * 4),
        Case("multiply_cotangent", {"delta": t(D), "batch": batch_tensor(n),
                                    "data_cotangent": Tensor(np.ones((n, width)), dtype,
                                                             panels=False)}, (width,), rows,
             {"delta": D}, bytes=3 * item * n * width),
        Case("store_rows", {"data_outputs": Tensor(zeros, dtype, panels=False), "source": t(D),
                            "batch": batch_tensor(n)}, (width,), rows,
             {"data_outputs": D}, bytes=2 * item * n * width),
        Case("dense_weight_gradient", {"gradient": t(wide), "tile_norm": sums, "tile_penalty": sums,
                                       "parameter": t(W), "penalties": Tensor([0, 0], "float64"),
                                       "inputs": t(A), "delta": t(D), "scalars": scalars_tensor(),
                                       "batch": batch_tensor(n)}, (2 * panel, 0), tiles,
             {"gradient": gradient}, flops=square),
        Case("dense_bias_gradient", {"gradient": t(np.zeros(width)), "tile_norm": sums,
                                     "tile_penalty": sums, "delta": t(D),
                                     "scalars": scalars_tensor(), "batch": batch_tensor(n)},
             (1000, 0), [(0, -(-width // panel))], {"gradient": 0.5 * D.sum(axis=0)[None]},
             bytes=item * n * width),
        Case("dense_step", {"parameter": t(W), "slots": None, "transposed": t(wide),
                            "bias": None, "bias_slots": None,
                            "tile_norm": sums, "tile_penalty": sums,
                            "penalties": Tensor([0, 0], "float64"), "inputs": t(A), "delta": t(D),
                            "scalars": scalars_tensor(), "batch": batch_tensor(n),
                            "coefficients": t([0.01]), "clip": t(np.inf)}, (width, 2 * panel, 0, 0),
             tiles, {"parameter": stepped, "transposed": stepped.T}, flops=square, law=sgd),
        Case("update_parameters", {"parameter": t(W), "slots": None, "gradient": t(gradient),
                                   "coefficients": t([0.01]), "clip": t(np.inf),
                                   "scalars": scalars_tensor()}, (width, 1), tiles,
             {"parameter": stepped}, bytes=3 * item * width * width, law=sgd),
        Case("transpose_weight", {"transposed": t(wide), "parameter": t(W)}, (width,), tiles,
             {"transposed": W.T}, bytes=2 * item * width * width),
        Case("reduce_loss", {"scalars": scalars_tensor(), "row_loss": t(np.ones(n)),
                             "row_weight": t(np.ones(n)), "batch": batch_tensor(n)}, (), [(0, 0)],
             {}, bytes=2 * item * n),
        Case("reduce_tiles", {"scalars": scalars_tensor(), "tile_norm": sums,
                              "tile_penalty": sums}, (len(tiles),), [(0, 0)], {},
             bytes=16 * len(tiles)),
        Case("begin_step", {"coefficients": t(np.zeros(8)), "carry": Tensor([0], "float64"),
                            "scalars": scalars_tensor(),
                            "settings": Tensor(fb.Adam().settings, "float64")}, (), [(0, 0)],
             {}, bytes=64, law=fb.Adam()),
    ]  # fmt: skip


def cases_in_lanes(dtype: str, n: int, width: int) -> list[Case]:
    """The kernels for rows in lanes: n rows, a layer of a width after one of twice the width."""
    rng = np.random.default_rng(1)
    item, features = np.dtype(dtype).itemsize, 2 * width
    A, D = rng.normal(size=(features, n)), rng.normal(size=(width, n))
    W, b = rng.normal(size=(features, width)) / np.sqrt(features), rng.normal(size=width)
    A, D, W, b = (array.astype(dtype).astype(np.float64) for array in (A, D, W, b))
    o = rng.normal(size=(4, n))
    # Deltas are multiplied in place again and again: by 1 or -1, or they would become subnormal.
    y = o.T + rng.choice([-2.0, 2.0], size=(n, 4))
    unit, signs = np.eye(width)[np.arange(features) % width], np.sign(D)
    z, flops = W.T @ A + b[:, None], 2.0 * n * features * width
    softmax = np.exp(o) / np.exp(o).sum(axis=0)
    labels = np.arange(n) % 4
    smoothed = 0.75 * np.eye(4)[labels] + 0.25 / 4
    line = 64 // item
    panel = PANEL_LINES * line
    tiles = [
        (p * features + r, p * features + min(r + line, features))
        for p in range(-(-width // panel))
        for r in range(0, features, line)
    ]
    sums = Tensor(np.zeros(len(tiles)), "float64")

    def t(matrix: Any) -> Tensor:
        return Tensor(matrix, dtype)

    loss = {"row_loss": t(np.zeros(n)), "row_weight": t(np.zeros(n)), "delta": t(o), "output": t(o),
            "data_weights": None, "row_index": integers(np.arange(n)),
            "batch": batch_tensor(n)}  # fmt: skip
    ends = {"tile_norm": sums, "tile_penalty": sums, "scalars": scalars_tensor(),
            "batch": batch_tensor(n), "delta": t(D)}  # fmt: skip
    return [
        Case("gather_inputs_in_lanes", {"inputs": t(np.zeros_like(A)),
                                        "data_inputs": Tensor(A.T, dtype, panels=False),
                                        "row_index": integers(np.arange(n)),
                                        "batch": batch_tensor(n)}, (features,), [(0, n)],
             {"inputs": A}, bytes=2 * item * n * features),
        Case("dense_forward_in_lanes", {"output": t(np.zeros_like(D)), "inputs": t(A),
                                        "derivative": t(np.zeros_like(D)), "weight": t(W),
                                        "bias": t(b), "settings": t(0)}, (0,), [(0, n)],
             {"output": np.tanh(z), "derivative": 1 - np.tanh(z) ** 2}, flops=flops, law=Tanh()),
        Case("dense_backward_data_in_lanes", {"input_delta": t(np.ones_like(A)),
                                              "delta": t(signs), "weight": t(unit)},
             (0,), [(0, n)], {"input_delta": unit @ signs}, flops=flops),
        Case("elementwise_loss_in_lanes", {**loss, "delta": t(np.ones_like(o)), "settings": t(0),
                                           "data_targets": Tensor(y, dtype, panels=False)},
             (4,), [(0, n)], {"row_loss": ((o.T - y) ** 2).mean(axis=1)[None]},
             bytes=5 * item * n * 4, law=Mse()),
        Case("cross_entropy_loss_in_lanes", {**loss, "delta": t(o),
                                             "data_targets": Tensor(labels[:, None], "int64",
                                                                    panels=False)},
             (4,), [(0, n)], {"row_loss": -np.log(softmax[labels, np.arange(n)])[None]},
             bytes=4 * item * n * 4),
        Case("smoothed_cross_entropy_loss_in_lanes", {**loss, "delta": t(o), "settings": t(0.25),
                                                      "data_targets": Tensor(labels[:, None],
                                                                             "int64",
                                                                             panels=False)},
             (4,), [(0, n)], {"row_loss": -(np.log(softmax.T) * smoothed).sum(axis=1)[None]},
             bytes=4 * item * n * 4),
        Case("dense_weight_gradient_in_lanes", {**ends, "gradient": t(np.zeros_like(W)),
                                                "parameter": t(W), "inputs": t(A),
                                                "penalties": Tensor([0, 0], "float64")},
             (line, 0), tiles, {"gradient": 0.5 * A @ D.T}, flops=flops),
        Case("dense_bias_gradient_in_lanes", {**ends, "gradient": t(np.zeros(width))}, (1000, 0),
             [(0, -(-width // panel))], {"gradient": 0.5 * D.sum(axis=1)[None]},
             bytes=item * n * width),
    ]  # fmt: skip
