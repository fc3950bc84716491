"""Files of runs: what comes back, what is refused, and when a run is written."""

import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import fastbp as fb
from fastbp.checkpoint import RunFile, read_run_file, write_run_file
from fastbp.files import previous_of
from fastbp.model_file import ModelFile, read_model_file
from fastbp.tensor_file import content_digest


def model_file(dtype="float64"):
    network = fb.Network(3, [fb.Dense(4, fb.LeakyRelu(0.2)), fb.Dense(2)])
    model = fb.Model(network, dtype, seed=4)
    scaling = fb.Scaling(np.arange(3.0), np.ones(3), np.zeros(2), np.full(2, 0.5))
    return ModelFile(network, dtype, 4, dict(model.weights), scaling, {"columns": ["ä", None]})


def every_bit_pattern():
    """float64 and float32 NaN with payloads and signs, infinities, subnormal numbers, -0.0."""
    wide = [0x7FF8000000000123, 0xFFF0000000000001, 0x7FF0 << 48, 0xFFF0 << 48, 1, 1 << 63]
    narrow = [0x7FC00123, 0xFF800001, 0x7F800000, 0xFF800000, 1, 1 << 31]
    return np.array(wide, np.uint64).view(np.float64), np.array(narrow, np.uint32).view(np.float32)


@pytest.fixture
def run_file():
    wide, narrow = every_bit_pattern()
    tensors = {
        "wide": wide,
        "narrow": narrow.reshape(3, 2),
        "state": np.arange(-3, 4, dtype=np.int64),
        "bytes": np.arange(255, -1, -5, dtype=np.uint8),
        "scalar": np.array(2.5),
        "empty": np.empty((0, 3)),
        "0.weight": np.full((2, 2), 7.0),  # the name of a parameter
        "model.0.weight": np.full(1, 8.0),
        "__metadata__": np.full(1, 9.0),
    }
    notes = {"epoch": 3, "best": 0.1 + 0.2, "list": [1, None, True, "ü\0\ud800"], "": {}}
    return RunFile(model_file(), tensors, notes)


def parts(run):
    """Everything that the file of a run says, in a form that compares bit by bit."""
    model = run.model
    arrays = {**{f"m {k}": v for k, v in model.tensors.items()}, **run.tensors}
    if model.scaling is not None:
        arrays |= {f"s {key}": value for key, value in vars(model.scaling).items()}
    bits = {key: (a.dtype.str, a.shape, a.tobytes()) for key, a in arrays.items()}
    return bits, model.network, model.dtype, model.seed, repr(model.metadata), repr(run.notes)


def model_parts(model):
    """Everything that the file of a model says, in the same form."""
    scaling = {} if model.scaling is None else vars(model.scaling)
    bits = {key: value.tobytes() for key, value in scaling.items() if value is not None}
    bits["parameters"] = model.parameters.tobytes()
    return bits, model.network, model.dtype, model.seed, repr(model.metadata)


def test_a_run_comes_back_to_the_bit(run_file, tmp_path):
    path = tmp_path / "run.ckpt"
    write_run_file(path, run_file)
    assert os.listdir(tmp_path) == ["run.ckpt"]
    found = read_run_file(str(path))
    assert parts(found) == parts(run_file)
    write_run_file(path, found)  # and again from what was read
    assert parts(read_run_file(path)) == parts(run_file)
    assert (tmp_path / "run.ckpt").read_bytes() == (tmp_path / "run.ckpt.previous").read_bytes()
    for array in (*found.tensors.values(), *found.model.tensors.values()):
        assert array.flags.writeable
        assert array.flags.aligned
        assert array.flags.c_contiguous


def test_arrays_of_other_layouts_are_written_as_what_they_say(tmp_path):
    table = np.arange(12.0).reshape(3, 4)
    tensors = {"turned": table.T, "strided": table[:, ::2], "big": table.astype(">f8")}
    write_run_file(tmp_path / "run", RunFile(model_file(), tensors, {}))
    found = read_run_file(tmp_path / "run").tensors
    for name, array in tensors.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == np.float64


def test_the_file_before_is_kept(run_file, tmp_path):
    path = tmp_path / "run.ckpt"
    for epoch in range(4):
        write_run_file(path, replace(run_file, notes={"epoch": epoch}))
        assert read_run_file(path).notes == {"epoch": epoch}
        if epoch:
            assert read_run_file(previous_of(path)).notes == {"epoch": epoch - 1}
    assert sorted(os.listdir(tmp_path)) == ["run.ckpt", "run.ckpt.previous"]
    path.unlink()
    assert read_run_file(path).notes == {"epoch": 2}
    os.unlink(previous_of(path))
    with pytest.raises(FileNotFoundError, match=r"run\.ckpt: no such file"):
        read_run_file(path)


def test_a_damaged_run_says_whether_the_one_before_is_whole(run_file, tmp_path):
    path = tmp_path / "run.ckpt"
    write_run_file(path, run_file)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(fb.CheckpointError, match=r"run\.ckpt: damaged") as error:
        read_run_file(path)
    assert "previous" not in str(error.value)
    path.with_name("run.ckpt.previous").write_bytes(whole)
    with pytest.raises(fb.CheckpointError, match=r"damaged.*is whole.*copy .*previous to .*ckpt$"):
        read_run_file(path)
    path.with_name("run.ckpt.previous").write_bytes(whole[:-1])
    with pytest.raises(fb.CheckpointError, match=r"run\.ckpt: damaged[^.]*$"):
        read_run_file(path)
    path.unlink()
    with pytest.raises(fb.CheckpointError, match=r"run\.ckpt\.previous: damaged"):
        read_run_file(path)


def test_the_model_of_a_run_can_be_loaded_and_other_kinds_are_named(run_file, tmp_path):
    path = tmp_path / "run.ckpt"
    write_run_file(path, run_file)
    model = fb.load(path)
    assert np.array_equal(model.weights["0.weight"], run_file.model.tensors["0.weight"])
    assert (model.seed, model.metadata) == (4, run_file.model.metadata)
    assert model.scaling.target_scale.tolist() == [0.5, 0.5]
    assert model.predict(np.ones((2, 3))).shape == (2, 2)
    with pytest.raises(fb.CheckpointError, match=r"expected a fastbp model; got .* 'fastbp-run-1'"):
        read_model_file(path)
    model.save(path)
    with pytest.raises(
        fb.CheckpointError, match=r"a checkpoint of a fastbp run; got .* 'fastbp-model-1'"
    ):
        read_run_file(path)
    with pytest.raises(IsADirectoryError):
        read_run_file(tmp_path)
    with pytest.raises(fb.CheckpointError, match="no regular file"):
        fb.load("/dev/null")


BAD = {
    "nan": ({}, {"a": [float("nan")]}, ValueError, "notes: expected plain data"),
    "infinity": ({}, {"a": -float("inf")}, ValueError, "notes: expected plain data"),
    "array": ({}, {"a": np.zeros(1)}, TypeError, "notes: expected plain data"),
    "number as key": ({}, {1: 2}, TypeError, "notes: .*texts as keys"),
    "tuple": ({}, {"a": (1, 2)}, TypeError, "notes: .*without tuples"),
    "no dict": ({}, [1], TypeError, "notes: expected a dict"),
    "float16": ({"a": np.zeros(2, np.float16)}, {}, TypeError, "run.a: expected one of float64"),
    "objects": ({"a": np.array([{}])}, {}, TypeError, "run.a: expected one of .*; got object"),
    "rows": ({"a": np.zeros(2, [("x", "f8")])}, {}, TypeError, "run.a: expected one of"),
    "name": ({3: np.zeros(2)}, {}, TypeError, "tensors: expected texts as names; got 3"),
    "half a name": ({"\ud800": np.zeros(2)}, {}, ValueError, "surrogates not allowed"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_file_can_hold_is_refused_before_anything_is_written(name, tmp_path):
    tensors, notes, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        write_run_file(tmp_path / "run", RunFile(model_file(), tensors, notes))
    assert os.listdir(tmp_path) == []


def test_metadata_of_a_model_are_plain_and_finite(tmp_path):
    model = fb.Model(fb.mlp(2, 1))
    model.metadata = {"loss": float("nan")}
    with pytest.raises(ValueError, match="metadata: expected plain data that JSON can hold"):
        model.save(tmp_path / "m")
    assert os.listdir(tmp_path) == []


def test_model_files_of_the_safetensors_library_are_read(tmp_path):
    """As they were written before: by the library, texts in any order."""
    from safetensors.numpy import load, save

    content = model_file("float32")
    names = ("input_mean", "input_scale", "target_mean", "target_scale")
    tensors = {**content.tensors, **{f"scaling.{n}": getattr(content.scaling, n) for n in names}}
    texts = {
        "format": "fastbp-model-1",
        "fastbp_version": "0.1.0",
        "network": json.dumps(content.network.describe()),
        "dtype": "float32",
        "seed": "4",
        "metadata": json.dumps({"loss": float("nan")}),  # which was allowed
    }
    texts["sha256"] = content_digest(tensors, texts.values())
    path = tmp_path / "net.safetensors"
    path.write_bytes(save(tensors, metadata=texts))
    loaded = fb.load(path)
    assert np.array_equal(loaded.weights["1.weight"], content.tensors["1.weight"])
    assert np.isnan(loaded.metadata["loss"])
    loaded.metadata = {}
    loaded.save(path)
    found = load(path.read_bytes())
    assert set(found) == set(tensors)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


def test_half_of_a_scaling_that_has_no_effect_is_not_written(tmp_path):
    model = fb.Model(fb.mlp(2, 1))
    model.scaling = fb.Scaling(np.zeros(2), 2, target_mean=np.ones(1))
    expected = model.predict(np.ones((3, 2)))
    model.save(tmp_path / "m")
    found = fb.load(tmp_path / "m")
    assert found.scaling.target_mean is None
    assert found.scaling.input_scale.tolist() == [2.0, 2.0]
    assert np.array_equal(found.predict(np.ones((3, 2))), expected)


def test_a_tensor_that_lies_askew_is_read(tmp_path):
    """Wide tensors after narrow ones, which other writers may leave without filling."""
    from mutations import sealed, split

    path = tmp_path / "run"
    tensors = {"a": np.arange(3, dtype=np.uint8), "b": np.arange(3.0)}
    write_run_file(path, RunFile(model_file(), tensors, {}))
    header, data = split(path.read_bytes())
    start, end = header["run.b"]["data_offsets"]
    bytes_of_b = data[start:end]
    rest = data[:start] + data[end:]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - start) for offset in entry["data_offsets"]]
    header["run.b"]["data_offsets"] = [len(rest), len(data)]
    path.write_bytes(sealed(header, rest + bytes_of_b))
    found = read_run_file(path).tensors
    assert found["b"].tolist() == [0.0, 1.0, 2.0]
    assert found["b"].flags.aligned


def peak_of(function, *arguments):
    """What a call returns or raises, and the most memory it held at once."""
    tracemalloc.start()
    try:
        try:
            result = function(*arguments)
        except Exception as error:
            result = error
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_reading_holds_a_file_in_memory_once(tmp_path):
    model = fb.Model(fb.mlp(1000, 500, 1))
    moments = {name: np.ones(model.parameters.size, np.float32) for name in ("first", "second")}
    content = ModelFile(model.network, "float32", 0, dict(model.weights), None, {})
    path = tmp_path / "run"
    _, written = peak_of(write_run_file, path, RunFile(content, moments, {}))
    size = os.path.getsize(path)
    assert size > 6_000_000
    assert written < 1.1 * size + 200_000
    found, read = peak_of(read_run_file, path)
    assert np.array_equal(found.tensors["first"], moments["first"])
    assert read < 1.1 * size + 200_000
    model.save(path)
    _, loaded = peak_of(fb.load, path)
    assert loaded < 2.1 * os.path.getsize(path) + 200_000


def test_a_header_that_claims_the_data_takes_no_memory(tmp_path):
    """Numbers are no UTF-8, but their beginning may be, and with wide characters."""
    path = tmp_path / "run"
    wide = np.frombuffer("\U0001f600".encode() * 400_000 + b"\xff" * 8, np.float64)
    write_run_file(path, RunFile(model_file(), {"wide": wide}, {}))
    content = path.read_bytes()
    path.write_bytes((len(content) - 8).to_bytes(8, "little") + content[8:])
    error, peak = peak_of(read_run_file, path)
    assert isinstance(error, fb.CheckpointError)
    assert peak < 1.1 * len(content) + 200_000


def test_claims_take_no_memory(tmp_path):
    from mutations import join, sealed

    path = tmp_path / "run"
    entry = {"dtype": "F64", "shape": [1 << 40], "data_offsets": [0, 1 << 43]}
    texts = {"format": "fastbp-model-1", "network": json.dumps({"inputs": 1 << 50, "layers": []})}
    texts |= dict.fromkeys(("fastbp_version", "dtype", "seed", "metadata"), "0")
    layer = fb.Dense(1 << 40).describe()
    network = json.dumps({"inputs": 1 << 40, "layers": [layer, layer]})
    contents = [
        (1 << 40).to_bytes(8, "little") + b"{}",
        join({"__metadata__": {**texts, "sha256": ""}, "0.weight": entry}, b"\0" * 64),
        sealed({"__metadata__": {**texts, "dtype": "float64", "network": network}}, b""),
    ]
    for content in contents:
        path.write_bytes(content)
        error, peak = peak_of(fb.load, path)
        assert isinstance(error, fb.CheckpointError)
        assert peak < 1_000_000
    os.truncate(path, 1 << 38)  # of zeros that take no room
    error, peak = peak_of(fb.load, path)
    assert isinstance(error, fb.CheckpointError)
    assert peak < 1_000_000


def test_when_a_run_is_due():
    by_default = fb.Checkpoint("run")
    assert [by_default.is_due(99, seconds) for seconds in (0.0, 29.9, 30.0)] == [False, False, True]
    epochs = fb.Checkpoint("run", every_epochs=3)
    assert [epochs.is_due(n, 1e9) for n in (0, 2, 3, 4)] == [False, False, True, True]
    minutes = fb.Checkpoint("run", every_minutes=0.5)
    assert [minutes.is_due(999, s) for s in (29.0, 30.0)] == [False, True]
    both = fb.Checkpoint("run", 3, 2)
    assert [both.is_due(*since) for since in ((2, 119), (3, 0), (0, 120))] == [False, True, True]


def test_settings_of_checkpoints(tmp_path):
    settings = fb.Checkpoint(tmp_path / "run", every_epochs=np.int64(2))
    assert settings == fb.Checkpoint(str(tmp_path / "run"), 2)
    assert fb.Checkpoint.resolve(settings) is settings
    assert fb.Checkpoint.resolve("run") == fb.Checkpoint("run")
    assert fb.Checkpoint.resolve(tmp_path).path == str(tmp_path)
    for value in (None, 3, True, b"run", ["run"]):
        with pytest.raises(TypeError, match="checkpoint: expected a path or a fastbp Checkpoint"):
            fb.Checkpoint.resolve(value)
    with pytest.raises(ValueError, match="checkpoint: expected the name of a file; got an empty"):
        fb.Checkpoint.resolve("")
    with pytest.raises(TypeError, match="path: expected a str or path-like object; got int"):
        fb.Checkpoint(3)
    with pytest.raises(ValueError, match="path: expected the name of a file"):
        fb.Checkpoint("")
    for value, kind in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="every_epochs: expected an integer"):
            fb.Checkpoint("run", value)
    for value, kind in ((0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(kind, match="every_minutes: expected a"):
            fb.Checkpoint("run", every_minutes=value)
