"""The GPU's elementary functions: the errors of sine and cosine, and the machine code of all.

Sine and cosine run in the interpreter and compiled for the CPU, which wraps integers as a GPU does.
"""

import functools
import itertools
import math
import re
import shutil
import subprocess
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from simulator import Machine
from test_elementary import (
    close_to_multiples_of_half_pi,
    double_errors,
    exact,
    exact_errors,
    samples,
)

from fastbp import elementary
from fastbp.backends.cpu import intrinsics
from fastbp.backends.cpu.elementary import instructions
from fastbp.backends.cuda import language
from fastbp.backends.cuda.elementary import BOUND, half_pi_parts, make_sine

REALS = (np.float32, np.float64)
CASES = list(itertools.product(("sin", "cos"), REALS))
# In units in the last place: a little above the largest errors measured.
LARGEST_ERROR = 1.55


class ExactMachine(Machine):
    """A machine whose fma of finite numbers is rounded once, where the simulator's is not quite."""

    def fma(self, a, b, c):
        if not all(map(math.isfinite, (a, b, c))):
            return a * b + c
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        rounded = type(a)(float(exact))
        if type(a) is np.float32:
            # To the nearest of three, since float64 between them would round twice.
            near = (np.nextafter(rounded, -np.inf), rounded, np.nextafter(rounded, np.inf))
            even = {number: int(number.view(np.int32)) & 1 for number in near}
            rounded = min(near, key=lambda n: (abs(Fraction(float(n)) - exact), even[n]))
        return rounded


@functools.cache
def function(name, real):
    return make_sine(real.__name__, real, name == "cos")


def interpreted(name, x):
    former, language.machine = language.machine, ExactMachine()
    try:
        with np.errstate(all="ignore"):
            values = [function(name, x.dtype.type)(argument) for argument in x]
    finally:
        language.machine = former
    assert all(type(value) is x.dtype.type for value in values)
    return np.array(values)


@njit
def float_bits(x):
    return np.int64(instructions.bits(x))


WORDS = {language.fma: intrinsics.fma, language.float_bits: float_bits}


@functools.cache
def compilable(value):
    """A plain function, with those that it refers to, compiled for the CPU."""
    if value in WORDS:
        return WORDS[value]
    if not isinstance(value, types.FunctionType):
        return value
    code = value.__code__
    names = {
        name: compilable(value.__globals__[name])
        for name in code.co_names
        if name in value.__globals__
    }
    cells = tuple(
        types.CellType(compilable(cell.cell_contents)) for cell in value.__closure__ or ()
    )
    return njit(types.FunctionType(code, names, value.__name__, value.__defaults__, cells))


@functools.cache
def loop(name, real):
    sine = compilable(function(name, real))

    @njit
    def run(x, out):
        for i in range(x.size):
            out[i] = sine(x[i])

    return run


def compiled(name, x):
    out = np.empty_like(x)
    loop(name, x.dtype.type)(x, out)
    return out


def assert_small(errors, x):
    worst = errors.argmax()
    assert errors[worst] <= LARGEST_ERROR, (x[worst], errors[worst])


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_float32_errors_over_the_whole_range(name):
    x = samples(name, np.float32, 400_000)
    assert_small(double_errors(name, x, compiled(name, x)), x)


@pytest.mark.parametrize(("name", "real"), CASES)
def test_errors_against_many_digits(name, real):
    rng = np.random.default_rng(3)
    x = rng.choice(samples(name, real, 2000), 2500)
    # Around the bound between the two ways.
    x = np.concatenate([x, real(BOUND) * (1 + rng.uniform(-0.5, 0.5, 500)).astype(real)])
    assert_small(exact_errors(name, x, compiled(name, x)), x)


@pytest.mark.parametrize(("name", "real"), CASES)
def test_zeros_of_sine_and_cosine(name, real):
    """The numbers closest to multiples of pi/2, where a reduction that is too short shows."""
    x = close_to_multiples_of_half_pi(real)
    assert min(abs(float(exact(name, argument))) for argument in x) < 2.0 ** (
        -28 if real is np.float32 else -59
    )
    x = np.concatenate([x, -x])
    assert_small(exact_errors(name, x, compiled(name, x)), x)


@pytest.mark.parametrize(("name", "real"), CASES)
def test_integers_that_wrap_change_nothing(name, real):
    x = np.random.default_rng(4).permutation(samples(name, real, 2000))[:2500]
    np.testing.assert_array_equal(interpreted(name, x), compiled(name, x))


@pytest.mark.parametrize("run", [interpreted, compiled])
@pytest.mark.parametrize(("name", "real"), CASES)
def test_special_values(name, real, run):
    info = np.finfo(real)
    tiny = np.array([0.0, info.smallest_subnormal, 7 * info.smallest_subnormal, info.tiny], real)
    tiny = np.concatenate([tiny, -tiny])
    values = run(name, tiny)
    np.testing.assert_array_equal(values, tiny if name == "sin" else np.ones_like(tiny))
    np.testing.assert_array_equal(np.signbit(values), np.signbit(tiny) & (name == "sin"))
    negative_nan = np.copysign(real(np.nan), real(-1.0))
    x = np.array([np.inf, -np.inf, np.nan, negative_nan], real)
    assert np.all(np.isnan(run(name, x)))


@pytest.mark.parametrize(("name", "real"), CASES)
def test_symmetry_and_bounds(name, real):
    x = samples(name, real, 20_000)
    x = x[np.isfinite(x)]
    values = compiled(name, x)
    assert np.all(np.abs(values) <= 1)
    np.testing.assert_array_equal(compiled(name, -x), -values if name == "sin" else values)


@pytest.mark.parametrize("real", REALS)
def test_half_pi_in_parts(real):
    first, second, third = half_pi_parts(real.__name__, 3)
    assert first == real(math.pi / 2)
    assert real(first) + real(second) == real(first)
    assert real(second) + real(third) == real(second)
    if real is np.float32:
        assert first + second == pytest.approx(math.pi / 2, abs=1e-14)
    else:
        assert second == 6.123233995736766e-17


def object_dump():
    """The disassembler of the CUDA toolkit, if it is installed."""
    nvidia = pytest.importorskip("nvidia")
    found = [Path(place) / "cu13" / "bin" / "cuobjdump" for place in nvidia.__path__]
    path = next((str(place) for place in found if place.exists()), shutil.which("cuobjdump"))
    if path is None:
        pytest.skip("cuobjdump is not installed: pip install '.[cuda-test]'")
    return path


def make_kernel(name, kind):
    """A kernel that calls an elementary function once."""
    law = getattr(elementary, name)
    count = {"power": 2, "multiply_add": 3}.get(name, 1)
    as_pointer, thread = language.as_pointer, language.thread

    def unary(source, target):
        x = as_pointer(source, kind)
        as_pointer(target, kind)[thread()] = law(x[thread()])

    def binary(source, target):
        x = as_pointer(source, kind)
        as_pointer(target, kind)[thread()] = law(x[thread()], x[0])

    def ternary(source, target):
        x = as_pointer(source, kind)
        as_pointer(target, kind)[thread()] = law(x[thread()], x[0], x[1])

    return (unary, binary, ternary)[count - 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", elementary.NAMES)
def test_machine_code_needs_no_memory_and_keeps_the_precision(name, dtype, tmp_path):
    pytest.importorskip("numba_cuda_mlir")
    from fastbp.backends.cuda import compiler

    dump = object_dump()
    kernel = make_kernel(name, compiler.number_type(dtype))
    code, _ = compiler.compile_cubin(kernel, 2, "sm_90", 256, 2)
    path = tmp_path / "kernel.cubin"
    path.write_bytes(code)
    texts = [
        subprocess.run([dump, option, str(path)], capture_output=True, text=True, check=True).stdout
        for option in ("--dump-resource-usage", "--dump-sass")
    ]
    # Of the kernel, and of the division where it is a function.
    assert set(re.findall(r"STACK:(\d+)", texts[0])) == {"0"}
    assert set(re.findall(r"LOCAL:(\d+)", texts[0])) == {"0"}
    operations = set(re.findall(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)", texts[1]))
    assert {"LDG", "STG"} <= operations
    assert not operations & {"LDL", "STL"}
    doubles = {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX", "F2F"} & operations
    assert not doubles or dtype == "float64", doubles
