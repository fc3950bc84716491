"""Class weights: products with sample weights to the bit, exact gradients, one clear error."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, scaled_error

import fastbp as fb
from fastbp.class_weights import class_indices, resolve_class_weights
from fastbp.datasets import split_rows
from fastbp.losses import Loss

RNG = np.random.default_rng(11)
X = RNG.normal(size=(60, 3))
LABELS = np.minimum(RNG.integers(0, 6, 60), 2)  # of three classes, the last the most common
W = RNG.uniform(0.0, 3.0, 60)
BY_CLASS = np.array([0.3, 5.0, 1.7])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def trained(y=LABELS, dtype="float32", network=None, X=X, **keywords):
    """A short training; its model and its result."""
    model = fb.Model(network or fb.mlp(3, 5, 3, activation="tanh"), dtype=dtype, seed=2)
    keywords = {"loss": "cross_entropy", "epochs": 3, "batch_size": 16} | keywords
    return model, fb.train(model, X, y, **keywords)


def same(found, expected):
    """Whether parameters and losses are the same to the bit."""
    (model, result), (wanted, whole) = found, expected
    losses = result.history["loss"], whole.history["loss"]
    return np.array_equal(*losses) and np.array_equal(model.parameters, wanted.parameters)


@dtypes
@pytest.mark.parametrize("standardize", [False, True])
def test_it_is_the_product_as_sample_weight(standardize, dtype):
    for own in (None, W):
        product = BY_CLASS[LABELS] * (1.0 if own is None else own)
        keywords = {"dtype": dtype, "standardize": standardize}
        expected = trained(sample_weight=product, **keywords)
        assert not same(trained(sample_weight=own, **keywords), expected)
        for given_as in (
            BY_CLASS,
            BY_CLASS.tolist(),
            {0: 0.3, 1: 5, 2: 1.7},
            {np.int64(1): np.float64(5.0), 2.0: 1.7, False: 0.3},
        ):
            found = trained(sample_weight=own, class_weight=given_as, **keywords)
            assert same(found, expected)
            if standardize:
                means = [model.scaling.input_mean for model, _ in (found, expected)]
                assert np.array_equal(*means)


@pytest.mark.parametrize(
    ("loss", "low"), [("binary_cross_entropy", 0), (fb.BinaryCrossEntropy(0.1), 0), ("hinge", -1)]
)
def test_two_classes_of_one_output(loss, low):
    y = np.where(LABELS == 1, 1, low)
    keywords = {"y": y, "network": fb.mlp(3, 4, 1), "loss": loss, "sample_weight": W}
    expected = trained(**{**keywords, "sample_weight": np.where(y == 1, 4.0, 0.5) * W})
    for given_as in ([0.5, 4.0], {low: 0.5, 1: 4.0}):
        assert same(trained(class_weight=given_as, **keywords), expected)
    counts = (y == 1).sum(), (y != 1).sum()
    product = np.where(y == 1, 60 / (2 * counts[0]), 60 / (2 * counts[1])) * W
    expected = trained(**{**keywords, "sample_weight": product})
    assert same(trained(class_weight="balanced", **keywords), expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "hinge"])
def test_a_step_follows_the_gradient_of_the_weighted_loss(loss):
    """From the reference, in float64: one step of plain descent on one batch of all rows."""
    case = Case((3, 5, 3 if loss == "cross_entropy" else 1), ("tanh", "identity"), loss, 40, 3)
    inputs, y, own = case.inputs(), case.targets(), case.sample_weight()
    if loss == "binary_cross_entropy":
        y = np.round(y)
    classes, indices = class_indices(y, Loss.resolve(loss), case.sizes[-1])
    by_class = np.linspace(0.25, 3.0, len(classes))
    model = case.model("float64")
    before = model.parameters.copy()
    weights = dict(zip(classes, by_class, strict=True))
    result = fb.train(
        model, inputs, y, loss=loss, optimizer=fb.SGD(0.5), epochs=1, batch_size=40,
        sample_weight=own, class_weight=weights,
    )  # fmt: skip
    value, pairs, _ = reference.backpropagation(
        case.weights(), case.activations, inputs, y, loss, by_class[indices] * own
    )
    gradient = np.concatenate([array.ravel() for pair in pairs for array in pair])
    assert scaled_error(result.loss, value) < 1e-12
    assert scaled_error((before - model.parameters) / 0.5, gradient) < 1e-12


def test_balanced_counts_the_training_part_alone():
    train_rows, held_rows = split_rows(60, 0.4, 5)
    counts = np.bincount(LABELS[train_rows], minlength=3)
    assert not np.allclose(counts / 36, np.bincount(LABELS) / 60)
    expected = 36 / (3 * counts)
    # Each class weighs as much as any other.
    assert np.allclose(np.bincount(LABELS[train_rows], expected[LABELS[train_rows]]), 12)
    part = {"X": X[train_rows], "y": LABELS[train_rows], "seed": 5, "standardize": True}
    wanted = trained(
        sample_weight=(expected[LABELS] * W)[train_rows],
        validation=(X[held_rows], LABELS[held_rows], W[held_rows]),
        **part,
    )
    keywords = {"validation": 0.4, "seed": 5, "standardize": True, "sample_weight": W}
    found = trained(class_weight="balanced", **keywords)
    assert same(found, wanted)
    # What is held out has the weights of its rows and none of classes.
    model, result = found
    assert result.validation_loss == wanted[1].validation_loss
    loss = model.loss(X[held_rows], LABELS[held_rows], "cross_entropy", W[held_rows])
    assert result.validation_loss == pytest.approx(loss, rel=1e-6)


def test_given_validation_data_has_no_class_weights():
    model, result = trained(class_weight=BY_CLASS, validation=(X[:20], LABELS[:20]))
    plain = model.loss(X[:20], LABELS[:20], "cross_entropy")
    assert result.validation_loss == pytest.approx(plain, rel=1e-6)
    weighted = model.loss(X[:20], LABELS[:20], "cross_entropy", BY_CLASS[LABELS[:20]])
    assert abs(plain - weighted) > 1e-3


def test_classes_without_rows():
    y = np.where(LABELS == 1, 2, LABELS)
    counts = np.bincount(y)
    expected = trained(y, sample_weight=(60 / (3 * np.maximum(counts, 1)))[y])
    assert same(trained(y, class_weight="balanced"), expected)
    for unused in (0.0, 1e300):  # whatever it is: no row has it
        assert same(trained(y, class_weight={0: 2, 1: unused}), trained(y, class_weight={0: 2}))


@given(
    weights=st.lists(st.just(0.0) | st.floats(1e-3, 1e6), min_size=3, max_size=3).filter(any),
    power=st.integers(-900, 900),
)
@settings(max_examples=50)
def test_only_ratios_count(weights, power):
    """A power of two times all weights changes no bit, at the ends of the range neither."""
    rows = np.array([0, 1, 2, 2])
    found = resolve_class_weights(np.array(weights), range(3), rows)
    scaled = np.array(weights) * 2.0**power
    assert np.array_equal(resolve_class_weights(scaled, range(3), rows), found)
    assert 0.5 <= found.max() < 1.0
    ratios = np.array(weights) / max(weights)
    assert np.allclose(found / found.max(), ratios, rtol=1e-15, atol=0)


@given(
    times=st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any),
    rows=st.integers(6, 40),
    power=st.integers(-30, 30),
)
@settings(max_examples=15)
def test_a_class_of_weight_two_has_its_rows_twice(times, rows, power):
    """One step on all rows, in float64; doubling all weights changes no bit of it."""
    inputs, y = X[:rows], LABELS[:rows]
    repeats = np.array(times)[y]
    if not repeats.any():
        return
    keywords = {"dtype": "float64", "epochs": 2, "batch_size": 1000, "optimizer": fb.SGD(0.3)}
    keywords |= {"standardize": True}
    found = trained(y, X=inputs, class_weight=times, **keywords)
    twice = np.repeat(np.arange(rows), repeats)
    expected = trained(y[twice], X=inputs[twice], **keywords)
    assert scaled_error(found[0].parameters, expected[0].parameters) < 1e-11
    doubled = trained(y, X=inputs, class_weight=np.array(times) * 2.0**power, **keywords)
    assert same(doubled, found)


def test_weights_at_the_ends_of_the_range():
    """Their product with sample weights is taken after both are scaled."""
    expected = trained(sample_weight=BY_CLASS[LABELS] * W)
    for scale, own in ((1e300, 2.0**1000), (2.0**-1000, 2.0**-1000), (2.0**-1074 * 8, 1.0)):
        by_class = BY_CLASS * 2.0 ** round(np.log2(scale))
        if scale < 1e-320:  # subnormal numbers have few digits
            by_class = np.array([1.0, 16.0, 5.0]) * scale
            expected = trained(sample_weight=np.array([1.0, 16.0, 5.0])[LABELS] * W)
        assert same(trained(class_weight=by_class, sample_weight=W * own), expected)


HALF = np.where(LABELS == 1, 0.5, 0.0)
BINARY = {"loss": "binary_cross_entropy", "network": fb.mlp(3, 4, 1)}
# fmt: off
BAD = {
    "name": ({"class_weight": "even"}, ValueError, "class_weight: expected 'balanced', a mapping .*; got 'even'"),
    "number": ({"class_weight": 2.0}, ValueError, r"class_weight: expected a weight for each class, shape \(3,\); got shape \(\)"),
    "too few": ({"class_weight": [1, 2]}, ValueError, r"class_weight: .*shape \(3,\); got shape \(2,\)"),
    "for each row": ({"class_weight": W}, ValueError, r"class_weight: .*shape \(3,\); got shape \(60,\)"),
    "ragged": ({"class_weight": [[1], [1, 2], 3]}, ValueError, "class_weight: expected an array of numbers"),
    "texts": ({"class_weight": ["1", "2", "3"]}, TypeError, "class_weight: expected real numbers"),
    "set": ({"class_weight": {0, 1, 2}}, TypeError, "class_weight: expected real numbers"),
    "negative": ({"class_weight": [1, -1, 1]}, ValueError, "class_weight: expected finite numbers of at least 0; got -1 for the class 1"),
    "nan": ({"class_weight": [1, 1, np.nan]}, ValueError, "class_weight: .*got nan for the class 2"),
    "infinity": ({"class_weight": [np.inf, 1, 1]}, ValueError, "class_weight: .*got inf for the class 0"),
    "zeros": ({"class_weight": np.zeros(3)}, ValueError, "class_weight: expected a weight above 0 somewhere; got zeros only"),
    "zeros in a mapping": ({"class_weight": {0: 0, 1: 0, 2: 0}}, ValueError, "class_weight: expected a weight above 0"),
    "zeros of the rows": ({"y": LABELS * 0, "class_weight": {0: 0}}, ValueError, "class_weight: expected a weight above 0 for a training row; got zeros only$"),
    "zeros in the product": ({"sample_weight": LABELS == 1, "class_weight": {1: 0}}, ValueError, "class_weight: .*got zeros only times sample_weight"),
    "unknown label": ({"class_weight": {3: 1}}, ValueError, "class_weight: expected labels from 0 to 2; got 3"),
    "negative label": ({"class_weight": {-1: 1}}, ValueError, "class_weight: expected labels from 0 to 2; got -1"),
    "label between": ({"class_weight": {0.5: 1}}, ValueError, "class_weight: expected labels from 0 to 2; got 0.5"),
    "label nan": ({"class_weight": {np.nan: 1}}, ValueError, "class_weight: expected labels from 0 to 2; got nan"),
    "label of text": ({"class_weight": {"0": 1}}, TypeError, "class_weight: expected labels as keys; got '0'"),
    "weight nan": ({"class_weight": {1: np.nan}}, ValueError, r"class_weight\[1\]: expected a finite number in \[0, inf\); got nan"),
    "weight negative": ({"class_weight": {1: -2}}, ValueError, r"class_weight\[1\]: expected a finite number in \[0"),
    "weight of text": ({"class_weight": {1: "2"}}, TypeError, r"class_weight\[1\]: expected a number; got str"),
    "regression": ({"y": W, "loss": "mse", "network": fb.mlp(3, 4, 1), "class_weight": "balanced"}, ValueError, "class_weight: expected a loss of classes; got mse"),
    "counts": ({"y": LABELS, "loss": "poisson", "network": fb.mlp(3, 4, 1), "class_weight": "balanced"}, ValueError, "class_weight: expected a loss of classes; got poisson"),
    "shares": ({"y": HALF, "class_weight": "balanced", **BINARY}, ValueError, f"class_weight: expected 0 and 1 as targets; got 0.5 at row {int(np.argmax(HALF))}"),
    "shares held out": ({"y": HALF, "class_weight": "balanced", "validation": 0.9, **BINARY}, ValueError, "class_weight: expected 0 and 1 as targets"),
    "binary label": ({"y": LABELS == 1, "class_weight": {2: 1}, **BINARY}, ValueError, "class_weight: expected labels 0 and 1; got 2"),
    "hinge label": ({"y": np.where(LABELS == 1, 1, -1), "class_weight": {0: 1}, **BINARY, "loss": "hinge"}, ValueError, "class_weight: expected labels -1 and 1; got 0"),
    "several outputs": ({"y": np.eye(3)[LABELS], "class_weight": "balanced", "loss": "binary_cross_entropy"}, ValueError, "class_weight: expected one output with binary_cross_entropy, .*; got 3"),
}
# fmt: on


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_changes_nothing(name):
    keywords, kind, message = BAD[name]
    keywords = {"y": LABELS, "loss": "cross_entropy", "standardize": True, **keywords}
    model = fb.Model(keywords.pop("network", fb.mlp(3, 5, 3)))
    before = model.parameters.copy()
    with pytest.raises(kind, match=message):
        fb.train(model, X, **keywords)
    assert np.array_equal(model.parameters, before)
    assert model.scaling is None


def test_a_run_goes_on_with_the_same_class_weights_alone(tmp_path):
    keywords = {"standardize": True, "validation": 0.2, "sample_weight": W}
    expected = trained(epochs=6, class_weight="balanced", **keywords)
    keywords |= {"checkpoint": tmp_path / "run", "resume": True}
    trained(epochs=3, class_weight="balanced", **keywords)
    for other in (None, {0: 3}, BY_CLASS):
        with pytest.raises(fb.CheckpointError, match=r"resume: .*another sample_weight or class_w"):
            trained(epochs=6, class_weight=other, **keywords)
    found = trained(epochs=6, class_weight="balanced", **keywords)
    assert same(found, expected)
    assert found[1].validation_loss == expected[1].validation_loss
