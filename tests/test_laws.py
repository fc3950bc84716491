"""Laws as plain Python, their precision, and what they do at the edges."""

import math

import mpmath
import numpy as np
import pytest
import raising_laws
import reference
from numba import float32, float64, njit, types

import fastbp as fb
from fastbp import elementary
from fastbp.activations import Activation
from fastbp.backends.cpu import compiler
from fastbp.backends.cpu.compiler import compilable, compile_object
from fastbp.backends.cpu.machine_code import Function
from fastbp.backends.cuda.functions import Functions
from fastbp.losses import Loss
from fastbp.optimizers import Optimizer
from fastbp.registry import Named

GRID = np.array([-20.0, -3.1, -1.7, -0.9, -0.3, 0.2, 0.8, 1.9, 3.3, 6.7, 20.0])


def compiled(law, *signature):
    function = njit(signature, error_model="numpy")(getattr(compilable(law), "py_func", law))
    return function, function.overloads[signature]


@pytest.mark.parametrize("name", Activation.names())
def test_activation_laws_run_in_the_interpreter(name):
    activation = Activation.resolve(name)
    for z in GRID:
        value, slope = activation.law(float(z), activation.settings)
        assert value == pytest.approx(float(reference.ACTIVATIONS[name](z)), rel=1e-12, abs=1e-12)
        expected = float(reference.derivative(reference.ACTIVATIONS[name], z))
        assert slope == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("name", [name for name in Loss.names() if Loss.registry[name].law])
def test_loss_laws_run_in_the_interpreter(name):
    loss = Loss.resolve(name)

    def function(o):
        return reference.ELEMENTWISE_LOSSES[name](o, 1.0)

    for o in GRID[2:-2]:
        value, slope = loss.law(float(o), 1.0, loss.settings)
        assert value == pytest.approx(float(function(o)), rel=1e-12)
        assert slope == pytest.approx(float(reference.derivative(function, o)))


def tuple_of(kind, count):
    return types.UniTuple(kind, count)


def laws_of_scalars():
    for name in Activation.names():
        law = Activation.resolve(name)
        yield name, law.law, lambda k, n=len(law.settings): (k, tuple_of(k, n))
    for name in Loss.names():
        law = Loss.resolve(name)
        if law.law:
            yield name, law.law, lambda k, n=len(law.settings): (k, k, tuple_of(k, n))
    for name in Optimizer.names():
        law = Optimizer.resolve(name)
        s, c = len(law.slots), law.coefficient_count
        yield name, law.update, lambda k, s=s, c=c: (k, k, tuple_of(k, s), tuple_of(k, c), k)


LAWS = {name: (law, signature) for name, law, signature in laws_of_scalars()}


@pytest.mark.parametrize("name", LAWS)
def test_laws_keep_the_precision_of_their_arguments(name):
    """A float32 law computes in float32 throughout: no float64 in its machine code."""
    law, signature = LAWS[name]
    for kind in (float32, float64):
        _, overload = compiled(law, *signature(kind))
        found = overload.signature.return_type
        parts = [part for item in found for part in (item if hasattr(item, "types") else [item])]
        assert all(part == kind for part in parts), found
    single, _ = compiled(law, *signature(float32))
    text = next(iter(single.inspect_llvm().values()))
    # The wrappers for the interpreter unbox Python floats, which are double.
    functions = [part for part in text.split("\ndefine ")[1:] if "cpython" not in part[:200]]
    assert functions
    assert [line for part in functions for line in part.splitlines() if "double" in line] == []


@pytest.mark.parametrize("name", Activation.names())
def test_nan_never_becomes_a_number(name):
    activation = Activation.resolve(name)
    value, _ = activation.law(math.nan, activation.settings)
    assert math.isnan(value)
    model = fb.Model(fb.Network(1, [fb.Dense(1, name)]), dtype="float64")
    model.parameters = [1.0, math.nan]
    assert np.isnan(model.predict([[1.0]])).all()


@pytest.mark.parametrize("name", [name for name in Loss.names() if Loss.registry[name].law])
def test_a_nan_output_makes_a_nan_loss_and_derivative(name):
    loss = Loss.resolve(name)
    value, slope = loss.law(math.nan, 1.0, loss.settings)
    assert math.isnan(value) or (name in {"quantile", "hinge"} and math.isnan(slope + value))


# Derivatives at the kinks, as PyTorch 2.13 gives them (hinge: of relu(1 - y o)).
KINKS = {
    ("relu", 0.0): 0.0,
    ("leaky_relu", 0.0): 0.01,
    ("elu", 0.0): 1.0,
    ("selu", 0.0): 1.7580993408473766,
    ("hardtanh", -1.0): 0.0,
    ("hardtanh", 1.0): 0.0,
    ("relu6", 0.0): 0.0,
    ("relu6", 6.0): 0.0,
    ("hardswish", -3.0): 0.0,
    ("hardswish", 3.0): 1.0,
    ("softsign", 0.0): 1.0,
    ("softplus", 0.0): 0.5,
}


@pytest.mark.parametrize(("name", "z"), KINKS)
def test_derivatives_at_kinks_are_those_of_pytorch(name, z):
    activation = Activation.resolve(name)
    _, slope = activation.law(z, activation.settings)
    assert slope == pytest.approx(KINKS[name, z], rel=1e-15)
    model = fb.Model(fb.Network(1, [fb.Dense(1, name)]), dtype="float64")
    model.parameters = [1.0, 0.0]
    assert model.jacobian([[z]])[0, 0, 0] == pytest.approx(KINKS[name, z], rel=1e-15)


def test_derivatives_of_losses_at_kinks():
    assert fb.Mae().law(1.0, 1.0, ()) == (0.0, 0.0)
    assert fb.Hinge().law(1.0, 1.0, ()) == (0.0, 0.0)
    assert fb.Quantile(0.9).law(1.0, 1.0, (0.9,)) == (0.0, pytest.approx(-0.4))
    assert fb.Huber(1.0).law(2.0, 1.0, (1.0,)) == (0.5, 1.0)


def test_a_user_class_cannot_take_a_builtin_name():
    with pytest.raises(ValueError, match="activation: the name 'relu' is taken by fastbp's own"):

        class Relu(fb.Activation):
            pass

    assert Activation.resolve("relu") == fb.Relu()


def test_large_arguments_stay_finite():
    for name in ("sigmoid", "tanh", "softplus", "mish", "silu", "gelu_tanh", "elu", "log_cosh"):
        if name == "log_cosh":
            value, slope = fb.LogCosh().law(1e4, -1e4, ())
        else:
            law = Activation.resolve(name)
            value, slope = law.law(1e3, law.settings)
            assert all(map(math.isfinite, law.law(-1e3, law.settings)))
        assert math.isfinite(value)
        assert math.isfinite(slope)
    assert all(map(math.isfinite, fb.BinaryCrossEntropy().law(-1e4, 1.0, ())))
    assert fb.GeluTanh().law(np.float32(1e20), ()) == (np.float32(1e20), 1.0)
    assert fb.GeluTanh().law(np.float32(-1e20), ()) == (0.0, 0.0)


@pytest.mark.parametrize("family", [Activation, Loss, Optimizer])
def test_registry(family):
    assert issubclass(family, Named)
    for name in family.names():
        member = family.resolve(name)
        assert member.name == name
        assert family.from_description(member.describe()) == member
        assert hash(member) == hash(family.resolve(name))
    with pytest.raises(ValueError, match=f"expected one of {family.names()[0]}"):
        family.resolve("no_such_thing")
    with pytest.raises(TypeError, match=family.family):
        family.resolve(3)


def test_the_promised_names():
    assert Activation.names() == sorted(
        "identity relu leaky_relu elu selu gelu gelu_tanh silu mish softplus softsign tanh sigmoid "
        "hardtanh relu6 hardswish sine".split()
    )
    assert Loss.names() == sorted(
        "mse mae huber log_cosh quantile poisson binary_cross_entropy cross_entropy hinge".split()
    )
    assert Optimizer.names() == sorted(
        "sgd rmsprop adagrad adadelta rprop adam adamw adamax nadam radam lion".split()
    )


def test_a_new_activation_loss_and_optimizer_are_one_class_each(monkeypatch):
    """In user code, with no edit anywhere else: they train, and the gradient is exact."""
    for family in (Activation, Loss, Optimizer):
        monkeypatch.setattr(family, "registry", dict(family.registry))
    import user_laws

    network = fb.mlp(2, 4, 1, activation=user_laws.Cube(0.5))
    model = fb.Model(network, dtype="float64", seed=1)
    X = np.random.default_rng(0).normal(size=(20, 2))
    y = X[:, 0] * 0.5
    _, gradient = model.loss_and_gradient(X, y, user_laws.Quartic())
    for i in (0, 5, 11):
        kept = model.parameters[i]
        sides = []
        for step in (1e-6, -1e-6):
            model.parameters[i] = kept + step
            sides.append(model.loss(X, y, "quartic"))
        model.parameters[i] = kept
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(gradient[i], rel=1e-6, abs=1e-9)
    before = model.loss(X, y, "quartic")
    optimizer = user_laws.SignDescent(0.01)
    result = fb.train(model, X, y, loss="quartic", optimizer=optimizer, epochs=50)
    assert result.loss < before
    assert model.loss(X, y, "quartic") < 0.5 * before


def test_settings_are_run_time_values(small):
    """Two slopes share one compiled kernel and give different results."""
    from fastbp.backends.cpu.machine_code import compiled_count

    X, _ = small

    def outputs(slope):
        return fb.Model(fb.mlp(3, 4, 1, activation=fb.LeakyRelu(slope)), dtype="float64").predict(X)

    first = outputs(0.1)
    count = compiled_count()
    assert not np.array_equal(outputs(0.3), first)
    assert compiled_count() == count


@pytest.mark.parametrize("name", ["limited", "asserted", "calling"])
def test_a_law_that_may_raise_is_refused(name):
    """No kernel could pass the exception on, and the rest of its rows would be left as they were."""
    law = getattr(raising_laws, name)
    function = Function("dense_forward", "float32", law, (0,))
    with pytest.raises(TypeError, match=f"dense_forward of {name}, float32: expected code"):
        compile_object(function, "raising")
    with pytest.raises(TypeError, match="may raise an exception, which no kernel can pass on"):
        Functions(lambda made: made).compilable(law)


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("dense_forward", "gelu"),
        ("elementwise_loss", "poisson"),
        ("order_rows", ""),
        ("run_batches", ""),
    ],
)
def test_our_own_code_cannot_raise(name, law, monkeypatch):
    """It is compiled once, and LLVM can show it: nothing is compiled without that check."""
    asked = []

    def emit(*arguments, may_raise):
        asked.append(may_raise)
        return emitted(*arguments, may_raise=may_raise)

    emitted = compiler.emit
    monkeypatch.setattr(compiler, "emit", emit)
    families = {"gelu": Activation, "poisson": Loss}
    found = families[law].resolve(law).law if law else None
    numbers = {"run_batches": (1,), "order_rows": ()}.get(name, (0,))
    dtype = "" if name == "run_batches" else "float32"
    assert compile_object(Function(name, dtype, found, numbers), "shown")
    assert asked == [False]


def test_a_network_with_such_a_law_says_so(monkeypatch):
    monkeypatch.setattr(Activation, "registry", dict(Activation.registry))

    class Limited(fb.Activation):
        law = staticmethod(raising_laws.limited)

    model = fb.Model(fb.mlp(2, 3, 1, activation=Limited()))
    for call in (model.predict, lambda X: fb.train(model, X, X[:, 0], epochs=1)):
        with pytest.raises(TypeError, match="limited, float32: expected code that never raises"):
            call(np.ones((4, 2)))


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_multiply_add_rounds_once(real):
    """Compiled: the nearest number to a * b + c, also where the product alone would be rounded."""

    @njit
    def run(a, b, c, out):
        for i in range(a.size):
            out[i] = elementary.multiply_add(a[i], b[i], c[i])

    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 500)).astype(real)
    c = (-(a * b) * (1 + rng.integers(-3, 4, 500) * np.finfo(real).eps)).astype(real)
    found = np.empty_like(a)
    run(a, b, c, found)
    with mpmath.workprec(400):
        expected = [
            real(float(mpmath.mpf(float(x)) * float(y) + float(z)))
            for x, y, z in zip(a, b, c, strict=True)
        ]
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, a * b + c)
    assert elementary.multiply_add(2.0, 3.0, -5.0) == 1.0


@pytest.mark.parametrize("name", Activation.names())
def test_activation_laws_become_vector_code(name, capfd):
    """LLVM says on the standard error where it cannot vectorise a loop that it was told to."""
    activation = Activation.resolve(name)
    function = Function("dense_forward", "float32", activation.law, (len(activation.settings),))
    assert compile_object(function, f"law_of_{name}")
    assert "not vectorized" not in capfd.readouterr().err
