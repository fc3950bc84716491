"""Training: the public call, and the checks of its arguments."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fastbp.backends.choose import in_standard_arithmetic, resolve_device
from fastbp.checkpoint import Checkpoint, refuse_foreign
from fastbp.datasets import prepare_data
from fastbp.epochs import Run
from fastbp.losses import Loss
from fastbp.model import Model
from fastbp.optimizers import Optimizer
from fastbp.plan import passes_of
from fastbp.progress import resolve_progress
from fastbp.result import TrainResult
from fastbp.schedules import Schedule
from fastbp.settings import Callback, check_settings
from fastbp.tensor_file import plain_text
from fastbp.turns import one_at_a_time

__all__ = ["train"]


@one_at_a_time
@in_standard_arithmetic
def train(
    model: Model,
    X: Any,
    y: Any,
    loss: str | Loss = "mse",
    optimizer: str | Optimizer | None = None,
    epochs: int = 100,
    batch_size: int = 256,
    validation: float | tuple[Any, ...] | None = None,
    sample_weight: Any = None,
    schedule: str | Schedule | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    standardize: bool = False,
    shuffle: bool = True,
    seed: int = 0,
    patience: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: bool | None = None,
    callbacks: Iterable[Callback] = (),
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    resume: bool = False,
    precision: str = "float32",
    ema: float | None = None,
    monitor: Any = None,
    on_divergence: str = "raise",
    class_weight: Any = None,
) -> TrainResult:
    """Train a model in place by mini-batch gradient descent.

    For every batch, with weights w_i (`sample_weight` times the weight of the row's class; 1
    without)::

        objective = sum_i w_i loss_i / sum_i w_i + l1 sum|W| + l2/2 sum W**2
        gradient  = d objective / d parameters, scaled by min(1, clip_norm/|gradient|),
                    then each component clipped to [-clip_value, clip_value]
        parameters, slots = optimizer(parameters, gradient, slots)

    A run has diverged when the loss of a batch or the norm of a gradient is not finite, or a loss
    is more than a million times that at the start, both seen after every step; or when parameters
    or the validation loss are not finite at the end of an epoch.

    Parameters
    ----------
    model : Model
        Changed in place.
    X : array (rows, inputs)
        Any real dtype and layout; used in the model's precision.
    y : array (rows, outputs), or (rows,) for one output or integer labels
    loss : str or Loss
    optimizer : str or Optimizer, optional
        Adam(1e-3) by default.
    epochs : int
    batch_size : int
        The last batch of an epoch may be smaller. More than the rows means all of them.
    validation : None, float, or (X, y) or (X, y, sample_weight)
        A fraction in (0, 1) holds out that share of the rows, chosen by `seed`.
    sample_weight : array (rows,), optional
        Numbers of at least 0, of which only the ratios count. They are scaled by a power of two to
        a largest one from 1/2 to 1; those that are then too small for a normal number of the
        model's precision (1.2e-38 in float32, 2.2e-308 in float64) count as zero.
    schedule : str or Schedule, optional
        Of the learning rate; constant by default.
    clip_norm, clip_value : float, optional
        Above 0.
    l1, l2 : float
        Penalties on weights, not on biases.
    standardize : bool
        Fit means and scales of the inputs, and of the targets for losses on real targets, on the
        training rows, and keep them in the model. Otherwise a scaling that the model already has is
        used as it is.
    shuffle : bool
        Visit the rows in a new order each epoch, a function of `seed` and the epoch alone. One
        batch of all rows is taken as it lies, since its gradient does not depend on the order.
    seed : int
        Of the shuffle and of the held-out share.
    patience : int, optional
        Stop when what `monitor` names has not improved for so many epochs, and put the best
        parameters back.
    device : str
        ``"cpu"``, ``"cuda"`` (the first GPU), ``"cuda:N"``, or ``"auto"``: a GPU where there is one
        and a batch is at least 20 million multiply-adds (3 times rows times parameters), else the
        processor. The result says which it was.
    threads : int, optional
        The most threads of the processor; all by default. Results do not depend on it. Ignored on
        a GPU.
    progress : bool, optional
        True shows a bar.
    callbacks : iterable of callable
        Each is called as ``callback(row, model)`` after every epoch, with the epoch's row of the
        history; a true result stops training.
    checkpoint : str, path-like or Checkpoint, optional
        Where the run is kept, so that it survives its process: at intervals (every 30 seconds for a
        path), on Ctrl-C, and at the end. The one before is kept under the name with ``.previous``;
        a file under either name that is none is not replaced. ``model.metadata`` is written, too.
    resume : bool
        Go on from the checkpoint, to the same bits as a run that was never interrupted; begin anew
        where there is none. Parameters and scaling of `model` are those of the checkpoint then. A
        finished run returns its result; with more `epochs` it goes on, if the schedule does not
        depend on their number.
    precision : str
        Of the factors of the products with weights, forwards and backwards, and of those whose sums
        are the gradients. ``"float32"`` leaves them as they are, also in a model of float64. For a
        model of float32, on the tensor cores of a GPU (compute capability 8.0): ``"tf32"`` rounds
        each to 11 significant bits, with a relative error of at most 2**-11, and ``"bf16"`` to 8,
        with one of at most 2**-8. Sums, and all that is stored, are of float32: parameters, slots,
        activations and deltas. Validation is in the same precision.
    ema : float, optional
        In (0, 1): average the parameters over the steps, those of s steps ago with a weight in
        proportion to ema**s. The average is what is validated, kept and returned.
    monitor : str, callable or Metric, optional
        What early stopping and schedules watch: ``"loss"``, ``"validation_loss"`` (the default with
        validation data) or a metric of the predictions, as ``"accuracy"``, ``"rmse"``, or
        ``metric(targets, predictions) -> float``, on the validation data, or the training data
        without.
    on_divergence : str
        ``"raise"`` DivergenceError, or ``"stop"`` and return a result whose `success` is False.
    class_weight : str, mapping or array (classes,), optional
        Multiplies the weights of training rows, by their class; only ratios count. A mapping from
        labels to numbers of at least 0 (labels that it lacks have 1), an array with one for each
        class, or ``"balanced"``: rows / (classes * rows of the class), of the training part. For
        losses of integer labels; with one output also for binary_cross_entropy, if all targets are
        0 or 1, and for hinge, whose classes are -1 and 1 in this order. Validation data has
        `sample_weight` alone, whether it is held out or given, so that the validation loss stays
        that of the classes as they occur.

    Returns
    -------
    TrainResult

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, shape or range, and with `checkpoint` for metadata that no
        file can hold; nothing has been changed then.
    MemoryError
        If this machine's memory cannot hold the parameters, the arrays or the plans; nothing has
        been changed then.
    DeviceError
        For a device that is not to be had, or has too little memory for the plans, the data and
        the learning rates: nothing has been changed then, and nothing been allocated. Also when a
        kernel or the device fails during training; the model then has the parameters of the last
        finished epoch.
    DivergenceError
        When the run has diverged; the model, and the error, then have the parameters of the last
        finished epoch.
    CheckpointError
        With `resume`, for a damaged checkpoint, and for one of another network, other data or other
        settings; without, for a file under the checkpoint's name, or that with ``.previous``, that
        is damaged or none of a run. Nothing has been changed then.
    OSError
        When a checkpoint cannot be written; the older one is whole, and the model has the
        parameters of the last finished batch. For a folder in the checkpoint's place, before
        anything has been changed.
    RuntimeError
        When another call is training the model, in another thread or around a callback; nothing
        has been changed then.

    Source: the chain rule as in Rumelhart, Hinton and Williams, Learning representations by
    back-propagating errors, 1986.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a Model; got {type(model).__name__}")
    settings = check_settings(
        loss,
        optimizer,
        schedule,
        epochs,
        batch_size,
        clip_norm,
        clip_value,
        l1,
        l2,
        ema,
        shuffle,
        seed,
        patience,
        monitor,
        on_divergence,
        device,
        precision,
        model.dtype,
        threads,
        callbacks,
        checkpoint,
        resume,
        has_validation=validation is not None,
    )
    if settings.checkpoint is not None:
        plain_text("metadata", model.metadata)
        if not settings.resume:
            refuse_foreign(settings.checkpoint.path)
    display = resolve_progress(progress, settings.epochs)
    training, held_out, scaling = prepare_data(
        model,
        X,
        y,
        sample_weight,
        validation,
        standardize,
        settings.loss,
        settings.seed,
        class_weight,
    )
    rows = min(settings.batch_size, training.rows)
    multiply_adds = passes_of("train") * rows * model.network.parameter_count
    settings = replace(settings, device=resolve_device(device, multiply_adds, precision))
    with display:  # before the engines are built: the first time, kernels are compiled
        run = Run(model, settings, training, held_out, scaling)
        return run.train(display)
