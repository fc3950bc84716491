"""What becomes of the CUDA kernels in the compiler: ``python -m benchmarks.lab.cuda_kernels``.

Compiles what representative networks launch, every kernel by itself, and the products with every
tile that `fastbp.backends.cuda.tuning` chooses. Writes registers, shared memory and instructions
to tests/data/cuda_kernels.json, and as a table to docs/cuda-kernels.md. The tests compile the same
and compare. Needs no GPU; ``pip install '.[cuda-test]'``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastbp as fb
from benchmarks.lab.machine_code import (
    Code,
    compile_all,
    count,
    missing,
    read_code,
    resident_blocks,
)
from fastbp.activations import Activation
from fastbp.backends.cuda.engine import RESERVED_SHARED
from fastbp.backends.cuda.entries import Entry, Kernel, Phase, build_kernel
from fastbp.backends.cuda.language import as_pointer
from fastbp.backends.cuda.machine_code import compile_entry
from fastbp.backends.cuda.product import staging_elements
from fastbp.backends.cuda.program import SHORTEST_SHARED, Program
from fastbp.backends.cuda.tuning import BLOCKS_HELD, THREADS, geometry, tile_shape
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer
from fastbp.plan import build_plan
from fastbp.plan.plan import ITEM_BYTES

__all__ = ["CASES", "Case", "code_of_case", "load_table", "render", "row_of"]

ROOT = Path(__file__).parents[2]
TABLE, PAGE = ROOT / "tests" / "data" / "cuda_kernels.json", ROOT / "docs" / "cuda-kernels.md"
DTYPES, CHIPS = ("float32", "float64"), ("sm_80", "sm_90")
LAW_CHIP = "sm_90"  # where each law is compiled
LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}  # bytes of shared memory of a block
# The versions that the table was made with: others may give out registers in another way.
PACKAGES = ("numba-cuda-mlir", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc")
COUNTED = ("FFMA", "DFMA", "HMMA", "LDG.E.128", "LDS.128", "STS.128", "BAR")

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


# Cases.


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


# Compilation, in processes of their own.


def without_phase(kernel: Any, integer: Any) -> Any:
    """A kernel that is launched by itself, all its numbers from memory."""

    def run(table, numbers, unused):
        arguments, given = as_pointer(table, integer), as_pointer(numbers, integer)
        part, place = (given[2], given[3]), (given[4], given[5], given[6], given[7])
        kernel(arguments, given[0], given[1], part, place)

    return run


def code_of_case(key: str) -> Code:
    """Compile one case, and read what came of it."""
    from fastbp.backends.cuda.compiler import compile_cubin, number_type

    case = CASES[key]
    if isinstance(case.what, Entry):
        cubin, _ = compile_entry(case.what, case.chip)
        return read_code(cubin)
    kinds = tuple(map(number_type, (case.dtype, "int64", "float64")))
    function = without_phase(build_kernel(case.what, case.dtype, kinds), kinds[1])
    cubin, _ = compile_cubin(function, 3, case.chip, THREADS, BLOCKS_HELD)
    return read_code(cubin)


# The table.


def row_of(case: Case, code: Code) -> dict[str, int]:
    """A case's row."""
    shared = code.shared + case.shared
    row = {
        "registers": code.registers,
        "static": code.shared,
        "dynamic": case.shared,
        "blocks": resident_blocks(case.chip, THREADS, code.registers, shared),
        "instructions": sum(code.opcodes.values()),
    }
    for name in COUNTED:
        exact = name if "." in name else None
        row[name] = code.opcodes[name] if exact else count(code.opcodes, name)
    return row


def load_table() -> dict[str, Any]:
    """The table in the repository."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def versions() -> dict[str, str]:
    """Of what compiles."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def save_table(table: dict[str, Any]) -> None:
    """Write the table, a row a line."""
    rows = [f"{json.dumps(key)}: {json.dumps(row)}" for key, row in table["rows"].items()]
    text = f'{{"versions": {json.dumps(table["versions"])},\n"rows": {{\n'
    TABLE.write_text(text + ",\n".join(rows) + "\n}}\n")


INTRODUCTION = """# The CUDA kernels in machine code

`python -m benchmarks.lab.cuda_kernels` compiles them and writes this page from what NVIDIA's tools
read in the code (extra `cuda-test`); no GPU is needed, and nothing here is a measured time. The
tests compile the same and fail where a kernel needs more registers, or fewer of its blocks fit on a
multiprocessor, than `tests/data/cuda_kernels.json` says, where it has a stack, or where code of
float32 calculates in float64. The latter is said of all kernels but the sums over rows and tiles,
the squares of a gradient and the law of a step, which are float64 on purpose, and of what is
launched with them.

Registers are of a thread, of which a block has {threads}; shared memory is what a launch asks for,
in KiB; blocks are those that a multiprocessor holds at a time. The instructions counted stand in
the code so many times, whether in a loop or not.
"""


def render(table: dict[str, Any]) -> str:
    """The page."""
    lines = [INTRODUCTION.format(threads=THREADS)]
    made = ", ".join(f"{name} {version}" for name, version in table["versions"].items())
    lines.append(f"Compiled by {made}.\n")
    titles = ("registers", "shared", "blocks", "instructions", *COUNTED)
    for chip in CHIPS:
        for dtype in DTYPES:
            ending = f", {dtype}, {chip}"
            found = {k: row for k, row in table["rows"].items() if k.endswith(ending)}
            lines += [f"## {dtype} on {chip}\n", f"| kernel | {' | '.join(titles)} |"]
            lines.append("|---|" + "---:|" * len(titles))
            for key, row in found.items():
                kib = f"{row['dynamic'] / 1024:.1f}"
                cells = [row["registers"], kib, row["blocks"], row["instructions"]]
                cells += [row[name] for name in COUNTED]
                lines.append(f"| {key.removesuffix(ending)} | {' | '.join(map(str, cells))} |")
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Compile, and write the table."""
    if missing():
        sys.exit(missing())
    wanted = [key for key, case in CASES.items() if case.in_table]
    codes = compile_all(code_of_case, wanted)
    failed = {key: code.error for key, code in codes.items() if code.error}
    for key, error in failed.items():
        print(f"{key}: {error}")
    if failed:
        sys.exit(1)
    table = {"versions": versions(), "rows": {k: row_of(CASES[k], codes[k]) for k in wanted}}
    save_table(table)
    PAGE.write_text(render(table))
    print(f"{len(wanted)} kernels; see {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
