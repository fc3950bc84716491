"""PyTorch on a GPU: eager, with whole steps in a CUDA graph, and compiled in a CUDA graph.

The data lie on the device, and the order of an epoch is drawn there; optimizers are the fused ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.gpu.contest import contend, epoch_times
from benchmarks.gpu.helpers import Skipped
from benchmarks.gpu.rows import ROWS, Row, data_for
from benchmarks.peers_torch import ACTIVATIONS, LOSSES
from benchmarks.workloads import initial_parameters

__all__ = ["COMMANDS", "KINDS", "Contestant"]

KINDS = ("eager", "graph", "compiled")
WARM_STEPS = 3  # before a capture, as PyTorch's documentation has it
GRAPH_STEPS = 8  # of one graph, so that its launch is not felt
MATMUL = {"float32": "highest", "tf32": "high", "bf16": "highest"}  # PyTorch's names


class Contestant:
    """Trains a row.

    Parameters
    ----------
    row : Row
    kind : str
        ``"eager"``, ``"graph"`` or ``"compiled"``. Without a GPU a graph's steps are run one by
        one.
    device : str
        ``"cuda"`` or ``"cpu"``.
    """

    def __init__(self, row: Row, kind: str, device: str = "cuda") -> None:
        self.row, self.work, self.kind, self.device = row, row.work, kind, device
        torch.set_float32_matmul_precision(MATMUL[row.precision])
        X, y = data_for(row.work)
        self.X, self.y = torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)
        self.order = torch.arange(self.work.rows, device=device)
        self.lanes = torch.arange(self.work.batch_size, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.build()
        self.graph: Any = None
        self.graph_steps = min(GRAPH_STEPS, row.check_steps, self.work.steps_per_epoch)
        if kind != "eager":
            self.capture()

    def build(self) -> None:
        """The model, its objective and an optimizer."""
        modules: list[torch.nn.Module] = []
        for a, b in itertools.pairwise(self.work.sizes):
            modules += [torch.nn.Linear(a, b), ACTIVATIONS[self.work.activation]()]
        self.model = torch.nn.Sequential(*modules[:-1]).to(self.device)
        self.objective = self.loss
        if self.kind == "compiled":
            self.objective = torch.compile(self.loss, dynamic=False)
        settings: dict[str, Any] = {"lr": self.work.learning_rate, "fused": True}
        optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        if self.work.optimizer == "adam":
            settings["capturable"] = self.device != "cpu" and self.kind != "eager"
        self.optimizer = optimizers[self.work.optimizer](self.model.parameters(), **settings)
        self.restore()

    def restore(self) -> None:
        """The parameters that all libraries start from, and the optimizer's state, in place."""
        with torch.no_grad():
            for layer, (weight, bias) in zip(
                self.model[::2], initial_parameters(self.work), strict=True
            ):
                layer.weight.copy_(torch.from_numpy(weight).T)
                layer.bias.copy_(torch.from_numpy(bias))
            for state in self.optimizer.state.values():
                for value in state.values():
                    if torch.is_tensor(value):
                        value.zero_()
        self.position.zero_()

    def loss(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The mean loss of some rows."""
        if self.row.precision != "bf16":
            return LOSSES[self.work.loss](self.model(X), y)
        # A cache of cast weights must not outlive a step that is recorded.
        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            return LOSSES[self.work.loss](self.model(X), y)

    def step(self) -> None:
        """One step on the next batch of the order."""
        index = self.order.index_select(0, self.position + self.lanes)
        self.position.add_(self.work.batch_size)
        self.optimizer.zero_grad(set_to_none=True)
        self.objective(self.X.index_select(0, index), self.y.index_select(0, index)).backward()
        self.optimizer.step()

    def eager_step(self, index: torch.Tensor) -> None:
        """One step as a user of eager PyTorch writes it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.objective(self.X.index_select(0, index), self.y.index_select(0, index)).backward()
        self.optimizer.step()

    def capture(self) -> None:
        """Record some steps, which one call repeats."""
        if self.device == "cpu":
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_STEPS):
                self.position.zero_()
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self.position.zero_()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(self.graph_steps):
                self.step()
        self.restore()

    def run_in_order(self, steps: int) -> None:
        """Some steps from the begin of the order on."""
        batch = self.work.batch_size
        if self.kind == "eager":
            for index in self.order[: steps * batch].split(batch):
                self.eager_step(index)
            return
        self.position.zero_()
        if self.graph is None:
            for _ in range(steps):
                self.step()
            return
        for _ in range(steps // self.graph_steps):
            self.graph.replay()

    def loss_after(self) -> tuple[float, float]:
        """The loss before and after the steps of the check."""
        row = self.row
        self.restore()
        X, y = self.X[: row.check_rows], self.y[: row.check_rows]
        with torch.no_grad():
            before = float(self.loss(X, y))
        for _ in range(row.check_epochs):
            self.run_in_order(row.check_rows // self.work.batch_size)
        with torch.no_grad():
            return before, float(self.loss(X, y))

    def run(self, epochs: int) -> None:
        """Train some epochs, each in a new order, and wait for the end."""
        for _ in range(epochs):
            self.order.copy_(torch.randperm(self.work.rows, device=self.device))
            self.run_in_order(self.work.steps_per_epoch)
        if self.device != "cpu":
            torch.cuda.synchronize()

    def times(self, seconds: float) -> list[float]:
        """Seconds of an epoch."""
        return epoch_times(self.run, seconds)


def compete(row: str, kind: str, expected: Sequence[float], seconds: float) -> dict[str, Any]:
    """Check and time PyTorch."""
    if not torch.cuda.is_available():
        raise Skipped(f"PyTorch {torch.__version__} sees no GPU")
    torch.cuda.empty_cache()
    torch.compiler.reset()  # it would give up, and be eager, after some shapes
    return contend(lambda: Contestant(ROWS[row], kind), ROWS[row], expected, seconds)


COMMANDS = {"compete": compete}
