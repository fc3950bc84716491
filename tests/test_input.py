"""Bad input gives one clear typed error and changes nothing; odd input that is right simply works."""

import re

import numpy as np
import pytest

import fastbp as fb

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)), RNG.normal(size=20)
LABELS = RNG.integers(0, 2, 20)
TARGETS = RNG.normal(size=(20, 2))


def broken(array, index, value):
    copy = np.array(array, dtype=float)
    copy[index] = value
    return copy


def train(X=X, y=TARGETS, **keywords):
    return X, y, {"epochs": 2, **keywords}


# fmt: off
BAD = {
    "empty X": (train(X=X[:0], y=TARGETS[:0]), ValueError, "X: expected at least one row"),
    "rows differ": (train(y=TARGETS[:19]), ValueError, r"y: expected as many rows as X \(20\); got 19"),
    "X 1-D": (train(X=X[:, 0]), ValueError, r"X: expected a 2-D array \(rows, 3\); got shape \(20,\)"),
    "X 3-D": (train(X=X[:, :, None]), ValueError, "X: expected a 2-D array"),
    "X columns": (train(X=X[:, :2]), ValueError, "X: expected 3 columns; got 2"),
    "X nan": (train(X=broken(X, (4, 1), np.nan)), ValueError, "X: .*nan at row 4, column 1"),
    "X inf": (train(X=broken(X, (7, 2), -np.inf)), ValueError, "X: .*-inf at row 7, column 2"),
    "X too large": (train(X=broken(X, (3, 0), 1e300)), ValueError, "float32 can hold; got 1e.300 at row 3"),
    "X objects": (train(X=X.astype(object)), TypeError, "X: expected real numbers; got dtype object"),
    "X complex": (train(X=X + 0j), TypeError, "X: expected real numbers; got dtype complex128"),
    "X strings": (train(X=X.astype(str)), TypeError, "X: expected real numbers"),
    "X ragged": (train(X=[[1, 2, 3], [4, 5]]), ValueError, "X: expected an array of numbers"),
    "X None": (train(X=None), TypeError, "X: expected real numbers"),
    "y columns": (train(y=RNG.normal(size=(20, 3))), ValueError, r"y: expected shape \(20, 2\)"),
    "y 1-D": (train(y=Y), ValueError, r"y: expected shape \(20, 2\)"),
    "y nan": (train(y=broken(TARGETS, (5, 1), np.nan)), ValueError, "y: .*nan at row 5, column 1"),
    "y scalar": (train(y=1.0), ValueError, "y: expected as many rows as X"),
    "y complex": (train(y=TARGETS * 1j), TypeError, "y: expected real numbers"),
    "labels high": (train(y=LABELS + 1, loss="cross_entropy"), ValueError, "y: expected labels from 0 to 1; got 2 at row"),
    "labels low": (train(y=LABELS - 1, loss="cross_entropy"), ValueError, "y: expected labels from 0 to 1; got -1 at row"),
    "labels fractional": (train(y=broken(LABELS, 6, 0.5), loss="cross_entropy"), ValueError, "y: expected integer labels; got 0.5 at row 6"),
    "labels nan": (train(y=broken(LABELS, 2, np.nan), loss="cross_entropy"), ValueError, "y: expected integer labels; got nan at row 2"),
    "labels one-hot": (train(y=np.eye(2)[LABELS], loss="cross_entropy"), ValueError, "one integer label a row"),
    "counts": (train(y=-np.abs(TARGETS), loss="poisson"), ValueError, "numbers of at least 0 for poisson"),
    "probabilities": (train(y=TARGETS + 5, loss="binary_cross_entropy"), ValueError, "numbers from 0 to 1"),
    "signs": (train(y=TARGETS, loss="hinge"), ValueError, "-1 or 1 for hinge"),
    "weights nan": (train(sample_weight=broken(Y**2, 3, np.nan)), ValueError, "sample_weight: .*nan at row 3"),
    "weights negative": (train(sample_weight=broken(Y**2, 3, -1)), ValueError, "sample_weight: .*negative one at row 3"),
    "weights rows": (train(sample_weight=np.ones(19)), ValueError, "sample_weight: expected as many rows"),
    "weights 2-D": (train(sample_weight=np.ones((20, 1))), ValueError, r"sample_weight: expected shape \(20,\)"),
    "weights zero": (train(sample_weight=np.zeros(20)), ValueError, "sample_weight: expected a weight above 0"),
    "batch_size 0": (train(batch_size=0), ValueError, "batch_size: expected an integer of at least 1; got 0"),
    "batch_size float": (train(batch_size=2.5), TypeError, "batch_size: expected an integer .* float 2.5"),
    "epochs 0": (train(epochs=0), ValueError, "epochs: expected an integer of at least 1; got 0"),
    "epochs bool": (train(epochs=True), TypeError, "epochs: expected an integer"),
    "seed": (train(seed=-1), ValueError, "seed: expected an integer of at least 0"),
    "patience": (train(patience=0), ValueError, "patience: expected an integer of at least 1"),
    "threads 0": (train(threads=0), ValueError, "threads: expected an integer of at least 1"),
    "threads many": (train(threads=10**6), ValueError, "threads: expected at most"),
    "device": (train(device="tpu"), ValueError, "device: expected auto, cpu, cuda or cuda:N; got 'tpu'"),
    "device type": (train(device=0), TypeError, "device: expected a string"),
    "cuda:99": (train(device="cuda:99"), fb.DeviceError, "cuda:99 is not available: .{20}"),
    "cuda:": (train(device="cuda:"), ValueError, "device: expected auto, cpu, cuda or cuda:N"),
    "loss": (train(loss="mes"), ValueError, "loss: expected one of binary_cross_entropy, .*; got 'mes'"),
    "loss type": (train(loss=3), TypeError, "loss: expected a name or a fastbp loss object; got int"),
    "optimizer": (train(optimizer="adamm"), ValueError, "optimizer: expected one of adadelta, .*adamm"),
    "schedule": (train(schedule="cosine"), ValueError, "schedule: expected one of constant, .*'cosine'"),
    "clip_norm": (train(clip_norm=0.0), ValueError, r"clip_norm: expected a finite number in \(0"),
    "clip_value": (train(clip_value=np.nan), ValueError, "clip_value: expected a finite number"),
    "l1": (train(l1=-0.1), ValueError, "l1: expected a finite number"),
    "l2": (train(l2="much"), TypeError, "l2: expected a number; got str"),
    "shuffle": (train(shuffle="yes"), TypeError, "shuffle: expected True or False; got str"),
    "standardize": (train(standardize=1), TypeError, "standardize: expected True or False; got int"),
    "progress": (train(progress="bar"), TypeError, "progress: expected True, False or None"),
    "callbacks": (train(callbacks=[3]), TypeError, r"callbacks\[0\]: expected a callable; got int"),
    "validation 0": (train(validation=0.0), ValueError, "validation: expected a finite number"),
    "validation 1": (train(validation=1.0), ValueError, "validation: expected a finite number"),
    "validation tiny": (train(validation=0.001), ValueError, "validation: .* at least one of 20 rows on either side"),
    "validation triple": (train(validation=(X,)), ValueError, r"validation: expected \(X, y\)"),
    "validation X": (train(validation=(X[:, :2], TARGETS)), ValueError, r"validation\[0\]: expected 3 columns"),
    "validation y": (train(validation=(X, TARGETS[:5])), ValueError, r"validation\[1\]: expected as many rows"),
    "validation type": (train(validation="some"), TypeError, "validation: expected a number; got str"),
}
# fmt: on


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_of_train(name):
    (data, targets, keywords), error, message = BAD[name]
    model = fb.Model(fb.mlp(3, 4, 2))
    before = model.parameters.copy()
    with pytest.raises(error, match=message):
        fb.train(model, data, targets, **keywords)
    assert np.array_equal(model.parameters, before)
    assert model.scaling is None


def test_training_on_classes_wants_two_outputs():
    with pytest.raises(ValueError, match="loss: cross_entropy needs a network with at least 2"):
        fb.train(fb.Model(fb.mlp(3, 1)), X, np.zeros(20, int), loss="cross_entropy")


def test_masked_values_callbacks_and_notes_are_refused_by_name(tmp_path):
    model = fb.Model(fb.mlp(3, 2))
    masked = np.ma.masked_greater(X, 0.5)
    with pytest.raises(ValueError, match="X: expected an array without masked values"):
        model.predict(masked)
    with pytest.raises(TypeError, match="callbacks: expected a sequence of callables"):
        fb.train(model, X, TARGETS, callbacks=print)
    model.metadata = {"a": np.float32(1)}
    with pytest.raises(TypeError, match="metadata: expected plain data that JSON can hold"):
        model.save(tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_float32_cannot_hold_are_refused_before_training():
    model = fb.Model(fb.mlp(3, 2))
    with pytest.raises(ValueError, match="y: expected numbers that float32 can hold"):
        fb.train(model, X, TARGETS * 1e40, standardize=True)
    assert model.scaling is None


def test_a_copy_of_a_model_is_independent():
    import copy

    model = fb.Model(fb.mlp(3, 2))
    before = model.predict(X)
    other = copy.copy(model)
    fb.train(other, X * 100, TARGETS, epochs=1, standardize=True)
    assert np.array_equal(model.predict(X), before)
    assert fb.Model(fb.mlp(3, 2), dtype=np.float64).dtype == "float64"


def test_train_wants_a_model():
    with pytest.raises(TypeError, match="model: expected a Model; got Network"):
        fb.train(fb.mlp(3, 1), X, Y)


def test_bad_arguments_of_a_model():
    model = fb.Model(fb.mlp(3, 1))
    for bad in (X[:, :2], X[0], X[:0], broken(X, (1, 1), np.nan)):
        with pytest.raises(ValueError, match="X: expected"):
            model.predict(bad)
    with pytest.raises(ValueError, match="y: expected as many rows"):
        model.loss(X, Y[:3])
    with pytest.raises(ValueError, match=r"v: expected shape \(20, 1\)"):
        model.vjp(X, np.ones((20, 2)))
    with pytest.raises(TypeError, match="out: expected a NumPy array"):
        model.predict(X, out=[0])
    with pytest.raises(TypeError, match="out: expected dtype float32; got float64"):
        model.predict(X, out=np.empty((20, 1)))
    with pytest.raises(ValueError, match="out: expected shape"):
        model.predict(X, out=np.empty((19, 1), "f4"))
    locked = np.empty((20, 1), "f4")
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        model.predict(X, out=locked)


# fmt: off
SPECIFICATIONS = {
    "no layers": (lambda: fb.Network(3, []), ValueError, "layers: expected at least one layer"),
    "no sizes": (lambda: fb.mlp(3), ValueError, "sizes: expected the units of at least one layer"),
    "zero inputs": (lambda: fb.mlp(0, 1), ValueError, "inputs: expected an integer of at least 1"),
    "zero units": (lambda: fb.mlp(3, 0, 1), ValueError, "units: expected an integer of at least 1; got 0"),
    "float units": (lambda: fb.Dense(2.0), TypeError, "units: expected an integer"),
    "one layer": (lambda: fb.Network(3, fb.Dense(2)), TypeError, "layers: expected a sequence"),
    "no sequence": (lambda: fb.Network(3, 5), TypeError, "layers: expected a sequence of layers; got int"),
    "no layer": (lambda: fb.Network(3, ["relu"]), TypeError, r"layers\[0\]: expected a fastbp layer"),
    "activation": (lambda: fb.Dense(2, "rleu"), ValueError, "activation: expected one of elu, .*'rleu'"),
    "initializer": (lambda: fb.Dense(2, initializer="he"), ValueError, "initializer: expected one of glorot_normal"),
    "dtype": (lambda: fb.Model(fb.mlp(2, 1), dtype="float16"), ValueError, "dtype: expected 'float32' or 'float64'"),
    "network": (lambda: fb.Model([2, 1]), TypeError, "network: expected a Network; got list"),
    "model seed": (lambda: fb.Model(fb.mlp(2, 1), seed=-2), ValueError, "seed: expected an integer of at least 0"),
    "rate 0": (lambda: fb.Adam(0.0), ValueError, "learning_rate: expected a finite number in"),
    "rate nan": (lambda: fb.SGD(float("nan")), ValueError, "learning_rate: expected a finite number"),
    "rate array": (lambda: fb.Adam(np.array([0.1, 0.2])), TypeError, "learning_rate: expected a number; got ndarray"),
    "units array": (lambda: fb.Dense(np.array([5])), TypeError, "units: expected an integer"),
    "initializer type": (lambda: fb.Dense(3, "relu", ["x"]), ValueError, "initializer: expected one of"),
    "rate str": (lambda: fb.SGD("fast"), TypeError, "learning_rate: expected a number; got str"),
    "beta": (lambda: fb.Adam(beta1=1.0), ValueError, r"beta1: expected a finite number in \[0, 1\); got 1.0"),
    "nesterov": (lambda: fb.SGD(nesterov=True), ValueError, "nesterov: expected a momentum above 0"),
    "amsgrad": (lambda: fb.Adam(amsgrad=1), TypeError, "amsgrad: expected True or False"),
    "rprop": (lambda: fb.Rprop(minimum=2, maximum=1), ValueError, "minimum: expected at most maximum"),
    "huber": (lambda: fb.Huber(0.0), ValueError, "delta: expected a finite number"),
    "quantile": (lambda: fb.Quantile(1.0), ValueError, r"quantile: expected a finite number in \(0, 1\)"),
    "step decay": (lambda: fb.StepDecay(every=0), ValueError, "every: expected a finite number"),
    "one cycle": (lambda: fb.OneCycle(warmup=1.0), ValueError, "warmup: expected a finite number"),
}
# fmt: on


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_bad_specifications(name):
    make, error, message = SPECIFICATIONS[name]
    with pytest.raises(error, match=message):
        make()


def test_unknown_attributes_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Adma'"):
        _ = fb.Adma


def memory_mapped(array, tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def strided(array):
    wide = np.zeros((2 * array.shape[0], 3 * array.shape[1]), array.dtype)
    wide[::2, ::3] = array
    return wide[::2, ::3]


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": strided,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "read_only": read_only,
    "list": lambda a: a.tolist(),
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
}


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "int64", "int8", "uint16", "bool"]
)
@pytest.mark.parametrize("layout", [*LAYOUTS, "memory-mapped"])
def test_any_layout_and_dtype_gives_the_result_of_a_plain_copy(layout, dtype, tmp_path):
    values = (np.abs(RNG.normal(size=(20, 3))) * 3).astype(dtype)
    targets = values[:, :1].astype(float) * 2.0
    odd = memory_mapped(values, tmp_path) if layout == "memory-mapped" else LAYOUTS[layout](values)
    plain = np.array(values, dtype=np.float64)
    results = []
    for inputs in (odd, plain):
        model = fb.Model(fb.mlp(3, 5, 1), "float32")
        fb.train(model, inputs, targets, epochs=3, batch_size=7)
        results.append((model.parameters.copy(), model.predict(inputs), model.jacobian(inputs)))
    for found, expected in zip(*results, strict=True):
        assert np.array_equal(found, expected)


def test_odd_targets_weights_and_outputs(small):
    X, y = small
    model = fb.Model(fb.mlp(3, 5, 1), "float64")
    expected = model.loss_and_gradient(X, y, sample_weight=np.arange(1.0, 51))
    column = np.asfortranarray(np.column_stack([y, y]))[:, :1]
    found = model.loss_and_gradient(X, column, sample_weight=list(range(1, 51)))
    assert found[0] == expected[0]
    assert np.array_equal(found[1], expected[1])
    out = np.full((50, 3), 9.0)
    assert model.predict(X, out=out[:, 1:2]).base is out
    assert np.array_equal(out[:, 1:2], model.predict(X))
    assert (out[:, [0, 2]] == 9.0).all()
    labels = model.loss(X, np.zeros(50, np.uint8), "cross_entropy")
    assert labels == model.loss(X, np.zeros((50, 1), np.float16), "cross_entropy")


def test_train_copies_no_user_array_and_changes_none(small):
    X, y = (np.array(a, dtype="float32") for a in small)
    before = X.copy(), y.copy()
    fb.train(fb.Model(fb.mlp(3, 4, 1)), X, y, epochs=1)
    assert np.array_equal(X, before[0])
    assert np.array_equal(y, before[1])


def test_devices_says_why_not():
    cpu, *gpus = fb.devices()
    assert cpu.available
    assert re.search(r"\d+ threads?, Numba", str(cpu))
    if not all(gpu.available for gpu in gpus):
        (cuda,) = gpus
        assert re.search("not installed|driver|no .*device|capability", cuda.description)
        with pytest.raises(fb.DeviceError, match=re.escape(cuda.description)):
            fb.Model(fb.mlp(2, 1)).predict(np.ones((3, 2)), device="cuda")


def test_predicting_into_an_array_that_overlaps_the_inputs():
    buffer = RNG.normal(size=(101, 2)).astype("float32")
    model = fb.Model(fb.mlp(2, 8, 2, activation="tanh"))
    expected = model.predict(buffer[:-1].copy())
    model.predict(buffer[:-1], out=buffer[1:])
    assert np.array_equal(buffer[1:], expected)


def test_large_seeds_are_all_different():
    from fastbp.datasets import split_rows
    from fastbp.initializers import initial_values

    seeds = [2**62, 2**62 + 1, 2**63 + 2**62, 2**63 + 2**62 + 1]
    assert len({split_rows(100, 0.5, seed)[0].tobytes() for seed in seeds}) == 4
    assert len({initial_values("he_normal", seed, 0, 5, 5).tobytes() for seed in seeds}) == 4
