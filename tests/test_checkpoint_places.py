"""Where a run is to be kept: what is refused before it begins, and what it may replace."""

import os
import stat

import numpy as np
import pytest

import fastbp as fb
from fastbp.checkpoint import read_run_file, write_run_file

NETWORK = fb.mlp(3, 4, 1)


def refused(path, small, kind, message, model=None, **keywords):
    """Train where that is to be refused, and see that nothing has come of it."""
    model = model or fb.Model(NETWORK)
    before, called = model.parameters.copy(), []
    with pytest.raises(kind, match=message):
        fb.train(
            model, *small, epochs=2, standardize=True, checkpoint=path,
            callbacks=[lambda *row: called.append(row)], **keywords,
        )  # fmt: skip
    assert np.array_equal(model.parameters, before)
    assert model.scaling is None
    assert called == []


def train(path, small, epochs=2, **keywords):
    """A short training that is kept."""
    model = fb.Model(NETWORK)
    fb.train(model, *small, epochs=epochs, checkpoint=path, **keywords)
    return model


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)
UNFIT = {
    "nan": ({"a": [float("nan")]}, ValueError),
    "infinity": ({"a": -float("inf")}, ValueError),
    "circle": ({"a": CIRCLE}, ValueError),
    "set": ({"a": {1, 2}}, TypeError),
    "array": ({"a": np.zeros(2)}, TypeError),
    "number of numpy": ({"a": np.float32(1)}, TypeError),
    "key": ({(1, 2): 3}, TypeError),
    "no dict": ({1, 2}, TypeError),
}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", UNFIT)
def test_metadata_that_no_file_can_hold(name, resume, small, tmp_path):
    metadata, kind = UNFIT[name]
    model, message = fb.Model(NETWORK), "metadata: expected plain data that JSON can hold"
    model.metadata = metadata
    refused(tmp_path / "run", small, kind, message, model=model, resume=resume)
    assert os.listdir(tmp_path) == []
    fb.train(model, *small, epochs=1)  # what is not written may be anything
    assert model.metadata is metadata


def damaged(content):
    """A bit of a file's last number is another."""
    return content[:-1] + bytes([content[-1] ^ 1])


FOREIGN = {
    "text": (lambda run, model: b"length,width\n1,2\n", "damaged, or not a safetensors file"),
    "empty": (lambda run, model: b"", "damaged, or not a safetensors file"),
    "model": (lambda run, model: model, "expected a checkpoint of a fastbp run; got .*model-1'"),
    "damaged run": (lambda run, model: damaged(run), r"damaged \(its content does not match its"),
    "half a run": (lambda run, model: run[: len(run) // 2], "damaged, or not a safetensors file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_is_no_whole_run_is_not_replaced(name, small, tmp_path):
    make, message = FOREIGN[name]
    train(tmp_path / "other", small, epochs=1).save(tmp_path / "model")
    content = make((tmp_path / "other").read_bytes(), (tmp_path / "model").read_bytes())
    (tmp_path / "run").write_bytes(content)
    names = sorted(os.listdir(tmp_path))
    advice = ".*; it is not replaced: delete it, or choose another name$"
    where = "checkpoint: .*run: "
    for checkpoint in (tmp_path / "run", fb.Checkpoint(tmp_path / "run", every_epochs=1)):
        refused(checkpoint, small, fb.CheckpointError, f"^{where}{message}{advice}")
    refused(tmp_path / "run", small, fb.CheckpointError, f"run: {message}", resume=True)
    (tmp_path / "link").symlink_to("run")
    refused(tmp_path / "link", small, fb.CheckpointError, message)
    (tmp_path / "link").unlink()
    assert (tmp_path / "run").read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == names
    (tmp_path / "run").unlink()  # as the message says
    train(tmp_path / "run", small)
    assert sorted(os.listdir(tmp_path)) == names


@pytest.mark.parametrize("has_run", [False, True])
def test_nor_is_one_where_the_run_before_would_be_kept(has_run, small, tmp_path):
    previous = tmp_path / "run.previous"
    if has_run:
        train(tmp_path / "run", small)
        assert not previous.exists()
    previous.write_bytes(b"length,width\n1,2\n")
    message = "^checkpoint: .*run.previous: damaged, .*; it is not replaced: delete it, or choose "
    refused(tmp_path / "run", small, fb.CheckpointError, message)
    assert previous.read_bytes() == b"length,width\n1,2\n"
    assert (tmp_path / "run").exists() == has_run


def test_what_is_no_file(small, tmp_path):
    refused(tmp_path, small, IsADirectoryError, "^checkpoint: .*: is a folder$")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", small, fb.CheckpointError, "^checkpoint: .*no regular file")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_file_that_may_not_be_read(small, tmp_path, monkeypatch):
    """Whoever may read everything is told that they may not."""
    train(tmp_path / "run", small)
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(tmp_path / "run", small, PermissionError, "^checkpoint: .*run: may not be read$")


def test_an_older_run_makes_room_and_is_kept(small, tmp_path):
    path = tmp_path / "run"
    older = train(path, small, epochs=3)
    newer = train(path, small, epochs=2, seed=4)  # another run, and no resume=True
    assert sorted(os.listdir(tmp_path)) == ["run", "run.previous"]
    assert np.array_equal(fb.load(path).parameters, newer.parameters)
    assert np.array_equal(fb.load(f"{path}.previous").parameters, older.parameters)
    assert len(read_run_file(path).tensors["history.epoch"]) == 2


def test_a_run_with_laws_that_are_not_known_here_makes_room(small, tmp_path):
    """Its file is whole, though nobody could go on with it."""
    path = tmp_path / "run"
    train(path, small)

    class Unknown(fb.Tanh):
        """Not registered when the file is met again."""

    content = read_run_file(path)
    content.model.network = fb.mlp(3, 4, 1, activation=Unknown())
    write_run_file(path, content)
    del fb.Tanh.registry["unknown"]
    with pytest.raises(fb.CheckpointError, match="'unknown' is not registered"):
        fb.load(path)
    train(path, small)
    assert len(read_run_file(path).tensors["history.epoch"]) == 2


def test_the_file_before_alone_is_no_reason_to_refuse(small, tmp_path):
    path = tmp_path / "run"
    train(path, small)
    path.rename(tmp_path / "run.previous")
    expected = train(path, small, seed=1)
    assert np.array_equal(fb.load(path).parameters, expected.parameters)
