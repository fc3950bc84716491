"""The loss kernels of the CUDA backend on a simulated GPU, against NumPy."""

import numpy as np
import pytest
import reference
from cuda_kernels import CHECKED, FAR, OUT, Gpu, checked, layout, normal
from kernels import Absent, close, dtypes, generator
from strategies import every_loss, make_targets, settings_of

import fastbp as fb
from fastbp.backends.contract import Scalar
from fastbp.losses import Loss


class LossProblem:
    """A loss kernel's tensors, some sample weights zero, and what it should make of them.

    With `infinite`, the rows whose weight is zero have infinite outputs.
    """

    def __init__(self, loss, outputs, weighted, dtype, tile=(16, 64), infinite=False, **options):
        self.n, self.data_rows, self.first, self.last = 9, 13, 1, 8
        self.gpu, self.law = Gpu(dtype, tile, **options), Loss.resolve(loss)
        name, settings = self.law.name, settings_of(self.law)
        self.outputs = outputs
        gpu, n = self.gpu, self.n
        rng = generator(4, outputs)
        O, self.slopes = normal(rng, dtype, n, outputs), normal(rng, dtype, n, outputs)
        y = make_targets(name, self.data_rows, outputs, rng)
        w = rng.uniform(0.5, 2.0, self.data_rows).astype(dtype)
        index = rng.permutation(self.data_rows)[:n]
        w[index[2::3]] = 0.0
        self.weight = w[index] if weighted else np.ones(n, dtype)
        self.expected = self.weight * reference.row_losses(
            name, O.astype(float), y[index], **settings
        )
        slope = reference.output_derivative(name, O.astype(float), y[index], **settings)
        self.change = self.slopes * slope * self.weight[:, None]
        if infinite:
            O[self.weight == 0] = np.inf
        labels = y.ndim == 1
        self.tensors = {
            "row_loss": gpu.unwritten(1, n),
            "row_weight": gpu.unwritten(1, n),
            "delta": gpu.matrix(n, outputs, self.slopes),
            "output": gpu.matrix(n, outputs, O),
            "data_targets": gpu.data(y.reshape(self.data_rows, -1), "int64" if labels else None),
            "data_weights": gpu.data(w) if weighted else Absent(),
            "row_index": gpu.data(index, "int64"),
            "batch": gpu.batch(POSITION=5),
        }

    def check(self, near=FAR):
        gpu, law, tensors = self.gpu, self.law, self.tensors
        first, last, outputs = self.first, self.last, self.outputs
        where = layout(gpu.shape, near, 0, outputs)
        span = {"where": where, "near": near}
        if law.kernel != "cross_entropy_loss":
            tensors["settings"] = gpu.data(law.settings or 0.0)
        if law.law is not None:
            span |= {"law": law.law, "setting_count": len(law.settings)}
        before = gpu.call(law.kernel, tensors, (outputs,), first, last, **span)
        rows, dtype = slice(first, last), gpu.dtype
        delta = tensors["delta"]
        close(tensors["row_loss"].matrix[0, rows], self.expected[rows], dtype)
        assert np.array_equal(tensors["row_weight"].matrix[0, rows], self.weight[rows])
        close(delta.matrix[rows], self.change[rows], dtype)
        beyond = np.r_[0:first, last : self.n]
        for key in ("row_loss", "row_weight"):
            assert not tensors[key].changed(before[key])[:, beyond].any()
        assert not delta.changed(before["delta"])[beyond].any()
        assert delta.padding_is_zero()
        if near[1]:
            found = gpu.left_near(where, last - first, delta.padded)
            assert np.array_equal(found[:, :outputs], delta.matrix[rows])
            assert not found[:, outputs:].any()


@dtypes
@pytest.mark.parametrize("weighted", [False, True])
@every_loss
def test_every_loss(loss, weighted, dtype):
    LossProblem(loss, 3, weighted, dtype).check()


@dtypes
@pytest.mark.parametrize("near", [FAR, OUT], ids=["far", "near"])
@pytest.mark.parametrize("outputs", [1, 2, 7, 17, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("loss", ["huber", "cross_entropy", fb.CrossEntropy(0.2)], ids=str)
def test_losses_of_any_width(loss, outputs, near, dtype):
    """Rows of one lane, of less than a warp, of a warp, and longer; panels of 64 and of 32."""
    LossProblem(loss, outputs, True, dtype, (32, 32) if outputs % 2 else (16, 64)).check(near)


@dtypes
@pytest.mark.parametrize("loss", ["mse", "poisson", "cross_entropy", fb.CrossEntropy(0.2)], ids=str)
def test_a_loss_that_counts_nothing_may_be_infinite(loss, dtype):
    LossProblem(loss, 5, True, dtype, infinite=True).check(OUT)


@checked
@pytest.mark.parametrize("outputs", [1, 3, 35])
@pytest.mark.parametrize("loss", ["log_cosh", "cross_entropy", fb.CrossEntropy(0.2)], ids=str)
def test_losses_in_every_order(loss, outputs, options):
    LossProblem(loss, outputs, True, "float32", (32, 32), **options).check(OUT)


@dtypes
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_reduce_loss_in_segments(dtype, weight):
    gpu = Gpu(dtype, **CHECKED[1])
    losses, weights = np.array([1.0, 2.0, 4.0, np.nan]), np.full(4, weight)
    tensors = {
        "scalars": gpu.scalars(WEIGHTED_LOSS_SUM=10.0, WEIGHT_SUM=1.0),
        "row_loss": gpu.data(losses * (weight > 0)),
        "row_weight": gpu.data(weights),
        "batch": gpu.batch(ROWS=2, BEGINS=1),
    }
    gpu.call("reduce_loss", tensors)
    found = tensors["scalars"].matrix[0]
    assert found[Scalar.LOSS] == found[Scalar.GRADIENT_SCALE] == 0.0  # known at the batch's end
    tensors["row_loss"] = gpu.data(losses[2:] * (weight > 0))
    tensors["batch"] = gpu.batch(ROWS=1, ENDS=1)
    gpu.call("reduce_loss", tensors)
    found = tensors["scalars"].matrix[0]
    total = 7.0 if weight else 0.0
    assert found[Scalar.WEIGHTED_LOSS_SUM] == 10.0 + total
    assert found[Scalar.WEIGHT_SUM] == 1.0 + 3 * weight
    # A batch of zero weights has loss 0 and gradient 0, not NaN.
    mean = total / (3 * weight) if weight else 0.0
    assert found[Scalar.LOSS] == pytest.approx(mean, rel=1e-15, abs=0)
    assert found[Scalar.GRADIENT_SCALE] == (1 / (3 * weight) if weight else 0.0)
    # The next batch begins anew.
    tensors["batch"] = gpu.batch(ROWS=1, BEGINS=1, ENDS=1)
    gpu.call("reduce_loss", tensors)
    found = tensors["scalars"].matrix[0]
    assert found[Scalar.BATCH_LOSS] == (4.0 if weight else 0.0)
    assert found[Scalar.BATCH_WEIGHT] == weight


@dtypes
@pytest.mark.parametrize("rows", [1, 31, 33, 256, 257, 600])
def test_reduce_loss_adds_every_row_once(rows, dtype):
    """In float64; rows beyond the segment hold NaN."""
    gpu = Gpu(dtype)
    rng = generator(8, rows)
    losses, weights = rng.normal(size=rows + 20), rng.uniform(size=rows + 20)
    losses[rows:] = weights[rows:] = np.nan
    tensors = {
        "scalars": gpu.scalars(),
        "row_loss": gpu.data(losses),
        "row_weight": gpu.data(weights),
        "batch": gpu.batch(ROWS=rows, BEGINS=1, ENDS=1),
    }
    gpu.call("reduce_loss", tensors)
    found = tensors["scalars"].matrix[0]
    for place, name in ((Scalar.WEIGHTED_LOSS_SUM, "row_loss"), (Scalar.WEIGHT_SUM, "row_weight")):
        exact = tensors[name].matrix[0, :rows].astype(float).sum()
        assert found[place] == pytest.approx(exact, rel=1e-14, abs=1e-14)
