"""The compiled elementary functions: accuracy, special values, and the same bits in any loop."""

import functools
import itertools
import math
import re

import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import float32, float64, njit

import fastbp.backends.cpu.compiler  # noqa: F401  (lets Numba compile the functions)
from fastbp import elementary

FUNCTIONS = ("exp", "expm1", "log", "log1p", "tanh", "erf", "sigmoid", "sin", "cos")
REALS = (np.float32, np.float64)
CASES = list(itertools.product(FUNCTIONS, REALS))
# In units in the last place: a little above the largest errors measured, for float32 over all
# arguments of the busy range; a wrong digit in a coefficient shows.
LARGEST_ERROR = {
    "exp": 1.0,
    "expm1": 1.95,
    "log": 1.0,
    "log1p": 1.05,
    "tanh": 1.8,
    "erf": 1.9,
    "sigmoid": 1.8,
    "sin": 1.75,
    "cos": 1.7,
}


def in_double(name):
    """The function in float64, all but exact beside float32."""
    return {"erf": scipy.special.erf, "sigmoid": scipy.special.expit}.get(name) or getattr(np, name)


def exact(name, x):
    """The function in many digits; NaN where it is not real."""
    x = mpmath.mpf(float(x))
    undefined = {
        "log": x < 0,
        "log1p": x < -1,
        "sin": mpmath.isinf(x),
        "cos": mpmath.isinf(x),
    }
    if mpmath.isnan(x) or undefined.get(name, False):
        return mpmath.nan
    if (name, x) in (("log", 0), ("log1p", -1)):
        return -mpmath.inf
    # Where mpmath would take its time to find out that these are close to one.
    if (name == "tanh" and abs(x) > 40) or (name == "erf" and abs(x) > 10):
        return mpmath.sign(x)
    # The reduction of 2**1024 takes its leading digits, and tiny results need their trailing ones.
    with mpmath.workprec(1400 if name in ("sin", "cos") else 160):
        return 1 / (1 + mpmath.exp(-x)) if name == "sigmoid" else getattr(mpmath, name)(x)


@functools.cache
def loop(name):
    function = getattr(elementary, name)

    @njit
    def run(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return run


@functools.cache
def scalar(name):
    function = getattr(elementary, name)
    return njit(lambda x: function(x))


def single_calls(name, x):
    """The function called for one scalar at a time; its results reach Python as float."""
    function = scalar(name)
    results = [function(argument) for argument in x]
    kind = {np.float32: float32, np.float64: float64}[x.dtype.type]
    assert function.overloads[(kind,)].signature.return_type == kind
    return np.array(results, dtype=x.dtype)


def compiled(name, x):
    out = np.empty_like(x)
    loop(name)(x, out)
    return out


def exact_errors(name, x, values):
    """Errors in units in the last place of the exact results; wrong kinds of result are infinite."""
    info = np.finfo(x.dtype)
    errors = []
    for argument, value in zip(x.tolist(), values.tolist(), strict=True):
        truth = exact(name, argument)
        if mpmath.isnan(truth):
            error = 0.0 if math.isnan(value) else math.inf
        elif mpmath.isinf(truth) or abs(truth) > float(info.max) * (1 + mpmath.eps):
            error = 0.0 if value == float(mpmath.sign(truth)) * math.inf else math.inf
        elif not math.isfinite(value):
            error = math.inf
        else:
            exponent = max(truth.exp + truth.bc - 1, info.minexp) if truth else info.minexp
            error = float(mpmath.ldexp(abs(mpmath.mpf(value) - truth), info.nmant - exponent))
        errors.append(error)
    return np.array(errors)


def double_errors(name, x, values):
    """The same for float32 with float64 as the truth, which adds 2**-28 of a unit or so."""
    info = np.finfo(np.float32)
    with np.errstate(all="ignore"):
        truth = in_double(name)(x.astype(np.float64))
        exponent = np.maximum(np.frexp(truth)[1] - 1, info.minexp)
        errors = np.ldexp(np.abs(values - truth), info.nmant - exponent)
    overflow = np.abs(truth) >= float(info.max) * (1 + 2.0**-25)
    errors[overflow] = np.where(values[overflow] == np.sign(truth[overflow]) * np.inf, 0, np.inf)
    errors[np.isnan(truth)] = np.where(np.isnan(values[np.isnan(truth)]), 0, np.inf)
    return np.where(np.isnan(errors), np.inf, errors)


def close_to_multiples_of_half_pi(real):
    """For each exponent, the numbers nearest to a multiple of pi/2, by continued fractions."""
    info = np.finfo(real)
    digits = info.nmant + 1
    found = []
    with mpmath.workprec(2600):
        ratio = 2 / mpmath.pi
        for q in range(1 - digits, info.maxexp - digits):
            # Convergents k / m of 2**q * 2/pi make m * 2**q a good neighbour of k * pi/2.
            x = mpmath.ldexp(ratio, q)
            before, m = 0, 1
            while True:
                x = 1 / (x - mpmath.floor(x))
                before, m = m, int(mpmath.floor(x)) * m + before
                if m >= 2**digits:
                    break
            times = (2**digits - 1) // before
            found.append(math.ldexp(before, q))
            found.append(math.ldexp(before * times, q))
    return np.array(found).astype(real)


def neighbourhood(points, real, width=3):
    """The points and their neighbours."""
    points = np.asarray(points, dtype=real)
    around = [points]
    with np.errstate(all="ignore"):
        for direction in (-np.inf, np.inf):
            moved = points
            for _ in range(width):
                moved = np.nextafter(moved, real(direction))
                around.append(moved)
    return np.concatenate(around)


@functools.cache
def special_regions(name, real):
    """Where something could go wrong: ends, thresholds, boundaries of the reductions."""
    info = np.finfo(real)
    ends = [0.0, info.tiny, info.smallest_subnormal, info.max, info.eps, info.eps / 2, info.eps / 4]
    octaves = np.arange(-1100, 1030)
    if real is np.float32:
        octaves = octaves[np.abs(octaves) < 155]
    points = [ends, [0.3, 0.5, 0.75, 1.0, 2.0, 3.95, 5.95, math.sqrt(0.5), math.sqrt(2)]]
    if name in ("exp", "expm1", "tanh", "sigmoid"):
        points += [octaves * math.log(2) / 2, octaves * math.log(2)]
        points.append([math.log(info.max), math.log(info.tiny), math.log(info.smallest_subnormal)])
    if name in ("log", "log1p"):
        with np.errstate(all="ignore"):
            powers = np.ldexp(1.0, octaves)
            points += [powers, powers * math.sqrt(0.5), powers - 1, powers * math.sqrt(0.5) - 1]
    if name in ("sin", "cos"):
        points += [np.arange(1, 400) * math.pi / 4]
        return np.concatenate(
            [neighbourhood(np.concatenate(points), real, 1), close_to_multiples_of_half_pi(real)]
        )
    with np.errstate(over="ignore"):
        return neighbourhood(np.concatenate(points), real, 1)


def samples(name, real, count):
    """Arguments over all exponents, over the busy part, and in the special regions; both signs."""
    rng = np.random.default_rng(len(name))
    info = np.finfo(real)
    bits = {np.float32: np.uint32, np.float64: np.uint64}[real]
    anything = rng.integers(0, np.iinfo(bits).max, count, dtype=bits, endpoint=True).view(real)
    spread = np.log(float(info.max)) * 1.2
    regions = special_regions(name, real)
    x = np.concatenate(
        [
            anything,
            rng.uniform(-1, 1, count).astype(real),
            rng.uniform(-8, 8, count).astype(real),
            rng.uniform(-spread, spread, count).astype(real),
            rng.uniform(-1e6, 1e6, count).astype(real),
            regions,
            -regions,
        ]
    )
    if name == "log1p":
        x = np.concatenate([x, (rng.uniform(-1, 1, count) ** 9 - 1).astype(real)])
    return x[~np.isnan(x)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_errors_over_the_whole_range(name):
    x = samples(name, np.float32, 200_000)
    errors = double_errors(name, x, compiled(name, x))
    worst = errors.argmax()
    assert errors[worst] <= LARGEST_ERROR[name], (x[worst], errors[worst])


@pytest.mark.parametrize(("name", "real"), CASES)
def test_errors_against_many_digits(name, real):
    x = samples(name, real, 500 if real is np.float64 else 100)
    if x.size > 6000:
        x = np.concatenate([x[:2500], np.random.default_rng(0).choice(x[2500:], 3500)])
    errors = exact_errors(name, x, compiled(name, x))
    worst = errors.argmax()
    assert errors[worst] <= LARGEST_ERROR[name], (x[worst], errors[worst])


@pytest.mark.parametrize(("name", "real"), CASES)
@settings(max_examples=60)
@given(data=st.data())
def test_errors_at_arbitrary_arguments(name, real, data):
    width = 8 * np.dtype(real).itemsize
    x = np.array([data.draw(st.floats(width=width))], dtype=real)
    assert exact_errors(name, x, compiled(name, x))[0] <= LARGEST_ERROR[name]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_zeros_of_sine_and_cosine(name, real):
    """The numbers closest to multiples of pi/2, where a reduction that is too short shows."""
    x = close_to_multiples_of_half_pi(real)
    assert x.size > (200 if real is np.float32 else 2000)
    x = x[:: 1 if real is np.float32 else 3]
    nearest = min(abs(float(exact(name, argument))) for argument in x)
    assert nearest < 2.0 ** (-28 if real is np.float32 else -58)
    assert exact_errors(name, x, compiled(name, x)).max() <= LARGEST_ERROR[name]


INF, NAN = math.inf, math.nan
# The value at -0.0 without its sign is that at 0.0, except for log.
SPECIAL = {
    "exp": {-0.0: 1.0, INF: INF, -INF: 0.0, 1e4: INF, -1e4: 0.0},
    "expm1": {-0.0: -0.0, INF: INF, -INF: -1.0, 1e4: INF, -1e4: -1.0},
    "log": {1.0: 0.0, -0.0: -INF, INF: INF, -INF: NAN, -1.0: NAN, -1e-40: NAN},
    "log1p": {-0.0: -0.0, -1.0: -INF, INF: INF, -INF: NAN, -1.5: NAN},
    "tanh": {-0.0: -0.0, INF: 1.0, -INF: -1.0, 1e30: 1.0, -40.0: -1.0},
    "erf": {-0.0: -0.0, INF: 1.0, -INF: -1.0, 1e30: 1.0, -40.0: -1.0},
    "sigmoid": {-0.0: 0.5, INF: 1.0, -INF: 0.0, 1e4: 1.0, -1e4: 0.0},
    "sin": {-0.0: -0.0, INF: NAN, -INF: NAN},
    "cos": {-0.0: 1.0, INF: NAN, -INF: NAN},
}


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, real):
    table = [*SPECIAL[name].items(), (0.0, abs(SPECIAL[name][-0.0])), (NAN, NAN)]
    if name == "log":
        table[-2] = (0.0, -INF)
    x, expected = np.array(table, dtype=real).T
    for values in (compiled(name, x), single_calls(name, x)):
        assert values.dtype == real
        np.testing.assert_array_equal(values, expected)
        known = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(values[known]), np.signbit(expected[known]))


@pytest.mark.parametrize(
    ("name", "real"), [case for case in CASES if case[0] not in ("exp", "cos")]
)
def test_subnormal_arguments(name, real):
    """Those that are their own result near zero keep every bit there."""
    tiny = np.finfo(real).smallest_subnormal
    x = np.concatenate([np.arange(1, 300), np.arange(10**5, 10**5 + 100)]).astype(real) * tiny
    if name in ("log", "sigmoid"):
        errors = exact_errors(name, x, compiled(name, x))
        assert errors.max() <= LARGEST_ERROR[name]
    elif name == "erf":
        assert exact_errors(name, x, compiled(name, x)).max() <= 0.5
        np.testing.assert_array_equal(compiled(name, -x), -compiled(name, x))
    else:
        for sign in (real(1), real(-1)):
            np.testing.assert_array_equal(compiled(name, sign * x), sign * x)


@pytest.mark.parametrize("real", REALS)
def test_overflow_and_underflow_of_exp(real):
    info = np.finfo(real)
    with mpmath.workprec(120):
        highest = real(mpmath.nstr(mpmath.log(mpmath.mpf(float(info.max))), 40))
        lowest = real(mpmath.nstr(mpmath.log(mpmath.mpf(float(info.smallest_subnormal)) / 2), 40))
    x = np.sort(np.unique(neighbourhood([highest], real, 5)))
    values = compiled("exp", x)
    limit = [mpmath.exp(mpmath.mpf(float(a))) > mpmath.mpf(float(info.max)) for a in x]
    np.testing.assert_array_equal(np.isinf(values), limit)
    x = np.linspace(lowest, real(math.log(info.tiny)) + real(1), 4001).astype(real)
    values = compiled("exp", x)
    assert np.all(np.diff(values) >= 0)
    assert values[0] in (0, info.smallest_subnormal)
    assert np.count_nonzero((values > 0) & (values < info.tiny)) > 2000
    # Rounded once: half a unit of the smallest number, and a little for the number before.
    assert exact_errors("exp", x, values).max() < 1.0
    np.testing.assert_array_equal(compiled("sigmoid", x[:2000]), values[:2000])


@pytest.mark.parametrize(("name", "real"), CASES)
def test_symmetry_and_bounds(name, real):
    x = samples(name, real, 2000)
    values, mirrored = compiled(name, x), compiled(name, -x)
    if name in ("sin", "tanh", "erf"):
        np.testing.assert_array_equal(mirrored, -values)
    if name == "cos":
        np.testing.assert_array_equal(mirrored, values)
    if name in ("sin", "cos", "tanh", "erf"):
        assert np.all(np.isnan(values) | (np.abs(values) <= 1))
    if name == "sigmoid":
        assert np.all((values >= 0) & (values <= 1))


@pytest.mark.parametrize(("name", "real"), CASES)
def test_a_loop_of_any_length_has_the_bits_of_single_calls(name, real):
    x = samples(name, real, 40)
    x = np.random.default_rng(1).permutation(np.concatenate([x, [0.0, -0.0, INF, -INF, NAN]]))
    x = x.astype(real)[:400]
    bits = {np.float32: np.uint32, np.float64: np.uint64}[real]
    single = single_calls(name, x)
    known = ~np.isnan(single)
    for length in range(1, 41):
        for start in (0, length, x.size - length):
            part = slice(start, start + length)
            values = compiled(name, x[part].copy())
            np.testing.assert_array_equal(np.isnan(values), ~known[part])
            there = known[part]
            np.testing.assert_array_equal(values[there].view(bits), single[part][there].view(bits))


@pytest.mark.parametrize(("name", "real"), CASES)
def test_loops_are_vector_code_without_calls(name, real):
    compiled(name, np.ones(1, real))
    kind = {np.float32: "float", np.float64: "double"}[real]
    array = {np.float32: float32, np.float64: float64}[real][::1]
    functions = loop(name).inspect_llvm((array, array)).split("\ndefine ")[1:]
    headers = [function.split("\n")[0] for function in functions]
    (place,) = [
        i for i, header in enumerate(headers) if re.search(r"@_ZN\d+test_elementary", header)
    ]
    body = functions[place]
    body = body[: body.index("\n}")]
    called = re.findall(r"call [^@\n]*@([\w.$\"]+)", body)
    assert called
    assert all(target.strip('"').startswith("llvm.") for target in called), set(called)
    suffix = {"float": "f32", "double": "f64"}[kind]
    assert any(re.fullmatch(rf"llvm\.fma\.v\d+{suffix}", target) for target in called)
    assert re.search(rf"<\d+ x {kind}>", body)
    if kind == "float":
        assert "double" not in body
    assert " fast " not in body
    assert "contract" not in body


def test_logarithm_in_the_interpreter():
    assert elementary.log(math.e) == 1.0
    assert elementary.log(0.0) == -math.inf
    assert math.isnan(elementary.log(-1.0))
    assert math.isnan(elementary.log(math.nan))
    assert isinstance(elementary.log(np.float32(2)), np.float32)
