"""The machine code of the CUDA kernels, compiled where there is no GPU.

Every kernel, with every law, compiles for every architecture; none spills; float32 stays float32;
products run on vectors; and nothing needs more than the table in tests/data/cuda_kernels.json says.
"""

import time
import warnings
from collections import Counter

import pytest

from benchmarks.lab import cuda_kernels, machine_code
from benchmarks.lab.cuda_cases import CASES, PRODUCTS
from benchmarks.lab.cuda_kernels import PAGE, load_table, render, row_of, versions
from benchmarks.lab.machine_code import Code, busiest_loop, compile_all, count, resident_blocks
from fastbp.activations import Activation
from fastbp.backends.cuda.entries import Kernel
from fastbp.backends.cuda.tuning import tile_shape

REASON = machine_code.missing()
needs_compiler = pytest.mark.skipif(bool(REASON), reason=REASON)
AGAIN = "; run python -m benchmarks.lab.cuda_kernels, and look at what has changed"

SPILLS = ("LDL", "STL")
FLOAT64 = ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX")
# Kernels that calculate in float64 whatever the dtype, and why.
WIDE_KERNELS = {
    "reduce_loss": "a sum over the rows of a batch",
    "reduce_tiles": "a sum over the tiles of a network",
    "finish_gradient": "squares of a gradient, for its norm",
    "begin_step": "the optimizer's law of a step, by one thread",
}
# Phases that see whether the scalars of a batch, which are float64, are finite.
GUARDED_PHASES = ("change", "update", "clip", "add_up")
GUARD = ("DADD", "DSETP")


def some(condition):
    """A parametrisation over cases."""
    keys = [key for key, case in CASES.items() if condition(case)]
    return pytest.mark.parametrize("key", keys)


@pytest.fixture(scope="module")
def codes(request):
    """The code of all cases that the chosen tests ask for."""
    chosen = [item for item in request.session.items if item.module is request.module]
    parameters = [item.callspec.params for item in chosen if hasattr(item, "callspec")]
    keys = dict.fromkeys(each["key"] for each in parameters if "key" in each)
    return cuda_kernels.codes_of_cases(keys)


@pytest.fixture
def code(codes, key):
    found = codes[key]
    assert not found.error, f"{key}: {found.error}"
    return found


@needs_compiler
@some(lambda case: True)
def test_it_compiles_and_does_not_spill(key, code):
    assert (code.stack, code.local) == (0, 0)
    assert count(code.opcodes, *SPILLS) == 0


def meets(case):
    """Whether the blocks of the grid wait for one another."""
    return not isinstance(case.what, Kernel) and case.what.resident and not case.what.single


@needs_compiler
@some(meets)
def test_blocks_meet(key, code):
    """What a block wrote is there for all before it arrives, and nothing old is read after it."""
    meetings = len(CASES[key].what.phases)
    assert count(code.opcodes, "ATOMG") == meetings
    assert code.opcodes["MEMBAR.ALL.GPU"] + code.opcodes["MEMBAR.SC.GPU"] == meetings
    assert code.opcodes["LDG.E.STRONG.GPU"] == meetings
    assert code.opcodes["CCTL.IVALL"] == 2 * meetings


def names(case):
    """Of the kernels in a case's code."""
    return {kernel.name for kernel in case.kernels}


@needs_compiler
@some(lambda case: case.dtype == "float32" and not names(case) & set(WIDE_KERNELS))
def test_float32_does_not_calculate_in_float64(key, code):
    case = CASES[key]
    phases = () if isinstance(case.what, Kernel) else case.what.phases
    is_guarded = any(phase.name in GUARDED_PHASES for phase in phases)
    found = {name for name in FLOAT64 if count(code.opcodes, name)}
    assert found <= (set(GUARD) if is_guarded else set())


def depth_of_loop(case, shape):
    """The depth that the product's loop takes at least, and its vectors from shared memory.

    Rows of the left factor come as vectors of the depth, or, turned, as vectors of rows.
    """
    kernel = case.what
    large = shape.high * shape.wide >= 64
    if kernel.name in PRODUCTS and not large:
        return shape.vector, shape.high + shape.vector * shape.groups
    of_rows = shape.high // shape.vector if shape.high % shape.vector == 0 else 0
    depth = 2 if large else 4
    return depth, depth * (of_rows + shape.groups)


def has_product(case):
    return bool(names(case) & {*PRODUCTS, "dense_weight_gradient"})


def has_law(case):
    """Whether its kernel has a law, whose loop may be the larger one."""
    return case.what.law not in (None, Activation.resolve("identity").law)


def is_product(case):
    return isinstance(case.what, Kernel) and has_product(case)


@needs_compiler
@some(lambda case: is_product(case) and not has_law(case) and case.what.precision == "float32")
def test_the_loop_of_a_product(key, code):
    """All multiply-adds of some depth, and no more loads than they need."""
    case = CASES[key]
    shape = tile_shape(case.dtype, *case.what.tile)
    name = {"float32": "FFMA", "float64": "DFMA"}[case.dtype]
    depth, vectors = depth_of_loop(case, shape)
    expected, found = shape.high * shape.wide * depth, count(code.loop, name)
    assert found >= expected
    assert found % expected == 0
    assert code.loop["LDS.128"] == vectors * found // expected
    assert code.opcodes["LDG.E.128"]
    assert code.opcodes["STS.128"]


@needs_compiler
@some(lambda case: is_product(case) and case.what.precision != "float32")
def test_the_loop_on_tensor_cores(key, code):
    """A fragment is 16 x 8, and 8 warps take two steps of the depth a part."""
    rows, columns = CASES[key].what.tile
    expected = max(rows * columns // (16 * 8 * 8), 4)
    assert count(code.loop, "HMMA") >= expected
    assert count(code.loop, "HMMA") % expected == 0
    assert count(code.loop, "FFMA") == 0
    assert 0 < code.loop["LDS.128"] <= count(code.loop, "HMMA")
    assert code.opcodes["LDG.E.128"]


@needs_compiler
@some(lambda case: has_product(case) and not is_product(case))
def test_launches_with_products_load_vectors(key, code):
    # Where blocks hold some of the engine's memory, loads are of either kind.
    load = "LD.E.128" if CASES[key].what.reaches_shared else "LDG.E.128"
    assert code.opcodes[load]
    assert code.opcodes["LDS.128"]
    assert code.opcodes["STS.128"]


@needs_compiler
@some(lambda case: case.in_table)
def test_it_needs_no_more_than_the_table_says(key, code):
    table = load_table()
    expected, found = table["rows"][key], row_of(CASES[key], code)
    made = "" if table["versions"] == versions() else f"; made with {table['versions']}"
    for name in ("static", "dynamic"):
        assert found[name] == expected[name], f"{name}: {found[name]}{AGAIN}"
    assert found["registers"] <= expected["registers"], f"{expected}{made}"
    assert found["blocks"] >= expected["blocks"], f"{expected}{made}"


@needs_compiler
@pytest.mark.filterwarnings("default:.*fewer registers.*:UserWarning")
def test_the_table_is_up_to_date(codes):
    table = load_table()
    expected = {key for key, case in CASES.items() if case.in_table}
    assert set(table["rows"]) == expected, AGAIN
    known = {key: row for key, row in table["rows"].items() if key in codes}
    better = [k for k, row in known.items() if codes[k].registers < row["registers"]]
    if better:
        warnings.warn(f"{len(better)} kernels need fewer registers{AGAIN}", stacklevel=1)


# What follows needs no compiler.


def test_the_page_is_of_the_table():
    assert PAGE.read_text() == render(load_table()), AGAIN


@pytest.mark.parametrize(
    ("chip", "registers", "shared", "blocks"),
    [
        ("sm_90", 32, 0, 8),  # 2048 threads
        ("sm_90", 128, 0, 2),
        ("sm_90", 129, 0, 1),
        ("sm_90", 255, 0, 1),
        ("sm_90", 64, 56 * 1024, 4),
        ("sm_90", 64, 75 * 1024, 3),
        ("sm_90", 64, 75 * 1024 + 1, 2),
        ("sm_90", 64, 227 * 1024, 1),
        ("sm_80", 64, 75 * 1024, 2),
        ("sm_80", 40, 16 * 1024, 6),
    ],
)
def test_resident_blocks(chip, registers, shared, blocks):
    assert resident_blocks(chip, 256, registers, shared) == blocks


def test_the_busiest_loop_is_an_inner_one():
    text = """
    0 MOV R1 | 10 FFMA R2 | 20 LDS.128 R3 | 30 FFMA R2 | 40 BRA 0x10 | 50 FFMA R1 | 60 BRA 0x0
    70 FFMA R2 | 80 BRA 0x70 | 90 BRA 0x200 | a0 BRA 0xa0
    """.replace("\n", "|")
    lines = [line.split() for line in text.split("|") if line.strip()]
    code = [(int(place, 16), name, rest) for place, name, rest in lines]
    assert busiest_loop(code) == Counter({"FFMA": 2, "LDS.128": 1, "BRA": 1})


def sometimes(case):
    """A compilation that may never end, end its process, fail or succeed."""
    if case == "hangs":
        time.sleep(600)
    if case == "dies":
        raise SystemExit(3)
    if case == "fails":
        raise ValueError("not this one")
    return Code(registers=len(case))


def test_a_compilation_that_hangs_is_ended():
    cases = ["one", "hangs", "three", "fails", "dies", "eleven"]
    codes = compile_all(sometimes, cases, processes=2, seconds=10)
    assert {case: code.error for case, code in codes.items()} == {
        "one": "",
        "hangs": "no end after 10 seconds",
        "three": "",
        "fails": "ValueError: not this one",
        "dies": "the compiling process ended with 3",
        "eleven": "",
    }
    assert codes["three"].registers == 5
