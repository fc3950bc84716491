"""Kernels in tf32 and bf16 on the tensor cores of a simulated GPU."""

import numpy as np
import pytest
from cuda_kernels import FAR, Gpu, checked, layout, normal, spans
from kernels import Absent, generator
from precisions import BITS, precisions, product
from test_cuda_gradient_kernels import shares_of_rows

import fastbp as fb
from fastbp.backends.cuda import tensor_cores
from fastbp.backends.cuda.product import staging_elements
from fastbp.backends.cuda.tuning import THREADS, tile_shape

# (tile, depth, columns, (height, first, last))
CASES = [
    ((16, 64), 1, 1, (1, 0, 1)),
    ((64, 64), 65, 67, (66, 1, 63)),
    ((32, 64), 33, 64, (35, 3, 35)),
    ((32, 32), 70, 33, (40, 0, 31)),
    ((64, 128), 31, 129, (64, 0, 64)),
    ((128, 128), 130, 127, (131, 2, 130)),
    ((128, 32), 17, 32, (128, 0, 128)),
]
SMALL = ((32, 32), 35, 17, (21, 2, 19))


def backward(precision, case, factors, **options):
    """delta @ weight.T for rows of a segment; the kernel's matrices, and what it left."""
    tile, depth, columns, (height, first, last) = case
    one = Gpu("float32", tile, **options)
    D, W = factors((height, depth)), factors((depth, columns))
    D[:first] = D[last:] = np.nan
    tensors = {
        "input_delta": one.matrix(height, columns),
        "delta": one.matrix(height, depth, D),
        "transposed_weight": one.matrix(depth, columns, W),
    }
    where = layout(one.shape, FAR)
    before = one.call(
        "dense_backward_data",
        tensors,
        (columns, depth, 1),
        first,
        last,
        where=where,
        precision=precision,
    )
    found = tensors["input_delta"]
    beyond = [row for row in range(height) if not first <= row < last]
    assert not found.changed(before["input_delta"])[beyond].any()
    assert found.padding_is_zero(slice(first, last))
    return D[first:last], W, found.matrix[first:last]


def few_bits(seed):
    """Factors whose products and sums are exact: a wrong sum of such is a wrong place."""
    rng = np.random.default_rng(seed)
    return lambda shape: rng.integers(-100, 101, shape).astype(np.float32)


def all_bits(seed):
    rng = generator(seed)
    return lambda shape: normal(rng, "float32", *shape)


@pytest.mark.parametrize("case", CASES, ids=str)
@precisions
def test_every_number_of_a_product_is_in_its_place(precision, case):
    D, W, found = backward(precision, case, few_bits(1))
    assert np.array_equal(found, D.astype(np.float64) @ W)


@pytest.mark.parametrize("case", [CASES[1], CASES[5]], ids=str)
@precisions
def test_factors_are_rounded_and_sums_are_not(precision, case):
    D, W, found = backward(precision, case, all_bits(2))
    expected, bound = product(D, W, precision)
    assert (np.abs(found - expected) <= bound).all()
    whole = D.astype(np.float64) @ W
    assert np.abs(found - whole).max() > 8 * bound.max()
    most = 2.02 * 2.0 ** -BITS[precision] * (np.abs(D) @ np.abs(W))
    assert (np.abs(found - whole) <= most).all()


@checked
@precisions
def test_a_product_in_every_order(precision, options):
    D, W, found = backward(precision, SMALL, few_bits(3), **options)
    assert np.array_equal(found, D.astype(np.float64) @ W)


@precisions
def test_dense_forward(precision):
    one, law, rng = Gpu("float32", (64, 64)), fb.LeakyRelu(), generator(4)
    X, W, b = (normal(rng, "float32", *shape) for shape in ((65, 70), (70, 67), (67,)))
    tensors = {
        "output": one.matrix(65, 67),
        "derivative": Absent(),
        "inputs": one.matrix(65, 70, X),
        "weight": one.matrix(70, 67, W),
        "bias": one.matrix(1, 67, b),
        "settings": one.data(law.settings),
    }
    where = layout(one.shape, FAR)
    one.call(
        "dense_forward",
        tensors,
        (70, 67, 0),
        0,
        64,
        where=where,
        law=law.law,
        setting_count=1,
        precision=precision,
    )
    expected, bound = product(X[:64], W, precision)
    expected += b
    expected[expected < 0] *= law.settings[0]
    assert (np.abs(tensors["output"].matrix[:64] - expected) <= 2 * bound + 1e-6).all()
    assert tensors["output"].padding_is_zero(slice(0, 64))


# (tile, (rows of the segment, of its buffers), features, units, shares, segments)
GRADIENTS = [
    ((32, 32), (37, 40), 33, 34, 1, 2),
    ((64, 64), (99, 99), 65, 67, 2, 1),
    ((32, 64), (16, 17), 31, 1, 2, 1),
    ((64, 128), (33, 33), 63, 129, 1, 1),
    ((128, 128), (65, 66), 127, 128, 1, 1),
]


def gradient(precision, case, factors, **options):
    """Check inputs.T @ delta; `factors` of few bits, so that sums are exact."""
    tile, (n, height), features, units, shares, segments = case
    one = Gpu("float32", tile, **options)
    found = one.matrix(features, units, copies=shares)
    expected = np.zeros((shares, features, units))
    for segment in range(segments):
        A, D = factors((height, features)), factors((height, units))
        A[n:] = D[n:] = np.nan
        tensors = {
            "gradient": found,
            "tile_norm": Absent(),
            "tile_penalty": Absent(),
            "parameter": one.matrix(features, units),
            "penalties": Absent(),
            "inputs": one.matrix(height, features, A),
            "delta": one.matrix(height, units, D),
            "scalars": one.scalars(),
            "batch": one.batch(ROWS=n, BEGINS=int(segment == 0), ENDS=int(segment == segments - 1)),
        }
        for share, rows in enumerate(shares_of_rows(n, shares)):
            expected[share] += A[rows].T.astype(np.float64) @ D[rows]
            for _, _, first, last in spans(features, units, tile[1], tile[0]):
                part, sizes = (share, shares), (tile[0], 0)
                one.call(
                    "dense_weight_gradient",
                    tensors,
                    sizes,
                    first,
                    last,
                    part=part,
                    precision=precision,
                )
    for copy in range(shares):
        assert np.array_equal(found.read(copy)[:, :units], expected[copy])
        assert found.padding_is_zero(copy=copy)


@pytest.mark.parametrize("case", GRADIENTS, ids=str)
@precisions
def test_dense_weight_gradient(precision, case):
    gradient(precision, case, few_bits(6))


@checked
@precisions
def test_dense_weight_gradient_in_every_order(precision, options):
    gradient(precision, ((32, 32), (19, 20), 37, 5, 2, 2), few_bits(7), **options)


@pytest.mark.parametrize("sides", [(16, 32), (64, 64), (128, 128), (16, 128), (128, 64)], ids=str)
def test_the_words_take_no_more_shared_memory_than_numbers_do(sides):
    shape = tile_shape("float32", max(sides[0], 32), sides[1])
    assert 2 * tensor_cores.PART * (shape.rows + shape.columns) <= staging_elements(shape)
    assert tensor_cores.fragments_down(shape) * 16 * tensor_cores.WARPS >= shape.rows
    assert 2 * shape.rows <= THREADS  # each copies two rows of four words at most


def test_what_tensor_cores_do_not_do():
    shape = tile_shape("float32", 64, 64)
    with pytest.raises(ValueError, match="near"):
        tensor_cores.multiply_rows(np.float32, shape, True, "tf32")
    with pytest.raises(ValueError, match="multiple of 32; got 16"):
        tensor_cores.multiply_transposed(np.float32, tile_shape("float32", 16, 64), "tf32")
    with pytest.raises(ValueError, match="no warps of 16, 32 or 64 rows in 256 x 128"):
        tensor_cores.multiply_rows(np.float32, tile_shape("float32", 256, 128), False, "tf32")
