"""JAX on a GPU: an epoch is one compiled `lax.scan`, the shuffle inside, state donated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers_jax
from benchmarks.gpu.contest import contend, epoch_times
from benchmarks.gpu.helpers import Skipped
from benchmarks.gpu.rows import ROWS, Row, data_for

__all__ = ["COMMANDS", "Contestant"]

# Without this JAX rounds the factors of products to tf32 on a GPU.
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}


def find_device(platform: str) -> Any:
    """The first device of a platform.

    Raises
    ------
    Skipped
        If the installed JAX has none.
    """
    try:
        return jax.devices(platform)[0]
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        raise Skipped(f"JAX {jax.__version__} has no {platform} device: {text}") from error


class Contestant(peers_jax.Contestant):
    """Trains a row with one compiled call an epoch."""

    def __init__(self, row: Row, platform: str = "cuda") -> None:
        self.row, self.work = row, row.work
        self.device = find_device(platform)
        jax.config.update("jax_default_device", self.device)
        jax.config.update("jax_default_matmul_precision", PRECISIONS[row.precision])
        X, y = data_for(row.work)
        self.X = jnp.asarray(X)
        self.y = jnp.asarray(y.astype(np.int32) if y.dtype == np.int64 else y)
        self.reset()

    def loss_after(self) -> tuple[float, float]:
        """The loss before and after the steps of the check."""
        return super().loss_after(self.row.check_rows, self.row.check_epochs)

    def times(self, seconds: float) -> list[float]:
        """Seconds of an epoch."""
        self.compile()
        return epoch_times(self.run, seconds)

    def run(self, epochs: int) -> None:
        """Train some epochs, and wait for the end."""
        self.train(epochs, latest=0.0)


def compete(row: str, expected: Sequence[float], seconds: float) -> dict[str, Any]:
    """Check and time JAX."""
    return contend(lambda: Contestant(ROWS[row]), ROWS[row], expected, seconds)


COMMANDS = {"compete": compete}
