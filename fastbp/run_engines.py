"""The engines of a training run: one that trains, one that validates, one that predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.choose import create_engine, geometry
from fastbp.backends.contract import Scalar
from fastbp.datasets import Data
from fastbp.layer_statistics import LayerStatistics
from fastbp.model import Model
from fastbp.plan import build_plan
from fastbp.scaling import Scaling
from fastbp.settings import Settings

__all__ = ["RunEngines"]

EVALUATION_ROWS = 1024


@dataclass(frozen=True)
class Work:
    """What takes how much time, in multiply-adds that one core does meanwhile (docs/tuning.md).

    Attributes
    ----------
    speed : int
        Multiply-adds of a step that count as one.
    step : int
        What a step takes besides.
    look : int
        A look at the layers, whatever there is to see.
    layer, parameter, output : int
        Each layer, each number in the slab of the parameters, and each output of a segment's rows.
    """

    speed: int
    step: int
    look: int
    layer: int
    parameter: int
    output: int

    def of_step(self, multiply_adds: int) -> int:
        """Of a step of training."""
        return multiply_adds // self.speed + self.step

    def of_look(self, layers: int, parameters: int, outputs: int) -> int:
        """Of a look at all layers."""
        seen = self.parameter * parameters + self.output * outputs
        return self.look + self.layer * layers + seen


# Those of GPUs are estimates: copies from the device, and a step that takes no time of a processor.
WORK = {
    "cpu": Work(1, 10_000, 4_000_000, 1_500_000, 240, 60),
    "cuda": Work(300, 250_000, 20_000_000, 4_000_000, 240, 60),
}
# Between two looks lies so many times the work of one: it takes 1% of the time of one core, and 2%
# of that of two. Results must not depend on the number of threads, and so this does not either.
WORK_BETWEEN_LOOKS = 100


class RunEngines:
    """What a run asks of its engines.

    With `ema` the parameters that a user gets, that validation sees and that snapshots hold are the
    averages.

    Parameters
    ----------
    model : Model
    settings : Settings
    training : Data
    held_out : Data or None
    scaling : Scaling or None
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        training: Data,
        held_out: Data | None,
        scaling: Scaling | None,
    ) -> None:
        self.settings, self.scaling = settings, scaling
        self.held_out = held_out
        network, dtype = model.network, model.dtype
        shapes = geometry(settings.device, network, dtype, settings.precision)
        self.engine: Any = None
        self.others: dict[str, Any] = {}
        batch_rows = min(settings.batch_size, training.rows)
        plan = build_plan(
            network,
            "train",
            dtype,
            batch_rows,
            shapes,
            loss=settings.loss,
            optimizer=settings.optimizer,
            l1=settings.l1,
            l2=settings.l2,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            ema=settings.ema,
        )
        self.judged = held_out if held_out is not None else training
        try:
            self.engine = create_engine(plan, settings.device, settings.threads)
            if held_out is not None:
                self.add("evaluate", model, held_out)
            if settings.monitor.needs_outputs:
                self.add("predict", model, self.judged)
            bind(self.engine, training)
        except BaseException:
            self.close()
            raise
        self.statistics = LayerStatistics(self.engine)
        work = WORK[settings.device.partition(":")[0]]
        self.work_of_step = work.of_step(plan.multiply_adds)
        self.work_between_looks = WORK_BETWEEN_LOOKS * work.of_look(*self.statistics.numbers)
        self.flat = np.empty(network.parameter_count, dtype=dtype)
        self.before: NDArray[Any] | None = None  # the parameters before the last step

    def add(self, purpose: str, model: Model, data: Data) -> None:
        """An engine over some data; it shares the parameters that are trained, if those count."""
        settings = self.settings
        rows = min(data.rows, EVALUATION_ROWS)
        shapes = self.engine.plan.geometry
        loss = settings.loss if purpose == "evaluate" else None
        plan = build_plan(model.network, purpose, model.dtype, rows, shapes, loss=loss)
        shared = {"parameters": self.engine} if settings.ema is None else {}
        other = create_engine(plan, settings.device, settings.threads, shared)
        self.others[purpose] = other
        bind(other, data)
        if purpose == "predict":
            self.outputs = np.empty((data.rows, model.network.outputs), dtype=model.dtype)
            other.bind("data.outputs", self.outputs)

    def close(self) -> None:
        """Give back what the engines hold besides themselves."""
        for engine in (*self.others.values(), self.engine):
            if engine is not None:
                engine.close()

    # Parameters.

    def load_parameters(self, flat: NDArray[Any]) -> None:
        """Start from a flat vector."""
        self.engine.load_parameters(flat)

    def snapshot(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """A copy of the parameters as they lie in the engine; into `out`, if given."""
        has_average = self.settings.ema is not None and self.engine.scalars[Scalar.STEP] > 0
        slab = "averages" if has_average else "parameters"
        found: NDArray[Any] = self.engine.snapshot(out, slab)
        return found

    def store_parameters(self, flat: NDArray[Any], snapshot: NDArray[Any]) -> None:
        """Copy a snapshot into a flat vector."""
        self.engine.store_parameters(flat, snapshot)

    # Looking at what was trained.

    def validate(self, snapshot: NDArray[Any]) -> tuple[float, float]:
        """The validation loss and the metric of a snapshot's parameters; NaN without."""
        if self.settings.ema is not None and self.others:
            self.store_parameters(self.flat, snapshot)
            for other in self.others.values():
                other.load_parameters(self.flat)
        loss = metric = math.nan
        if self.held_out is not None:
            evaluator = self.others["evaluate"]
            evaluator.run_all(self.held_out.rows)
            sums = evaluator.scalars
            loss = float(sums[Scalar.WEIGHTED_LOSS_SUM] / sums[Scalar.WEIGHT_SUM])
        if "predict" in self.others:
            self.others["predict"].run_all(self.judged.rows)
            metric = self.measure()
        return loss, metric

    def measure(self) -> float:
        """The metric, in the units of the user's targets."""
        settings, targets = self.settings, self.judged.targets
        outputs = self.outputs.copy()  # a metric of the user may keep them
        if self.scaling is not None:
            targets = targets.copy()
            self.scaling.outputs(outputs)
            if targets.shape == outputs.shape:
                self.scaling.outputs(targets)
        assert settings.monitor.metric is not None
        return settings.monitor.metric.evaluate(targets, settings.loss.response(outputs))

    # Statistics of the layers.

    def is_due(self, epoch: int, steps: int) -> bool:
        """Whether an epoch of so many steps ends with a look at the layers: the first one does.

        It depends on nothing but its number, so that a run that goes on looks at the same epochs.
        """
        enough, work = self.work_between_looks, steps * self.work_of_step
        return epoch == 0 or (epoch + 1) * work // enough > epoch * work // enough

    def prepare_statistics(self) -> None:
        """Keep the parameters before the last step."""
        self.before = self.engine.snapshot(self.before)

    def fill_statistics(self, row: np.void) -> None:
        """What the last step says of the layers, into a row of the history."""
        self.statistics.fill(row, self.before)


def bind(engine: Any, data: Data) -> None:
    """Point an engine at some data."""
    engine.bind("data.inputs", data.inputs, data.sources.get("inputs"))
    engine.bind("data.targets", data.targets, data.sources.get("targets"))
    engine.bind("data.weights", data.weights)
