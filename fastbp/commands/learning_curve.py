"""The picture of a learning curve."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastbp.files import write_whole
from fastbp.losses import Loss

__all__ = ["draw_learning_curve", "picture_path"]

STANDARDISED = {name for name in Loss.names() if Loss.registry[name].targets == "real"}


def picture_path(output: Path) -> Path:
    """Beside the model, under its name, and never the model itself."""
    path = output.with_suffix(".png")
    return path if path != output else output.with_name(f"{output.name}.learning_curve.png")


def draw_learning_curve(
    history: NDArray[np.void], path: Path, best_epoch: int, loss: str
) -> str | None:
    """Draw loss and validation loss over the epochs, where matplotlib is installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    marker = "." if len(history) < 10 else ""
    axes.plot(history["epoch"], history["loss"], marker=marker, label="training")
    axes.plot(history["epoch"], history["validation_loss"], marker=marker, label="validation")
    kept = history["validation_loss"][best_epoch - 1]
    axes.plot(best_epoch, kept, "o", color="C1", label=f"kept: epoch {best_epoch}")
    positive = (history["loss"] > 0).all() and (history["validation_loss"] > 0).all()
    axes.set(
        xlabel="epoch",
        ylabel=f"{loss}, standardised targets" if loss in STANDARDISED else loss,
        yscale="log" if positive else "linear",
        title=path.stem,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write_whole(path, content.getvalue())
    return str(path)
