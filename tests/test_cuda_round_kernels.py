"""What follows the updates, on the CUDA backend: norms held, and the moving average."""

import numpy as np
import pytest
from cuda_kernels import Gpu, checked, normal
from kernels import Absent, dtypes, generator

SHAPES = [(1, 1), (3, 5), (40, 64), (33, 65), (7, 130), (129, 16)]  # inputs, units


def norms_of(weight):
    return np.sqrt((weight.astype(float) ** 2).sum(axis=0))


def held_to_a_norm(dtype, tile, shape, *, shares=1, has_copy=True, **options):
    """Each share of each panel in turn changes its own units alone, and their rows of the copy."""
    gpu, (inputs, units), panel = Gpu(dtype, tile, **options), shape, tile[1]
    weight = normal(generator(inputs, units), dtype, inputs, units)
    norms = norms_of(weight)
    limit = gpu.real(np.median(norms))
    expected = weight * np.minimum(1, limit / norms)
    tensors = {
        "parameter": gpu.matrix(inputs, units, weight),
        "transposed": gpu.matrix(units, inputs, weight.T) if has_copy else Absent(),
        "limit": gpu.data(limit),
    }
    done = np.zeros(units, dtype=bool)
    bound = (1e-15 if dtype == "float64" else 1e-6) * np.sqrt(inputs)
    for number in range(-(-units // panel)):
        for share in range(shares):
            part = (share, shares)
            gpu.call("constrain_weight", tensors, (units, 0), number, number + 1, part=part)
            columns = np.arange(units)
            wide = panel // shares if shares > 1 else panel
            done |= (columns // panel == number) & (columns % panel // wide == share)
            found = tensors["parameter"].matrix
            assert np.abs(found - expected)[:, done].max(initial=0) < bound
            assert np.array_equal(found[:, ~done], weight[:, ~done])
            if has_copy:
                assert np.array_equal(tensors["transposed"].matrix, found.T)
    assert done.all()
    within = norms <= limit * (1 - 1e-6)
    assert np.array_equal(found[:, within], weight[:, within])  # as they were, to the bit
    for tensor in [tensors["parameter"], *([tensors["transposed"]] if has_copy else [])]:
        assert tensor.padding_is_zero()


@dtypes
@pytest.mark.parametrize(("tile", "shares"), [((32, 32), 1), ((16, 64), 2), ((16, 64), 1)], ids=str)
@pytest.mark.parametrize("has_copy", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_units_beyond_the_norm_are_scaled_down(shape, has_copy, tile, shares, dtype):
    held_to_a_norm(dtype, tile, shape, shares=shares, has_copy=has_copy)


@pytest.mark.parametrize("shape", [(130, 129), (3, 200)], ids=str)
def test_wide_panels_are_shared_by_four(shape):
    held_to_a_norm("float32", (128, 128), shape, shares=4)


@checked
@pytest.mark.parametrize(("tile", "shares"), [((32, 32), 1), ((16, 64), 2)], ids=str)
def test_norms_in_every_order(tile, shares, options):
    held_to_a_norm("float32", tile, (67, 70), shares=shares, **options)


@dtypes
def test_norms_within_the_limit_write_nothing(dtype):
    """Not even what is there: a copy that has other numbers keeps them."""
    gpu = Gpu(dtype, (32, 32))
    weight = normal(generator(1), dtype, 9, 7)
    tensors = {
        "parameter": gpu.matrix(9, 7, weight),
        "transposed": gpu.matrix(7, 9, 2 * weight.T),
        "limit": gpu.data(norms_of(weight).max() * 1.001),
    }
    before = gpu.call("constrain_weight", tensors, (7, 0), 0, 1)
    for name in ("parameter", "transposed"):
        assert not tensors[name].changed(before[name]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_norm_that_is_not_finite_stays_visible(bad):
    """1e30**2 is beyond float32."""
    gpu = Gpu("float32", (32, 32))
    weight = np.ones((3, 2))
    weight[1, 1] = bad
    parameter = gpu.matrix(3, 2, weight)
    tensors = {"parameter": parameter, "transposed": Absent(), "limit": gpu.data(1.0)}
    with np.errstate(over="ignore", invalid="ignore"):
        gpu.call("constrain_weight", tensors, (2, 0), 0, 1)
    assert np.isnan(parameter.matrix[:, 1]).all()
    assert np.allclose(parameter.matrix[:, 0], 3**-0.5)


def averaged(dtype, lines, first, last, **options):
    """Some lines of a slab; those before and after them stay as they are."""
    gpu, rng = Gpu(dtype, (32, 32), **options), generator(lines)
    count = lines * gpu.shape.vector
    before, values = (normal(rng, dtype, 1, count) for _ in range(2))
    averages, parameters = gpu.data(before), gpu.data(values)
    tensors = {
        "averages": averages,
        "parameters": parameters,
        "scalars": gpu.scalars(AVERAGE_RATE=0.125),
    }
    gpu.call("average_parameters", tensors, (), first, last)
    expected = before.copy()
    inside = slice(first * gpu.shape.vector, last * gpu.shape.vector)
    expected[:, inside] += gpu.real(0.125) * (values - before)[:, inside]
    assert np.array_equal(averages.matrix, expected)


@dtypes
@pytest.mark.parametrize(("lines", "first", "last"), [(1, 0, 1), (9, 2, 7), (300, 1, 299)])
def test_the_average_changes_its_lines_alone(lines, first, last, dtype):
    averaged(dtype, lines, first, last)


@checked
def test_the_average_in_every_order(options):
    averaged("float32", 200, 3, 190, **options)
