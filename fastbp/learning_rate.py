"""A learning rate from one short training whose rate grows from step to step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.choose import in_standard_arithmetic, resolve_device
from fastbp.backends.contract import Scalar, Status
from fastbp.datasets import prepare_data
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.optimizers import Optimizer
from fastbp.plan import passes_of
from fastbp.registry import finite, positive_integer
from fastbp.run_engines import RunEngines
from fastbp.settings import Settings, check_settings
from fastbp.text import table, without_nan

__all__ = ["LearningRateCurve", "find_learning_rate"]

# The test ends where the average of the losses is so many times its lowest (Sylvain Gugger, How do
# you find a good learning rate, 2018), and above the start by as much: losses may be near zero.
RUNAWAY = 4.0
MOMENTUM = 0.9  # of the average of losses that the end is seen by
WIDTH = 0.02  # of the smoothing of the curve, a share of the steps
FALL = 0.02  # what the smoothed loss has to fall by, of where it was, to say anything
EDGE = 0.9  # the share of the largest fall up to which a rate counts as good
LINES = 12  # of the curve in text


@dataclass(frozen=True, eq=False)
class LearningRateCurve:
    """What `fastbp.find_learning_rate` found.

    Attributes
    ----------
    rates : array (steps,)
        The learning rate of each step.
    losses : array (steps,)
        The objective of each step's batch before its update; the last one may not be finite.
    smoothed : array (steps,)
        What each batch's loss is more or less than at the initial parameters, on top of the median
        loss there, averaged over neighbouring steps; batches with a loss above the median there
        count by their share of it.
    suggestion : float
        A rate to train with; NaN where the loss falls at no rate.
    message : str
        One sentence.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    suggestion: float
    message: str

    def __str__(self) -> str:
        places = np.unique(np.linspace(0, len(self.rates) - 1, LINES).round().astype(int))
        rows = [(f"{self.rates[i]:.2e}", f"{self.smoothed[i]:.5g}") for i in places]
        return "\n".join([*table(("learning rate", "loss, smoothed"), rows), self.message])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data; what is not finite becomes None."""
        plain: dict[str, Any] = without_nan(
            {
                name: value.tolist() if isinstance(value, np.ndarray) else value
                for name, value in self.__dict__.items()
            }
        )
        return plain

    def plot(self, axes: Any = None) -> Any:
        """Draw the losses over the learning rate, and the suggestion.

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            New ones by default, of pyplot's current figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            Without Matplotlib.
        """
        if axes is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError(f"plot: expected Matplotlib to be installed; {error}") from error
            axes = pyplot.gca()
        axes.plot(self.rates, self.losses, ".", alpha=0.4, label="batches")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        if math.isfinite(self.suggestion):
            label = f"suggestion: {self.suggestion:.2g}"
            axes.axvline(self.suggestion, color="C2", linestyle="--", label=label)
        known = self.smoothed[np.isfinite(self.smoothed)]
        low, high = known.min(), max(known[0], known.min())
        if high > low:  # what ran away would leave no room for the rest
            axes.set_ylim(low - 0.2 * (high - low), high + 0.5 * (high - low))
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss of a batch")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
        return axes


@in_standard_arithmetic
def find_learning_rate(
    model: Model,
    X: Any,
    y: Any,
    loss: str | Loss = "mse",
    optimizer: str | Optimizer | None = None,
    batch_size: int = 256,
    sample_weight: Any = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    standardize: bool = False,
    class_weight: Any = None,
    seed: int = 0,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 200,
    device: str = "auto",
    threads: int | None = None,
) -> LearningRateCurve:
    """Look for a learning rate: train a copy of the model with one that grows from step to step.

    Step i of n has the rate ``lowest * (highest / lowest)**(i / (n - 1))``. The test ends early
    where the loss has run away, or is not finite. Each batch is compared with itself at
    the initial parameters, for batches differ by more than a small rate changes. The suggestion is
    the geometric mean of two rates: the first at which half of the smoothed loss's fall is reached,
    and the last at which 90% of it are. It may be the highest of a schedule, or that of constant
    training.

    Parameters
    ----------
    model : Model
        Not changed.
    X, y, loss, optimizer, batch_size, sample_weight, clip_norm, clip_value, l1, l2
        As for `fastbp.train`. The learning rate of the optimizer does not count.
    standardize, class_weight
        As for `fastbp.train`.
    seed : int
        Of the order of the rows.
    lowest, highest : float
        Above 0.
    steps : int
        At least 10.
    device, threads
        As for `fastbp.train`.

    Returns
    -------
    LearningRateCurve

    Raises
    ------
    TypeError, ValueError, DeviceError
        As for `fastbp.train`.

    Source: Smith, Cyclical learning rates for training neural networks, 2017, section 3.3.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a Model; got {type(model).__name__}")
    finite("lowest", lowest, 0.0, open_low=True)
    finite("highest", highest, lowest, open_low=True)
    steps = positive_integer("steps", steps, low=10)
    settings = check_settings(
        loss=loss,
        optimizer=optimizer,
        schedule=None,
        epochs=1,
        batch_size=batch_size,
        clip_norm=clip_norm,
        clip_value=clip_value,
        l1=l1,
        l2=l2,
        ema=None,
        shuffle=True,
        seed=seed,
        patience=None,
        monitor=None,
        on_divergence="raise",
        device=device,
        precision="float32",
        dtype=model.dtype,
        threads=threads,
        callbacks=(),
        checkpoint=None,
        resume=False,
        has_validation=False,
    )
    training, _, scaling = prepare_data(
        model, X, y, sample_weight, None, standardize, settings.loss, settings.seed, class_weight
    )
    rows = min(settings.batch_size, training.rows)
    multiply_adds = passes_of("train") * rows * model.network.parameter_count
    settings = replace(settings, device=resolve_device(device, multiply_adds, "float32"))
    engines = RunEngines(model, settings, training, None, scaling)
    try:
        engines.load_parameters(model.parameters)
        rates = np.geomspace(lowest, highest, steps)
        # Batches differ by more than a small rate changes in a step: each is compared with itself.
        start = engines.engine.read_state()
        resting = losses_of(engines.engine, settings, training.rows, np.zeros(steps))
        engines.engine.write_state(start)
        engines.load_parameters(model.parameters)
        losses = losses_of(engines.engine, settings, training.rows, rates, resting)
    finally:
        engines.close()
    rates, resting = rates[: len(losses)], resting[: len(losses)]
    smoothed = smooth(compare(losses, resting), WIDTH * steps)
    return LearningRateCurve(rates, losses, smoothed, *suggest(rates, smoothed))


def losses_of(
    engine: Any,
    settings: Settings,
    rows: int,
    rates: NDArray[np.float64],
    resting: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The loss of every step's batch; with resting ones, until it runs away from them."""
    per_epoch = -(-rows // min(settings.batch_size, rows))
    losses: list[float] = []
    average, lowest = 0.0, math.inf
    for step, _ in enumerate(rates):
        epoch, batch = divmod(step, per_epoch)
        if batch == 0:
            of_epoch = rates[step : step + per_epoch]
            engine.begin_epoch(
                rows,
                shuffle_seed=settings.seed if per_epoch > 1 else None,
                mask_seed=settings.seed,
                epoch=epoch,
                learning_rates=np.pad(of_epoch, (0, per_epoch - len(of_epoch))),
            )
        status, _ = engine.run_in_calls(batch + 1, batch)
        losses.append(float(engine.scalars[Scalar.LOSS]))
        if status is not Status.DONE or not math.isfinite(losses[-1]):
            break
        if resting is None:
            continue
        if step == len(resting):  # a batch that is not finite at any rate
            break
        start = float(np.median(resting))
        compared = compare(losses[-1], resting[step], start)
        average = MOMENTUM * average + (1 - MOMENTUM) * float(compared)
        unbiased = average / (1 - MOMENTUM ** (step + 1))
        lowest = min(lowest, unbiased)
        if unbiased - lowest > (RUNAWAY - 1) * max(abs(lowest), start - lowest):
            break
    return np.array(losses)


def compare(losses: Any, resting: Any, start: float | None = None) -> NDArray[np.float64]:
    """What batches have lost or gained of their loss at rest, on top of the median loss at rest.

    A batch with outliers, whose loss at rest is above the median, counts by its share of it.
    """
    start = float(np.median(resting)) if start is None else start
    size = np.maximum(np.abs(resting), abs(start))
    share = np.divide(losses - resting, size, where=size > 0, out=np.zeros_like(size))
    return np.asarray(start + abs(start) * share)


def smooth(losses: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Averages with weights that fall off as a normal law of so many steps; NaN where no number is.

    What is not finite, or far above the rest, is the end of the curve: it gets no weight.
    """
    steps = np.arange(len(losses))
    known = np.isfinite(losses)
    distances = (steps[:, None] - steps[known]) / width
    weights = np.exp(-0.5 * distances**2)
    sums = (weights * losses[known]).sum(axis=1)  # the same for any number of BLAS's threads
    smoothed = sums / np.maximum(weights.sum(axis=1), 1e-300)
    smoothed[~known] = np.nan
    return np.asarray(smoothed)


def suggest(rates: NDArray[np.float64], smoothed: NDArray[np.float64]) -> tuple[float, str]:
    """A rate, and a sentence on it."""
    known = np.isfinite(smoothed)
    rates, smoothed = rates[known], smoothed[known]
    fallen = smoothed[:1] - smoothed
    most = int(np.argmax(fallen)) if len(fallen) else 0
    if not len(fallen) or not fallen[most] > FALL * abs(smoothed[0]):
        return math.nan, "The loss falls at no learning rate: there is none to suggest."
    half = float(rates[np.argmax(fallen >= 0.5 * fallen[most])])
    edge = float(rates[np.flatnonzero(fallen >= EDGE * fallen[most])[-1]])
    suggestion = math.sqrt(half * edge)
    return suggestion, (
        f"The loss has fallen by half at a learning rate of {half:.2g}, and rises again beyond "
        f"{edge:.2g}: try {suggestion:.2g}."
    )
