"""Which GPUs there are, and each reason why none can be used, over a stand-in for the bindings."""

import importlib
import sys

import pytest
from driver_names import CUresult
from fake_driver import TAKES, FakeDriver, driver_in_place  # noqa: F401  (the fixture `driver`)

import fastbp as fb
from fastbp.backends import choose
from fastbp.backends.cuda import context, device, processor
from fastbp.backends.cuda.device import Device

SETTINGS = "CUdevice_attribute CUfunction_attribute CUpointer_attribute CUstream_flags CUevent_flags CUstreamCaptureMode CUlaunchAttributeID"


def test_devices_are_described(driver):
    assert processor.why_not() == ""
    text = "compute capability 9.0, 80 GiB, driver CUDA 13.0"
    assert processor.cuda_devices() == [(i, True, f"Fake GPU {i}, {text}") for i in range(2)]
    assert "cuDevicePrimaryCtxRetain" not in driver.calls


def test_a_device_that_is_too_old_is_passed_over(driver):
    driver.capabilities = [(7, 5), (8, 0)]
    assert processor.why_not() == ""
    reason = "Fake GPU 0 has compute capability 7.5, and fastbp needs 8.0 or later"
    assert processor.why_not(0) == reason
    about = processor.describe(driver, 1)
    assert processor.cuda_devices() == [(0, False, reason), (1, True, about)]
    assert [str(found) for found in fb.devices()[1:]] == [
        f"cuda:0: {reason} (not available)",
        f"cuda:1: {about}",
    ]
    with pytest.raises(fb.DeviceError, match=f"cuda:0: {reason}"):
        Device(0)


class DynamicLibNotFoundError(RuntimeError):
    """As the bindings raise it."""


REASONS = {
    "no library": (
        {"fails": {"cuDriverGetVersion": DynamicLibNotFoundError("cuda")}},
        "there is no NVIDIA driver (its library libcuda cannot be loaded)",
    ),
    "damaged library": (
        {"fails": {"cuDriverGetVersion": RuntimeError("no such thing")}},
        "the NVIDIA driver cannot be loaded: no such thing",
    ),
    "before 12": (
        {"fails": {"cuDriverGetVersion": RuntimeError("Failed to get cuGetProcAddress_v2")}},
        "the NVIDIA driver is too old: it offers a version before CUDA 12.0, and fastbp needs CUDA 13.0 or later",
    ),
    "old": (
        {"version": 12080},
        "the NVIDIA driver is too old: it offers CUDA 12.8, and fastbp needs CUDA 13.0 or later",
    ),
    "no device": ({"capabilities": []}, "there is no CUDA device"),
    "no device at all": (
        {"fails": {"cuInit": CUresult.CUDA_ERROR_NO_DEVICE}},
        "there is no CUDA device",
    ),
    "count fails": (
        {"fails": {"cuDeviceGetCount": CUresult.CUDA_ERROR_NOT_PERMITTED}},
        "cuDeviceGetCount: CUDA_ERROR_NOT_PERMITTED (not permitted)",
    ),
    "all old": (
        {"capabilities": [(7, 5)]},
        "Fake GPU 0 has compute capability 7.5, and fastbp needs 8.0 or later",
    ),
    "stub": ({"fails": {"cuInit": CUresult.CUDA_ERROR_STUB_LIBRARY}}, "toolkit's stub"),
    "forked": ({"fails": {"cuInit": CUresult.CUDA_ERROR_NOT_INITIALIZED}}, processor.FORKED),
    "mismatch": (
        {"fails": {"cuInit": CUresult.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH}},
        "the NVIDIA driver does not start: cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (system driver mismatch)",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_each_reason_is_told_apart(driver, case):
    changes, reason = REASONS[case]
    vars(driver).update(changes)
    assert reason in processor.why_not()
    listed = [(0, False, reason)] if case == "all old" else []
    assert processor.cuda_devices() == listed
    (found,) = fb.devices()[1:]
    assert (found.name, found.available) == ("cuda:0" if listed else "cuda", False)
    assert reason in found.description
    with pytest.raises(fb.DeviceError) as caught:
        device.device(0)
    assert reason in str(caught.value)


def test_hidden_devices_are_hinted_at(driver, monkeypatch):
    driver.fails["cuInit"] = CUresult.CUDA_ERROR_NO_DEVICE
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert processor.why_not() == "there is no CUDA device (CUDA_VISIBLE_DEVICES is '-1')"


def test_a_number_that_no_device_has(driver):
    assert processor.why_not(1) == ""
    assert (
        processor.why_not(2)
        == "there is no device 2: this machine has 2 CUDA devices, numbered 0 to 1"
    )
    driver.capabilities = [(9, 0)]
    assert (
        processor.why_not(2)
        == "there is no device 2: this machine has 1 CUDA device, which is number 0"
    )


def test_without_the_compiler_the_driver_is_not_asked(driver, monkeypatch):
    monkeypatch.delitem(sys.modules, "numba_cuda_mlir")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reason = "numba-cuda-mlir is not installed: pip install 'fastbp[cuda]'"
    assert processor.why_not() == reason
    assert fb.devices()[1:] == [choose.Device("cuda", False, reason)]
    assert driver.calls == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'cuda'", name="cuda"), "cuda-bindings is not installed: pip install 'fastbp[cuda]'"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "cuda-bindings cannot be imported: No module named 'x'"),
        (ImportError("undefined symbol"), "cuda-bindings cannot be imported: undefined symbol"),
    ],
)  # fmt: skip
def test_without_the_bindings(driver, monkeypatch, error, reason):
    def fail(name):
        raise error

    monkeypatch.setattr(processor.importlib, "import_module", fail)
    assert processor.why_not() == reason


def test_the_stand_in_agrees_with_the_bindings():
    """Names and values; no driver is needed for that."""
    true = pytest.importorskip("cuda.bindings.driver")
    for name in TAKES:
        assert callable(getattr(true, name))
    for name in ("CUresult", *SETTINGS.split()):
        for member in getattr(FakeDriver, name):
            assert int(getattr(getattr(true, name), member.name)) == member
    for name in context.HARMLESS:
        assert hasattr(true.CUresult, f"CUDA_ERROR_{name}")
    config, attribute = true.CUlaunchConfig(), true.CUlaunchAttribute()
    for name in "gridDimX gridDimY gridDimZ blockDimX blockDimY blockDimZ sharedMemBytes hStream attrs numAttrs".split():
        assert hasattr(config, name)
    assert hasattr(attribute, "id")
    assert hasattr(attribute.value, "cooperative")
