"""docs/hazards.md names what exists, and what it says of all sources holds for all of them."""

import ast
import re
from pathlib import Path

import pytest

from fastbp.activations import Activation
from fastbp.backends.cpu import compiler
from fastbp.backends.cpu.machine_code import Function

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastbp"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PAGE = (ROOT / "docs" / "hazards.md").read_text(encoding="utf-8")
HAZARDS = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))
TEST = re.compile(r"tests/(\w+\.py)::(\w+)")


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


# The page.


def test_there_are_all_hazards():
    assert len(HAZARDS) == PAGE.count("\n## ") == 19


@pytest.mark.parametrize("hazard", HAZARDS)
def test_every_hazard_is_held(hazard):
    """By tests that exist, or by a reason; in modules that exist."""
    text = HAZARDS[hazard]
    named = TEST.findall(text)
    assert named or "cannot happen" in text
    assert len(named) == text.count("::") == text.count("\n- ")
    for file, test in named:
        functions = (n.name for n in tree_of(ROOT / "tests" / file).body if hasattr(n, "name"))
        assert test in functions, (file, test)
    modules = {name for name in re.findall(r"`([\w/]+\.py)`", text) if "tests/" not in name}
    for name in modules:
        assert (PACKAGE / name).is_file(), name
    assert modules or "simulator" in text


def test_the_page_is_linked():
    assert "`docs/hazards.md`" in (ROOT / "README.md").read_text(encoding="utf-8")


# Mathematics.

FLAGS = "fast|nnan|ninf|nsz|arcp|contract|afn|reassoc"
FLAGGED = re.compile(rf"\b(?:f[a-z]+|call|select|phi) (?:{FLAGS}) ")


def test_no_instruction_has_a_flag_of_unsafe_mathematics(monkeypatch):
    """In LLVM's code, after all of its optimisations."""
    texts = []

    def object_code(library, symbol, original=compiler.object_code):
        code = original(library, symbol)
        texts.append(str(library._final_module))
        return code

    monkeypatch.setattr(compiler, "object_code", object_code)
    gelu = Activation.resolve("gelu")
    for function in (
        Function("dense_forward", "float32", gelu.law, (0,)),
        Function("layer_norm_forward", "float32"),
        Function("layer_norm_backward", "float64"),
        Function("reduce_tiles", "float64"),
    ):
        assert compiler.compile_object(function, function.name)
    assert len(texts) == 4
    together = "".join(texts)
    assert all(f" {operation} " in together for operation in ("fadd", "fmul", "fcmp", "fdiv"))
    assert not FLAGGED.search(together)


@pytest.mark.parametrize(
    ("line", "flagged"),
    [
        ("%3 = fadd fast double %1, %2", True),
        ("%3 = tail call nnan float @llvm.fma.f32(", True),
        ("%3 = fcmp ninf olt float %1, %2", True),
        ("%3 = fadd double %1, %2", False),
        ("call fastcc void @fast(float %1)", False),
    ],
)
def test_flags_are_seen(line, flagged):
    assert bool(FLAGGED.search(line)) == flagged


# What Numba and BLAS are not asked for.


def names(tree):
    """What a module imports, and asks objects for, and its operator of products as ``@``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
            yield from (getattr(node, "module", None) or "").split(".")
        elif isinstance(node, ast.MatMult):
            yield "@"


THREADED = {"prange", "pndindex", "njit", "jit", "vectorize", "guvectorize", "stencil", "cfunc"}
# Of LLVM, of PTX, of its dialect in MLIR and of Numba; loads and stores alone add up nothing.
ATOMIC = re.compile(r"atomicrmw|atomic_rmw|cmpxchg|\batom\.\S+|\bred\.\S+|\batomic\.\w+")


def test_numba_is_asked_for_nothing_that_has_threads_of_its_own():
    """Nor for the decorators that could be told to; functions for a GPU have one of their own."""
    for path in SOURCES:
        for_a_gpu = path == PACKAGE / "backends" / "cuda" / "compiler.py"
        found = set(names(tree_of(path))) & THREADED
        assert found == ({"jit"} if for_a_gpu else set()), path


def test_the_only_atomic_sum_is_one_of_integers():
    found = [each for path in SOURCES for each in ATOMIC.findall(path.read_text(encoding="utf-8"))]
    assert found == ["atom.add.acq_rel.gpu.global.u32"]


BLAS = {"@", "dot", "matmul", "einsum", "tensordot", "inner", "vdot", "linalg", "blas", "lapack"}


def test_blas_is_called_by_nothing_that_trains_or_predicts():
    found = {
        path.relative_to(PACKAGE).as_posix() for path in SOURCES if BLAS & set(names(tree_of(path)))
    }
    assert found == {"initializers.py", "complex_step.py"}
    for path in SOURCES:
        imported = {
            node.module for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom)
        }
        if "fastbp.complex_step" in imported:
            assert path.name == "gradient_checks.py"


def test_what_is_asked_for_is_seen():
    tree = ast.parse("from numba import prange\nx @ y\nnp.linalg.qr(x)\nnumba.njit(f)")
    assert {"prange", "@", "linalg", "njit"} <= set(names(tree))
