"""Few rows are predicted on a path of their own: the same bits, the same refusals."""

import numpy as np
import pytest

import fastbp as fb
from fastbp.engines import FEW_ROWS


def refuse(*_):
    raise AssertionError("the ordinary path was taken")


@pytest.fixture(params=["float32", "float64"])
def model(request):
    return fb.Model(fb.mlp(5, 40, 33, 3, activation="gelu"), dtype=request.param, seed=3)


@pytest.fixture
def X(model):
    return np.random.default_rng(0).normal(size=(70, 5)).astype(model.dtype)


@pytest.mark.parametrize("standardize", [False, True])
def test_the_same_bits_as_in_a_large_batch(model, X, standardize, monkeypatch):
    fb.train(model, X, 3 * X[:, :3] + 1, epochs=2, standardize=standardize)
    whole = model.predict(X)
    with monkeypatch.context() as patch:
        patch.setattr(type(model._engines), "run", refuse)
        for first, last in [(0, 1), (7, 8), (3, 10), (0, FEW_ROWS)]:
            found = model.predict(X[first:last].copy())
            assert found.dtype == whole.dtype
            assert np.array_equal(found, whole[first:last])


def test_changed_parameters_and_scalings_are_seen(model, X):
    few = X[:2].copy()
    before = model.predict(few)
    model.weights["2.bias"][1] += 1
    assert np.array_equal(model.predict(few), model.predict(X)[:2])
    assert not np.array_equal(model.predict(few), before)
    model.parameters[:] = 0
    assert not model.predict(few).any()
    model.parameters[:] = np.nan
    assert np.isnan(model.predict(few)).all()
    fresh = fb.Model(model.network, dtype=model.dtype)
    model.parameters = fresh.parameters
    fb.train(model, X, X[:, :3], epochs=1, standardize=True)
    assert np.array_equal(model.predict(few), model.predict(X)[:2])
    model.scaling = None
    assert np.array_equal(model.predict(few), model.predict(X)[:2])


def test_what_must_be_converted_takes_the_ordinary_path(model, X):
    few = X[:4].copy()
    expected = model.predict(few)
    read_only = few.copy()
    read_only.flags.writeable = False
    other = "float64" if model.dtype == "float32" else "float32"
    for same in (few.tolist(), np.asfortranarray(few), X[:8:2][:2], read_only, few.astype(other)):
        found = model.predict(same)
        if np.shape(same)[0] == 4 and getattr(same, "dtype", None) != np.dtype(other):
            assert np.array_equal(found, expected)
    assert np.array_equal(model.predict(X[:8:2]), model.predict(X[:8:2].copy()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(model, X, bad):
    few = X[:3].copy()
    few[1, 4] = bad
    with pytest.raises(ValueError, match="row 1, column 4"):
        model.predict(few)


def test_wrong_shapes_are_refused(model, X):
    for wrong in (X[0], X[:1, :4].copy(), X[:0], np.array(1.0), np.array([["a"] * 5])):
        with pytest.raises((TypeError, ValueError), match="X: expected"):
            model.predict(wrong)


def test_results_are_arrays_of_their_own(model, X):
    first = model.predict(X[:1].copy())
    kept = first.copy()
    model.predict(X[1:2].copy())
    assert np.array_equal(first, kept)
