"""What a plan becomes on a GPU: which way it runs, its launches, its memory."""

from itertools import pairwise

import pytest

import fastbp as fb
from fastbp.backends.cuda.program import Program
from fastbp.backends.cuda.tuning import geometry, row_tile
from fastbp.losses import CrossEntropy, Mse
from fastbp.plan import build_plan

MOST_SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}


def plan_of(network, purpose="train", rows=256, dtype="float32", **settings):
    if purpose == "train":
        settings.setdefault("optimizer", fb.Adam())
    if purpose in {"train", "evaluate", "gradient", "input_gradient"}:
        settings.setdefault("loss", Mse())
    return build_plan(network, purpose, dtype, rows, geometry(network, dtype), **settings)


def program_of(plan, shared=MOST_SHARED["sm_90"]):
    return Program(plan, shared)


def names(program):
    return ["+".join(phase.name for phase in launch.entry.phases) for launch in program.batch]


NARROW = fb.mlp(17, 256, 256, 6)
WIDE = fb.mlp(1024, 2048, 2048, 10)


@pytest.mark.parametrize(
    ("network", "rows", "way"),
    [
        (fb.mlp(4, 32, 32, 1), 32, "resident"),
        (fb.mlp(8, 64, 64, 1), 256, "resident"),
        (NARROW, 256, "fused"),
        (fb.mlp(64, 64, 64, 64, 64, 64, 16), 1 << 20, "fused"),
        (fb.mlp(784, 512, 512, 10), 256, "layered"),
        (WIDE, 512, "layered"),
    ],
    ids=["tiny", "surrogate", "actor", "deep", "mnist_mlp", "wide"],
)
def test_the_way_is_chosen_by_size_and_printed(network, rows, way):
    plan = plan_of(network, rows=rows)
    assert plan.way == way
    assert f"\n{way}: " in str(plan)
    assert plan_of(network, "predict", rows=rows).way != "resident"


def test_launches_of_a_batch():
    assert names(program_of(plan_of(NARROW))) == ["propagate", "gradients", "change", "add_up"]
    clipped = program_of(plan_of(NARROW, clip_norm=1.0))
    assert names(clipped)[1:] == ["gradients", "finish", "clip", "update", "add_up"]
    tiny = program_of(plan_of(fb.mlp(4, 32, 32, 1), rows=32))
    assert names(tiny) == ["propagate+gradients+change+add_up"]
    assert tiny.batch[0].grid == 1
    meeting = program_of(plan_of(fb.mlp(8, 64, 64, 1))).batch[0]
    assert meeting.cooperative
    assert meeting.grid > 1
    # Rows and inputs; three layers forward; the loss; two layers back.
    assert names(program_of(plan_of(WIDE, loss=CrossEntropy())))[:7] == ["propagate"] * 7
    purposes = {
        "predict": ["propagate", "advance"],
        "evaluate": ["propagate", "sum_losses", "advance"],
        "vjp": ["propagate", "advance"],
        "input_gradient": ["propagate", "sum_losses", "advance"],
        "gradient": ["propagate", "gradients", "finish", "advance"],
    }
    for purpose, expected in purposes.items():
        assert names(program_of(plan_of(NARROW, purpose))) == expected, purpose


def test_resident_batches_have_one_segment():
    """All launches of a segment are of the batch as a whole there."""
    network = fb.mlp(1, 1)
    assert plan_of(network, rows=65_536).way == "resident"
    assert plan_of(network, rows=65_537).way == "fused"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", [32, 100, 200, 256])
@pytest.mark.parametrize("inputs", [16, 33, 64, 100, 255, *range(256, 274), 320])
def test_rows_in_shared_memory_do_not_overlap(inputs, hidden, dtype):
    plan = plan_of(fb.mlp(inputs, hidden, 3), rows=8, dtype=dtype)
    program = program_of(plan)
    chain = [plan.order, *plan.propagation]
    panel, kept = program.panel, []
    for step, (_, writes) in zip(chain, program.near_of(chain), strict=True):
        if writes:
            name = step.tensors[2] if step.kernel.endswith("_loss") else step.tensors[0]
            kept.append(program.tensor(name).columns)
    assert kept  # at least what the hidden layer hands to the next one
    assert all(-(-columns // panel) * panel <= program.stride for columns in kept)


@pytest.mark.parametrize(
    ("network", "rows", "held"),
    [
        (fb.mlp(4, 32, 32, 1), 32, "everything"),
        (fb.mlp(8, 64, 64, 1), 256, "parameters"),
        (fb.mlp(8, 96, 96, 1), 32, "parameters"),  # one block, and too much for it
        (fb.mlp(8, 64, *[224] * 2, 1), 8, "nothing"),
    ],
    ids=str,
)
def test_what_resident_blocks_hold_in_shared_memory(network, rows, held):
    program = program_of(plan_of(network, rows=rows))
    assert program.plan.way == "resident"
    assert program.held == program.batch[0].entry.held == held
    weights = [a * b for a, b in pairwise(network.sizes)]
    copies = sum(weights) + sum(weights[1:])  # of each weight; turned, of all but the first
    more = 3 * sum(weights)  # gradients and two slots of Adam
    least = {"nothing": 0, "parameters": 4 * copies, "everything": 4 * (copies + more)}[held]
    found = program.bytes_of_shared - program.work_bytes
    assert least <= found
    if held != "everything":
        assert found <= 1.05 * least + 8192  # tables, and slabs rounded up


def test_segments_of_a_batch():
    plan = plan_of(NARROW, rows=3 * 65_536)
    found = names(program_of(plan))
    assert found == [
        *["propagate", "gradients", "next_segment"] * 2,
        *["propagate", "gradients", "change", "add_up"],
    ]


def test_kernels_are_compiled_once_for_equal_layers():
    deep = program_of(plan_of(fb.mlp(16, *[32] * 8, 4, activation="relu"), rows=1 << 18))
    (propagation, *_) = deep.batch
    forward = [k for k in propagation.entry.phases[0].kernels if k.name == "dense_forward"]
    assert len(forward) == 2  # hidden layers, and the last one, which leaves its rows to the loss
    other = program_of(plan_of(fb.mlp(9, *[32] * 3, 7, activation="relu"), rows=1 << 18))
    assert other.batch[0].entry == propagation.entry


@pytest.mark.parametrize("chip", MOST_SHARED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 64, 4096, 1 << 20])
@pytest.mark.parametrize("network", [NARROW, WIDE, fb.mlp(700, 256, 3), fb.mlp(3, 1)], ids=str)
def test_shared_memory_is_enough(network, rows, dtype, chip):
    plan = plan_of(network, rows=rows, dtype=dtype)
    program = program_of(plan, MOST_SHARED[chip])
    assert program.bytes_of_shared <= MOST_SHARED[chip]
    assert program.rows % program.least_rows == 0
    assert program.rows <= row_tile(plan)


def test_sums_are_cut_into_shares_until_there_are_enough_blocks():
    few = plan_of(fb.mlp(8, 64, 64, 1), rows=1 << 16)
    assert few.shares * len(few.tiles) >= 128
    assert plan_of(WIDE, rows=512).shares == 1
    assert plan_of(fb.mlp(8, 64, 64, 1), rows=64).shares == 1  # a share has 64 rows or more
