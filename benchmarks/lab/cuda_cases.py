"""The CUDA kernels that are compiled without a GPU: launches of networks, and each by itself."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import fastbp as fb
from fastbp.activations import Activation
from fastbp.backends.cuda.engine import RESERVED_SHARED
from fastbp.backends.cuda.entries import Entry, Kernel, Phase
from fastbp.backends.cuda.product import staging_elements
from fastbp.backends.cuda.program import SHORTEST_SHARED, Program
from fastbp.backends.cuda.tuning import geometry, tile_shape
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer
from fastbp.plan import build_plan
from fastbp.plan.plan import ITEM_BYTES

__all__ = ["CASES", "CHIPS", "DTYPES", "PRODUCTS", "Case"]

DTYPES, CHIPS = ("float32", "float64"), ("sm_80", "sm_90")
LAW_CHIP = "sm_90"  # where each law is compiled
LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}  # bytes of shared memory of a block

# What is launched for networks of each kind, with a law of each kind, with and without clipping.
NETWORKS = {
    "4-32-32-1": (fb.mlp(4, 32, 32, 1, activation="tanh"), 32, "mse", None),
    "8-64-64-1": (fb.mlp(8, 64, 64, 1, activation="silu"), 256, "huber", None),
    "17-256-256-6": (fb.mlp(17, 256, 256, 6, activation="gelu"), 4096, "mse", 1.0),
    "784-512-512-10": (fb.mlp(784, 512, 512, 10, activation="relu"), 4096, "cross_entropy", None),
}

# The longest compilations, of code that others have too, are for some dtypes and chips only.
LEFT_OUT = {
    "4-32-32-1": {("float64", "sm_80")},
    "8-64-64-1": {("float32", "sm_80"), ("float64", "sm_80"), ("float64", "sm_90")},
    "784-512-512-10": {("float32", "sm_80"), ("float64", "sm_80")},
}

PRODUCTS = ("dense_forward", "dense_backward_data")
LOSSES = ("cross_entropy_loss", "smoothed_cross_entropy_loss")
LAYERS = "dropout_forward layer_norm_forward layer_norm_backward residual_forward".split()
LAYERS += ["residual_backward", "multiply_delta"]
FAR, NEAR = (False, False), (True, True)
# Columns of a panel, rows of a tile, and whether rows stay in shared memory; tuning.row_tile and
# Program choose no others.
TILES = {
    "float32": [
        (32, (32, 64), (FAR, NEAR)),
        (64, (16, 32, 64), (FAR, NEAR)),
        (128, (16, 32, 64, 128), (FAR,)),
    ],
    "float64": [(32, (16, 32, 64), (FAR, NEAR)), (64, (16, 32, 64), (FAR, NEAR))],
}
SQUARES = {"float32": (32, 64, 128), "float64": (32, 64)}
PRECISIONS = ("tf32", "bf16")  # of factors on tensor cores


@dataclass(frozen=True)
class Case:
    """One compilation.

    Attributes
    ----------
    name : str
        Of the kernel or the launch.
    what : Entry or Kernel
        A kernel is compiled with no phase around it.
    dtype, chip : str
    shared : int
        Bytes of shared memory that it is launched with.
    in_table : bool
        Whether its resources are written down.
    """

    name: str
    what: Entry | Kernel
    dtype: str
    chip: str
    shared: int = 0
    in_table: bool = True

    @property
    def key(self) -> str:
        """Of its row in the table."""
        return f"{self.name}, {self.dtype}, {self.chip}"

    @property
    def kernels(self) -> list[Kernel]:
        """That it is made of."""
        if isinstance(self.what, Kernel):
            return [self.what]
        return [kernel for phase in self.what.phases for kernel in phase.kernels]


def launches(name: str, dtype: str, chip: str, purpose: str = "train") -> list[Case]:
    """What a batch of a network launches."""
    network, rows, loss, clip_norm = NETWORKS[name]
    chosen: dict[str, Any] = {}
    if purpose not in {"predict", "vjp"}:
        chosen["loss"] = Loss.resolve(loss)
    if purpose == "train":
        chosen |= {"optimizer": fb.Adam(), "clip_norm": clip_norm}
    plan = build_plan(network, purpose, dtype, rows, geometry(network, dtype), **chosen)
    program = Program(plan, LIMITS[chip] - RESERVED_SHARED)
    what = "" if purpose == "train" else f" for {purpose}"
    found: dict[str, Case] = {}
    for entry in dict.fromkeys(launch.entry for launch in program.batch):
        phases = [phase.name for phase in entry.phases]
        title = f"{plan.way} {name}{what}: {'all' if entry.resident else phases[0]}"
        if plan.way == "layered" and phases == ["propagate"]:
            title += f" {entry.phases[0].kernels[-1].name}"
        # The first of those that differ in their law.
        found.setdefault(title, Case(title, entry, dtype, chip, program.bytes_of_shared))
    return list(found.values())


def frames(dtype: str, chip: str) -> list[Case]:
    """What runs batches in one launch, around phases that do little, and what does little."""
    phases = (Phase("propagate", (Kernel("order_rows"),), 32), Phase("advance"))
    segment = Entry(dtype, (Phase("next_segment"),))
    found = [Case("next_segment", segment, dtype, chip, in_table=False)]
    for held in ("nothing", "parameters", "everything"):
        for single in (False, True):
            if single or held != "everything":
                name = f"{'one block' if single else 'blocks that meet'}, holding {held}"
                entry = Entry(dtype, phases, resident=True, single=single, held=held)
                found.append(Case(name, entry, dtype, chip, in_table=False))
    return found


def shared_bytes(kernel: Kernel, dtype: str) -> int:
    """Shared memory of a kernel by itself."""
    if kernel.tile == (0, 0):
        return SHORTEST_SHARED
    rows, columns = kernel.tile
    staged = staging_elements(tile_shape(dtype, rows, columns))
    return max(staged, rows * columns, columns * (columns + 1)) * ITEM_BYTES[dtype]


def alone(kernel: Kernel, dtype: str, chip: str, law: str = "") -> Case:
    """A kernel by itself."""
    rows, columns = kernel.tile
    name = f"{kernel.name} {law}".rstrip()
    if kernel.tile != (0, 0):
        name += f" {rows}x{columns}"
    name += " near" if kernel.near == NEAR else ""
    if kernel.precision != "float32":
        name += f" {kernel.precision}"
    return Case(name, kernel, dtype, chip, shared_bytes(kernel, dtype))


def with_law(member: Any, tile: tuple[int, int]) -> list[tuple[str, Kernel]]:
    """The kernels that compile a member's laws in."""
    settings = (("setting_count", len(member.settings)),)
    if isinstance(member, Activation):
        return [(member.name, Kernel("dense_forward", member.law, tile, FAR, settings))]
    if isinstance(member, Loss):
        law = member.name if member.law is type(member).law else f"smoothed {member.name}"
        return [(law, Kernel("elementwise_loss", member.law, tile, FAR, settings))]
    count = (("coefficient_count", member.coefficient_count),)
    begin = (*settings, *count, ("carry_count", len(member.carry)))
    update = (("slot_count", len(member.slots)), *count)
    return [
        (member.name, Kernel("begin_step", member.begin, numbers=begin)),
        (member.name, Kernel("update_parameters", member.update, tile, FAR, update)),
    ]


def members() -> list[Any]:
    """Every activation, loss with a law and optimizer."""
    found = [Activation.resolve(name) for name in Activation.names()]
    found += [loss for loss in map(Loss.resolve, Loss.names()) if loss.law is not None]
    found.append(fb.BinaryCrossEntropy(label_smoothing=0.1))
    return found + [Optimizer.resolve(name) for name in Optimizer.names()]


def other_kernels(tile: tuple[int, int]) -> list[Kernel]:
    """Every kernel that is no product and has no law of its own."""
    square = (tile[1], tile[1])
    squares = "dense_bias_gradient transpose_weight constrain_weight average_parameters".split()
    finish = [Kernel("finish_gradient", None, square, numbers=(("is_weight", n),)) for n in (1, 0)]
    return [
        *[Kernel(name) for name in ("order_rows", "reduce_loss", "reduce_tiles")],
        *[Kernel(n, None, tile, NEAR) for n in ("gather_inputs", "multiply_cotangent", *LOSSES)],
        *[Kernel(name, None, tile) for name in ("store_rows", *LAYERS)],
        *[Kernel(name, None, square) for name in squares],
        *finish,
    ]


def product(name: str, tile: tuple[int, int], near: Any, precision: str = "float32") -> Kernel:
    """A kernel with a matrix product, the law the simplest."""
    if name == "dense_forward":
        law = Activation.resolve("identity").law
        return Kernel(name, law, tile, near, (("setting_count", 0),), precision)
    return Kernel(name, None, tile, near, (), precision)


def products(dtype: str) -> list[Kernel]:
    """The products with every tile."""
    found = [
        product(name, (rows, columns), near)
        for columns, heights, nears in TILES[dtype]
        for rows in heights
        for near in nears
        for name in PRODUCTS
        if near == FAR or name == "dense_backward_data"  # both have the same product
    ]
    found += [product("dense_weight_gradient", (n, n), FAR) for n in SQUARES[dtype]]
    if dtype == "float32":
        for precision in PRECISIONS:
            found += [product(name, (128, 128), FAR, precision) for name in PRODUCTS]
            found += [product("dense_backward_data", (n, 64), FAR, precision) for n in (16, 64)]
            found += [product("dense_weight_gradient", (n, n), FAR, precision) for n in (64, 128)]
    return found


@functools.cache
def cases() -> dict[str, Case]:
    """All compilations by key, the longest first."""
    found = []
    for name in NETWORKS:
        for dtype in DTYPES:
            for chip in CHIPS:
                if (dtype, chip) not in LEFT_OUT.get(name, ()):
                    found += launches(name, dtype, chip)
    for dtype, chip in zip(DTYPES, reversed(CHIPS), strict=True):
        for purpose in ("predict", "evaluate", "gradient", "input_gradient", "vjp"):
            found += launches("17-256-256-6", dtype, chip, purpose)
    for chip in CHIPS:
        found += frames("float32", chip)
    tile = (32, 32)
    for dtype in DTYPES:
        for chip in CHIPS:
            found += [alone(kernel, dtype, chip) for kernel in products(dtype)]
            for kernel in other_kernels(tile):
                name = "bias" if ("is_weight", 0) in kernel.numbers else ""
                found.append(alone(kernel, dtype, chip, law=name))
        for member in members():
            for name, kernel in with_law(member, tile):
                found.append(alone(kernel, dtype, LAW_CHIP, law=name))
    once: dict[Any, Case] = {}
    for case in found:
        once.setdefault((case.what, case.dtype, case.chip), case)
    return {case.key: case for case in once.values()}


CASES = cases()
