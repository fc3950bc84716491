"""Engines whose memory lies beside pages that nobody may touch: whoever does is killed.

Runs in a process of its own, which prints what it runs::

    python guarding.py end         every slab, table and array ends where such a page begins
    python guarding.py begin       every one begins where such a page ends
    python guarding.py past_end, before_begin, short_array      each is killed
"""

import ctypes
import faulthandler
import mmap
import sys
from dataclasses import dataclass, field
from itertools import product

import numpy as np

import fastbp as fb
from fastbp.backends.choose import geometry
from fastbp.backends.contract import Status
from fastbp.backends.cpu.buffers import Buffers
from fastbp.backends.cpu.engine import Engine
from fastbp.backends.cpu.job import Job
from fastbp.backends.cpu.prediction import FewRows
from fastbp.losses import Loss
from fastbp.plan import build_plan

NO_ACCESS = 0  # PROT_NONE of every POSIX system
KEPT = []  # memory is never given back: its addresses are in tables


def guarded(array, side):
    """A copy with a page that nobody may touch right after it (``end``) or before it (``begin``)."""
    array = np.asarray(array)
    page = mmap.PAGESIZE
    inside = max(-(-array.nbytes // page), 1) * page
    memory = mmap.mmap(-1, inside + 2 * page)
    raw = np.frombuffer(memory, dtype=np.uint8)
    raw[page : page + inside] = 0xFF  # a NaN of either precision
    start = page if side == "begin" else page + inside - array.nbytes
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for place in (0, page + inside):
        if protect(raw.ctypes.data + place, page, NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    KEPT.append((memory, copy))
    return copy


class GuardedBuffers(Buffers):
    """Slabs beside such pages."""

    side = ""

    def allocate(self, slab):
        dtype = np.dtype(self.plan.dtype if slab.kind == "real" else slab.kind)
        self.slabs[slab.name] = guarded(np.zeros(slab.elements, dtype), self.side)


TABLES = {
    "propagation": Job.PROPAGATION,
    "once": Job.ONCE,
    "weight_steps": Job.WEIGHT_STEPS,
    "tiles": Job.TILES,
    "round_steps": Job.ROUND_STEPS,
    "round_tiles": Job.ROUND_TILES,
    "clip_norm": Job.CLIP_NORM,
}
STEPS = ("propagation", "once", "weight_steps", "round_steps")


def guard_tables(engine, side):
    """Move the tables that the driver walks; those of steps hold addresses of arguments."""
    before = engine.argument_table.ctypes.data
    engine.argument_table = guarded(engine.argument_table, side)
    for name in STEPS:
        table = getattr(engine, name)
        table[:, 1] += (table[:, 1] != 0) * (engine.argument_table.ctypes.data - before)
    for name, place in TABLES.items():
        table = guarded(getattr(engine, name), side)
        setattr(engine, name, table)
        engine.job[place] = table.ctypes.data
    for shares in (engine.shares, engine.round_shares):
        for workers, table in shares.items():
            shares[workers] = guarded(table, side)
    engine.job = guarded(engine.job, side)
    engine.job_address = engine.job.ctypes.data


@dataclass(frozen=True)
class Case:
    """A network, and the batches that it sees."""

    name: str
    network: fb.Network
    rows: int
    batch_rows: int
    loss: str = "mse"
    weighted: bool = False
    options: dict = field(default_factory=dict)

    def data(self, dtype):
        """Inputs, targets, weights and cotangents."""
        rng = np.random.default_rng(self.rows)
        outputs = self.network.outputs
        y = rng.normal(size=(self.rows, outputs)).astype(dtype)
        if Loss.resolve(self.loss).targets == "class":
            y = rng.integers(0, outputs, self.rows)
        return {
            "data.inputs": rng.normal(size=(self.rows, self.network.inputs)).astype(dtype),
            "data.targets": y,
            "data.weights": rng.uniform(0.1, 1, self.rows).astype(dtype) if self.weighted else None,
            "data.cotangent": rng.normal(size=(self.rows, outputs)).astype(dtype),
        }


INSIDE = [fb.LayerNorm(), fb.Dense(50, "tanh"), fb.Dropout(0.3), fb.Dense(70)]
BLOCKS = [
    fb.Dropout(0.1),
    fb.Dense(70, "tanh", max_norm=0.5),
    fb.Residual(INSIDE),
    fb.LayerNorm(),
    fb.Dense(3),
]


def mlp(*sizes):
    return fb.mlp(*sizes, activation="tanh")


SPLIT = {"clip_norm": 0.5, "l1": 0.01, "l2": 0.1, "ema": 0.9}
CASES = [
    Case("panels, a last batch of one row", mlp(7, 70, 33, 3), 65, 32, "mse", True),
    Case("whole panels", mlp(64, 128, 64), 64, 16, options=SPLIT),
    Case("thin layers", mlp(40, 23, 1), 31, 13),
    Case("rows in lanes", mlp(5, 20, 19, 3), 300, 140, "mse", True, SPLIT),
    Case("classes in lanes", mlp(5, 20, 19, 3), 300, 140, "cross_entropy"),
    Case("many classes", mlp(3, 9, 70), 40, 17, "cross_entropy", True),
    Case("every kind of layer", fb.Network(20, BLOCKS), 70, 32, "mse", True, SPLIT),
    Case("single rows", mlp(3, 5, 2), 3, 1, "mse", True),
    Case("a batch in segments", mlp(9, 70, 3), 1500, 1100),
]


def made(case, purpose, dtype, side, parallel):
    """An engine; beside guard pages, if there is a side."""
    options = {"loss": Loss.resolve(case.loss)}
    if purpose in {"predict", "vjp"}:
        options = {}
    if purpose == "train":
        options |= {"optimizer": fb.Adam(0.01), **case.options}
    plan = build_plan(case.network, purpose, dtype, case.batch_rows, geometry("cpu"), **options)
    engine = Engine(plan, 2, parallel=parallel)
    engine.load_parameters(fb.Model(case.network, dtype=dtype).parameters)
    if side:
        guard_tables(engine, side)
    return engine


def run(case, purpose, dtype, side, parallel):
    """The bytes of all that a run leaves."""
    engine = made(case, purpose, dtype, side, parallel)
    keep = (lambda array: guarded(array, side)) if side else np.copy
    columns = {"predict": case.network.outputs}.get(purpose, case.network.inputs)
    outputs = keep(np.zeros((case.rows, columns), dtype))
    for name, array in case.data(dtype).items():
        engine.bind(name, None if array is None else keep(array))
    engine.bind("data.outputs", outputs)
    batches = -(-case.rows // case.batch_rows)
    for epoch in range(2):
        engine.begin_epoch(
            case.rows,
            shuffle_seed=3 if purpose == "train" else None,
            mask_seed=5,
            epoch=epoch,
            learning_rates=keep(np.full(batches, 0.01)),
        )
        status, done = engine.run(0, batches)
        assert (status, done) == (Status.DONE, batches)
    assert engine.ran_parallel == parallel
    found = [outputs, engine.scalars, engine.snapshot()]
    if purpose == "gradient":
        found.append(engine.buffers.slabs["gradients"])
    if purpose == "train":
        found += engine.read_state().values()
    return [array.tobytes() for array in found]


def few_rows(case, dtype, side):
    """The bytes of predictions of a few rows at a time."""
    parameters = fb.Model(case.network, dtype=dtype).parameters
    plan = build_plan(case.network, "predict", dtype, 32, geometry("cpu"))
    few = FewRows(Engine(plan, 1, parallel=False), parameters)
    X = case.data(dtype)["data.inputs"]
    found = []
    for rows in (1, 3):
        part = X[:rows].copy()
        outputs = few(guarded(part, side) if side else part, None)
        assert outputs is not None
        found.append(outputs.tobytes())
    return found


PURPOSES = ("train", "gradient", "evaluate", "predict", "input_gradient", "vjp")


def run_all(side):
    """Everything, with guard pages and without: the same bits."""
    import fastbp.backends.cpu.engine as room

    def both(work, *arguments):
        found = []
        for where in ("", side):
            GuardedBuffers.side = where
            room.Buffers = GuardedBuffers if where else Buffers
            found.append(work(*arguments, where))
        assert found[0] == found[1]

    for case, dtype in product(CASES, ("float32", "float64")):
        for purpose in PURPOSES:
            for parallel in (False, True):
                print(f"{case.name}, {purpose}, {dtype}, parallel: {parallel}", flush=True)
                both(lambda where, c=case, p=purpose, d=dtype, q=parallel: run(c, p, d, where, q))
        print(f"{case.name}, a few rows, {dtype}", flush=True)
        both(lambda where, c=case, d=dtype: few_rows(c, d, where))


def past_end():
    """Read the number after an array."""
    array = guarded(np.zeros(5), "end")
    ctypes.c_double.from_address(array.ctypes.data + array.nbytes).value  # noqa: B018


def before_begin():
    """Write the number before an array."""
    array = guarded(np.zeros(5), "begin")
    ctypes.c_double.from_address(array.ctypes.data - 8).value = 1.0


def short_array():
    """Inputs of one row less than the engine is told."""
    case = CASES[0]
    engine = made(case, "predict", "float32", "", False)
    engine.bind("data.inputs", guarded(case.data("float32")["data.inputs"][:-1], "end"))
    engine.bind("data.outputs", np.zeros((case.rows, case.network.outputs), "float32"))
    engine.begin_epoch(case.rows)
    engine.run(0, -(-case.rows // case.batch_rows))


FAULTS = {each.__name__: each for each in (past_end, before_begin, short_array)}


if __name__ == "__main__":
    if sys.argv[1] in FAULTS:
        FAULTS[sys.argv[1]]()
    else:
        faulthandler.enable()
        run_all(sys.argv[1])
    print("done")
