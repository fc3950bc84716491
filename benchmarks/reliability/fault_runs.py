"""Faults in the rooms round the kernels: data, epochs, scaling, models and their engines."""

from __future__ import annotations

from benchmarks.reliability.fault_tables import Fault, in_rooms

__all__ = ["RUN_FAULTS"]

RUN_FAULTS: list[Fault] = in_rooms(
    (
        "epochs.py",
        "training",
        [
            (
                "every epoch has the same order",
                "epoch=epoch,\n            learning_rates",
                "epoch=0,\n            learning_rates",
            ),
            (
                "one epoch too few",
                'return "epochs" if epochs >= settings.epochs else None',
                'return "epochs" if epochs >= settings.epochs - 1 else None',
            ),
        ],
    ),
    (
        "epochs.py",
        "history",
        [
            (
                "the norm in the history is a sum",
                "engine.scalars[Scalar.NORM_SUM] / self.steps_per_epoch",
                "engine.scalars[Scalar.NORM_SUM]",
            ),
        ],
    ),
    (
        "epochs.py",
        "validation",
        [
            (
                "the best epoch is the worst",
                "or watched < self.watched[reached.best_epoch - 1]",
                "or watched > self.watched[reached.best_epoch - 1]",
            ),
            (
                "patience is one epoch longer",
                "epochs - self.reached.best_epoch >= settings.patience",
                "epochs - self.reached.best_epoch > settings.patience",
            ),
            (
                "the parameters before the best epoch are kept",
                "best_epoch, best = (epochs, snapshot) if is_best",
                "best_epoch, best = (epochs, reached.kept) if is_best",
            ),
        ],
    ),
    (
        "epochs.py",
        "divergence",
        [
            (
                "a diverged epoch's parameters stay",
                "self.keep(self.final_parameters if is_stopped else self.reached.kept)",
                "self.keep(self.engines.snapshot())",
            ),
        ],
    ),
    (
        "epochs.py",
        "resuming",
        [
            (
                "a resumed run has the slots and the step of a new one",
                "engine.write_state(state.engine)",
                "pass",
            ),
            (
                "a resumed run forgets the losses that it watched",
                "self.watched = list(state.watched)",
                "self.watched = [0.0] * len(state.watched)",
            ),
        ],
    ),
    (
        "schedules.py",
        "history",
        [
            (
                "schedules begin anew in each epoch",
                "first = epoch * steps_per_epoch",
                "first = 0",
            ),
        ],
    ),
    (
        "run_engines.py",
        "averages",
        [
            (
                "the parameters, not their average, are validated and kept",
                "self.settings.ema is not None and self.engine.scalars[Scalar.STEP] > 0",
                "self.settings.ema is not None and self.engine.scalars[Scalar.STEP] < 0",
            ),
        ],
    ),
    (
        "datasets.py",
        "validation",
        [
            (
                "validation reads training rows",
                "held_out = (inputs[held_rows], targets[held_rows], held_weights)",
                "held_out = (inputs[train_rows], targets[train_rows], None)",
            ),
            (
                "held-out rows are trained on as well",
                "return np.sort(order[held_out:]), np.sort(order[:held_out])",
                "return np.sort(order), np.sort(order[:held_out])",
            ),
            (
                "weights of the validation are ignored",
                "weights_too = validation[2] if len(validation) > 2 else None",
                "weights_too = None",
            ),
        ],
    ),
    (
        "datasets.py",
        "scaling",
        [
            (
                "means and scales ignore the weights",
                'targets if loss.targets == "real" else None, weights)',
                'targets if loss.targets == "real" else None, None)',
            ),
        ],
    ),
    (
        "scaling.py",
        "scaling",
        [
            (
                "outputs: the mean is added before the scale",
                "array[...] = array * self.target_scale + self.target_mean",
                "array[...] = (array + self.target_mean) * self.target_scale",
            ),
            (
                "a variance, not a standard deviation",
                "scale = np.sqrt(np.average((near - mean) ** 2, axis=0, weights=weights))",
                "scale = np.average((near - mean) ** 2, axis=0, weights=weights)",
            ),
        ],
    ),
    (
        "derivatives.py",
        "scaling",
        [
            (
                "derivatives by scaled inputs: multiplied, not divided",
                "gradient[...] = gradient / self.scaling.input_scale",
                "gradient[...] = gradient * self.scaling.input_scale",
            ),
        ],
    ),
    (
        "derivatives.py",
        "gradients",
        [
            (
                "input gradients are divided by rows, not by weights",
                "gradient.dtype.type(1.0 / engine.scalars[Scalar.WEIGHT_SUM])",
                "gradient.dtype.type(1.0 / len(gradient))",
            ),
            (
                "all rows of a Jacobian are the first",
                "cotangents[:, j] = 1",
                "cotangents[:, 0] = 1",
            ),
        ],
    ),
    (
        "engines.py",
        "reuse",
        [
            (
                "an engine of another loss is used again",
                "key = (purpose, loss, batch_rows, device)",
                "key = (purpose, None, batch_rows, device)",
            ),
            (
                "an engine keeps the parameters of its first call",
                "engine.load_parameters(parameters)\n",
                "getattr(engine, 'seen', None) or engine.load_parameters(parameters)\n"
                "                engine.seen = True\n",
            ),
        ],
    ),
    (
        "shuffle.py",
        "shuffles",
        [
            (
                "the shuffle gives a row beyond the last",
                "is_outside = index >= rows",
                "is_outside = index > rows",
            ),
            (
                "the keys do not know the epoch",
                "counter = (block, epoch & MASK, (epoch >> 32) & MASK, 0x53485546)",
                "counter = (block, 0, 0, 0x53485546)",
            ),
        ],
    ),
    (
        "arrays.py",
        "refusals",
        [
            (
                "a label one too high is let through",
                "outside = (array < 0) | (array >= outputs)",
                "outside = (array < 0) | (array > outputs)",
            ),
            ("a NaN among numbers is let through", "if not finite.all():", "if not finite.any():"),
        ],
    ),
    (
        "plan/weight_pass.py",
        "training",
        [
            (
                "weight decay takes biases, where gradients are clipped",
                "(tensor.columns, int(builder.is_weight(name))),",
                "(tensor.columns, 1),",
            ),
            (
                "the other way round of a weight is stale, where gradients are clipped",
                "if transposed in builder.tensors:",
                "if transposed in builder.values:",
            ),
            (
                "all tiles leave their norms in the same place",
                "result.sums += len(spans[name])",
                "result.sums += 0",
            ),
        ],
    ),
    (
        "backends/cpu/engine.py",
        "training",
        [
            (
                "slots begin with zeros, whatever the optimizer says",
                "np.array(optimizer.initial_slot(slot))",
                "np.array(0.0)",
            ),
            ("the sums of an epoch go on in the next", "self.scalars[EPOCH_SUMS] = 0.0", "pass"),
        ],
    ),
    (
        "model_file.py",
        "files",
        [
            (
                "the scaling is not saved",
                'values = getattr(content.scaling, name.removeprefix("scaling."), None)',
                "values = None",
            ),
        ],
    ),
)
