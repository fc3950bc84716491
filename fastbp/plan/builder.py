"""Network -> Plan: the propagation pass, and the whole."""

from __future__ import annotations

from fastbp.backends.contract import Batch, Scalar
from fastbp.losses import Loss
from fastbp.network import Network
from fastbp.optimizers import Optimizer
from fastbp.plan.plan import Geometry, Plan, Slab, Step
from fastbp.plan.tables import ORDERED_ROWS, PlanBuilder
from fastbp.plan.rounds import add_rounds
from fastbp.plan.weight_pass import WeightPass, add_weight_pass
from fastbp.shuffle import ROUNDS

__all__ = ["build_plan", "passes_of"]


def add_loss(builder: PlanBuilder, loss: Loss) -> None:
    """Add the loss step: row losses, row weights, and the delta of the last layer."""
    outputs = builder.network.outputs
    _, last = builder.places[-1]
    builder.add_vector("row_loss", "rows", builder.segment_rows, "real")
    builder.add_vector("row_weight", "rows", builder.segment_rows, "real")
    builder.add_data("data.targets", 1 if loss.targets == "class" else outputs)
    builder.add_data("data.weights", 1)
    tensors = ["row_loss", "row_weight", last.delta, last.output]
    tensors += ["data.targets", "data.weights", "row_index", "batch"]
    if loss.law is None:
        builder.add_step(f"{loss.name}_loss", tensors, [outputs])
    else:
        builder.add_step("elementwise_loss", tensors, [outputs], law=loss)


def add_propagation(builder: PlanBuilder, purpose: str, loss: Loss | None) -> None:
    """Add the propagation pass that a purpose needs."""
    network, places = builder.network, builder.places
    _, last = places[-1]
    inputs, outputs = network.inputs, network.outputs
    builder.add_vector("batch", "batch", int(Batch.COUNT), "int64")
    builder.add_vector("keys", "batch", ROUNDS, "int64")
    ahead = max(builder.segment_rows, ORDERED_ROWS)
    builder.add_vector("row_index", "row_index", ahead, "int64")
    builder.add_vector("scalars", "scalars", int(Scalar.COUNT), "float64")
    builder.add_data("data.inputs", inputs)
    builder.add_rows("inputs", "activations", inputs)
    builder.add_step("gather_inputs", ["inputs", "data.inputs", "row_index", "batch"], [inputs])
    for layer, place in places:
        # Evaluation needs no derivative; the loss step of the last layer has a place for it.
        is_last = loss is not None and place == last
        layer.add_forward(builder, place, derivative=builder.has_backward or is_last)
    if loss is not None:
        add_loss(builder, loss)
    if purpose == "vjp":
        builder.add_data("data.cotangent", outputs)
        builder.add_step("multiply_cotangent", [last.delta, "data.cotangent", "batch"], [outputs])
    if builder.has_backward:
        for layer, place in reversed(places):
            if place.before == "inputs.gradient":
                builder.add_rows("inputs.gradient", "deltas", inputs)
            layer.add_backward(builder, place)
    stored = {"predict": last.output, "input_gradient": "inputs.gradient"}
    stored["vjp"] = "inputs.gradient"
    if purpose in stored:
        columns = builder.tensors[stored[purpose]].columns
        builder.add_data("data.outputs", columns)
        builder.add_step("store_rows", ["data.outputs", stored[purpose], "batch"], [columns])


def passes_of(purpose: str) -> int:
    """How many multiply-adds a row takes for each parameter, about: forwards, back, gradients."""
    return {"predict": 1, "evaluate": 1, "input_gradient": 2, "vjp": 2}.get(purpose, 3)


def build_plan(
    network: Network,
    purpose: str,
    dtype: str,
    batch_rows: int,
    geometry: Geometry,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    ema: float | None = None,
) -> Plan:
    """Lay out tensors and steps.

    Parameters
    ----------
    network : Network
    purpose : str
        ``predict`` (outputs), ``evaluate`` (loss), ``gradient`` (of the parameters),
        ``input_gradient`` (of the inputs), ``vjp`` (of the inputs, for given cotangents) or
        ``train``.
    dtype : str
        ``float32`` or ``float64``.
    batch_rows : int
        The most rows that a batch will have.
    geometry : Geometry
        The backend's shapes.
    loss, optimizer, l1, l2, clip_norm, clip_value, ema
        As in `fastbp.train`; only what the purpose needs.

    Returns
    -------
    Plan
    """
    may_use_lanes = purpose in {"gradient", "train"} and loss is not None
    builder = PlanBuilder(
        network, dtype, batch_rows, geometry, purpose, may_use_lanes=may_use_lanes
    )
    builder.add_parameters()
    add_propagation(builder, purpose, loss)
    weight_pass = WeightPass()
    if purpose in {"gradient", "train"}:
        weight_pass = add_weight_pass(
            builder, optimizer, l1, l2, clip_value, split=clip_norm is not None
        )
    rounds = add_rounds(builder, ema) if purpose == "train" else ()
    reduce_loss = None
    if loss is not None:
        reduce_loss = Step("reduce_loss", ("scalars", "row_loss", "row_weight", "batch"), ())
    slabs = [Slab(name, builder.kinds[name], builder.lengths[name]) for name in builder.kinds]
    return Plan(
        network=network,
        purpose=purpose,
        dtype=dtype,
        batch_rows=batch_rows,
        segment_rows=builder.segment_rows,
        geometry=geometry,
        slabs=tuple(slabs),
        tensors=tuple(builder.tensors.values()),
        values=dict(builder.values),
        turned=frozenset(builder.turned),
        in_lanes=builder.in_lanes,
        order=Step("order_rows", ("row_index", "keys", "batch"), ()),
        propagation=tuple(builder.propagation),
        reduce_loss=reduce_loss,
        begin=weight_pass.begin,
        reduce_tiles=weight_pass.reduce_tiles,
        weight_steps=tuple(weight_pass.steps),
        tiles=tuple(weight_pass.tiles),
        clip_norm=clip_norm,
        multiply_adds=batch_rows * network.parameter_count * passes_of(purpose),
        shares=weight_pass.shares,
        ema=ema,
        rounds=rounds,
    )
