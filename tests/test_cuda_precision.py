"""Training in tf32 and bf16 on a simulated GPU; it needs nothing of the simulator's own."""

import numpy as np
import pytest
import simulated
from precisions import BITS, precisions
from strategies import scaled_error

import fastbp as fb
from fastbp.backends import choose
from fastbp.backends.cuda.tuning import geometry
from fastbp.losses import Mse
from fastbp.plan import build_plan


def problem():
    return simulated.problem(20, 5, 2)


def trained(precision, device="cuda", epochs=1, **settings):
    X, y = problem()
    model = fb.Model(fb.mlp(5, 40, 2, activation="tanh"), dtype="float32", seed=3)
    settings |= {"optimizer": fb.SGD(0.1), "epochs": epochs, "precision": precision}
    result = fb.train(model, X, y, device=device, **settings)
    return result, model.parameters.astype(np.float64)


@pytest.mark.usefixtures("gpu")
@precisions
def test_training_stays_near_that_of_float32(precision):
    settings = {"epochs": 2, "validation": 0.2}
    plain, expected = trained("float32", "cpu", **settings)
    result, parameters = trained(precision, **settings)
    assert result.device == "cuda:0"
    unit = 2.0 ** -BITS[precision]
    assert unit / 100 < scaled_error(parameters, expected) < unit
    for name in ("loss", "validation_loss", "gradient_norm"):
        assert np.allclose(result.history[name], plain.history[name], rtol=2 * unit), name


@pytest.mark.usefixtures("gpu")
def test_automatic_means_the_gpu():
    assert trained("tf32", "auto")[0].device == "cuda:0"
    assert trained("float32", "auto")[0].device == "cpu"


@precisions
def test_the_plan_says_it_and_goes_layer_by_layer(precision):
    network = fb.mlp(5, 40, 2)
    shapes = geometry(network, "float32", precision)
    settings = {"loss": Mse(), "optimizer": fb.SGD()}
    plan = build_plan(network, "train", "float32", 32, shapes, **settings)
    assert plan.way == "layered"
    assert f"factors of products in {precision}" in str(plan)
    plain = build_plan(network, "train", "float32", 32, geometry(network, "float32"), **settings)
    assert "factors" not in str(plain)


def test_what_is_no_precision(monkeypatch):
    X, y = problem()
    model = fb.Model(fb.mlp(5, 3, 2), dtype="float32")
    for wrong, error in (("float16", ValueError), (None, TypeError), ("TF32", ValueError)):
        with pytest.raises(error, match=r"^precision: expected"):
            fb.train(model, X, y, precision=wrong)
    with pytest.raises(ValueError, match=r'^precision: tf32 needs device="cuda"'):
        fb.train(model, X, y, precision="tf32", device="cpu")
    with pytest.raises(ValueError, match="is for a model of float32; this is of float64"):
        fb.train(fb.Model(fb.mlp(5, 3, 2), dtype="float64"), X, y, precision="bf16")
    monkeypatch.setattr(choose, "why_not_cuda", lambda ordinal=None: "no driver")
    for device in ("auto", "cuda"):
        with pytest.raises(fb.DeviceError, match=r"cuda is not available.*: no driver"):
            fb.train(model, X, y, precision="bf16", device=device)


def test_float32_is_what_a_model_of_float64_may_be_given():
    X, y = problem()
    model = fb.Model(fb.mlp(5, 3, 2), dtype="float64")
    assert fb.train(model, X, y, epochs=1, precision="float32", device="cpu").success


def test_gpus_without_tensor_cores_are_refused(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "compute_capability", (7, 5))
    with pytest.raises(fb.DeviceError, match=r"capability 7\.5, and 8\.0 is needed"):
        trained("tf32")
