"""MNIST from a folder named by FASTBP_MNIST (the four IDX files, .gz): 97.6% after ten epochs."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

import fastbp as fb

FOLDER = os.environ.get("FASTBP_MNIST")


def read_idx(path):
    """An IDX file of bytes: two zeros, type 8, the number of dimensions, sizes, data."""
    with gzip.open(path) as file:
        content = file.read()
    assert content[:3] == b"\0\0\x08"
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


@pytest.mark.skipif(FOLDER is None, reason="FASTBP_MNIST names no folder with the IDX files")
def test_mnist():
    folder = Path(FOLDER)

    def part(name):
        images = read_idx(folder / f"{name}-images-idx3-ubyte.gz").reshape(-1, 784) / 255.0
        return images.astype(np.float32), read_idx(folder / f"{name}-labels-idx1-ubyte.gz")

    X, y = part("train")
    X_test, y_test = part("t10k")
    model = fb.Model(fb.mlp(784, 128, 10, activation="relu"), seed=0)
    result = fb.train(
        model,
        X,
        y,
        loss="cross_entropy",
        optimizer=fb.Adam(3e-3),
        schedule=fb.OneCycle(),
        epochs=10,
        batch_size=128,
    )
    assert result.steps == 10 * 469
    accuracy = float((model.predict(X_test).argmax(axis=1) == y_test).mean())
    assert accuracy >= 0.976
