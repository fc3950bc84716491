"""The engines that a model keeps, so that its second call of a kind builds and compiles nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from fastbp.backends.choose import create_engine, create_few_rows, geometry, resolve_device
from fastbp.losses import Loss
from fastbp.network import Network
from fastbp.plan import build_plan, passes_of
from fastbp.scaling import Scaling
from fastbp.turns import tell_of_forks

__all__ = ["FEW_ROWS", "Engines", "device_for"]

# Rows that one batch holds at most; small requests get small buffers.
CHUNKS = (1, 32, 1024)
GPU_CHUNKS = (64, 1024, 16_384)
FEW_ROWS = 32
MOST_KEPT = 12


def device_for(device: str, network: Network, purpose: str, rows: int) -> str:
    """The device on which a call that is no training runs: ``"cpu"`` or ``"cuda:N"``.

    Parameters
    ----------
    device : str
        As for `fastbp.train`.
    network : Network
    purpose : str
        Of the plan.
    rows : int

    Raises
    ------
    TypeError, ValueError, DeviceError
        For what is no device, and for one that is not to be had.
    """
    return resolve_device(device, passes_of(purpose) * rows * network.parameter_count)


class Engines:
    """One engine for each purpose, loss and batch size that was asked for.

    Parameters
    ----------
    network : Network
    dtype : str
    """

    def __init__(self, network: Network, dtype: str) -> None:
        self.network = network
        self.dtype = dtype
        self.kept: dict[tuple[str, Loss | None, int, str], Any] = {}
        self.few: Any = None
        self.lock = threading.Lock()
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """A thread of the parent may have held the lock and been at work in the engines."""
        self.lock = threading.Lock()
        self.few = None
        self.kept = {}

    def predict_few(
        self, parameters: NDArray[Any], X: Any, scaling: Scaling | None
    ) -> NDArray[Any] | None:
        """The outputs for a few rows; None where `run` has to answer, or to refuse."""
        few = self.few
        if few is None or few.parameters is not parameters:
            with self.lock:
                if self.few is None or self.few.parameters is not parameters:
                    shapes = geometry("cpu", self.network, self.dtype)
                    plan = build_plan(self.network, "predict", self.dtype, FEW_ROWS, shapes)
                    self.few = create_few_rows(plan, parameters)
                few = self.few
        outputs: NDArray[Any] | None = few(X, scaling)
        return outputs

    def get(self, purpose: str, rows: int, loss: Loss | None = None, device: str = "cpu") -> Any:
        """The engine for a purpose and a number of rows.

        The gradient of the parameters is one batch of all rows, so its engine is sized to the data
        and only the last one is kept; everything else goes through the rows in chunks.
        """
        whole = purpose == "gradient"
        chunks = CHUNKS if device == "cpu" else GPU_CHUNKS
        batch_rows = rows if whole else next((c for c in chunks if rows <= c), chunks[-1])
        key = (purpose, loss, batch_rows, device)
        if key not in self.kept:
            if whole:
                for known in [k for k in self.kept if k[0] == purpose]:
                    self.kept.pop(known).close()
            shapes = geometry(device, self.network, self.dtype)
            plan = build_plan(self.network, purpose, self.dtype, batch_rows, shapes, loss=loss)
            while len(self.kept) >= MOST_KEPT:
                self.kept.pop(next(iter(self.kept))).close()
            self.kept[key] = create_engine(plan, device)
        return self.kept[key]

    @contextlib.contextmanager
    def run(
        self,
        purpose: str,
        parameters: NDArray[Any],
        data: Mapping[str, NDArray[Any] | None],
        loss: Loss | None = None,
        device: str = "cpu",
        sources: Mapping[str, Any] | None = None,
    ) -> Iterator[Any]:
        """Run over all rows of some data and lend the engine, to read its results.

        One thread at a time: the engine's buffers hold the results until the block ends. The
        engine keeps no reference to the data.

        Parameters
        ----------
        purpose : str
            Of the plan.
        parameters : array
            The flat parameter vector.
        data : mapping of str to array or None
            The plan's data tensors: ``inputs``, and what the purpose needs besides.
        loss : Loss, optional
        device : str
            As for `fastbp.train`.
        sources : mapping of str to object
            What data was made from without any change of its numbers.

        Raises
        ------
        TypeError, ValueError
            For what is no device.
        DeviceError
            For a device that is not to be had, has too little memory, or fails.
        """
        inputs = data["inputs"]
        assert inputs is not None
        rows = inputs.shape[0]
        where = device_for(device, self.network, purpose, rows)
        with self.lock:
            engine = self.get(purpose, rows, loss, where)
            try:
                for name, array in data.items():
                    engine.bind(f"data.{name}", array, (sources or {}).get(name))
                engine.load_parameters(parameters)
                engine.run_all(rows)
                yield engine
            finally:
                engine.release()
