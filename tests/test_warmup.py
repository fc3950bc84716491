"""``fastbp warmup`` and the line that says what is being compiled."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from commands import run

import fastbp as fb
from fastbp.activations import Tanh
from fastbp.backends.cpu.machine_code import Notice
from fastbp.losses import Mse

TRAINING = """
import numpy as np, fastbp as fb
X = np.linspace(-1, 1, 80, dtype="float32").reshape(20, 4)
model = fb.Model(fb.mlp(4, 9, 2, activation="elu"))
fb.train(model, X, X[:, :2], loss="mae", optimizer="rmsprop", epochs=1, batch_size=7)
model.predict(X)
model.predict(X[:1].copy())
model.loss_and_gradient(X, X[:, :2], "mae")
many = np.tile(X, (20, 1))  # rows in lanes, in a panel of one line at the end
fb.train(model, many, many[:, :2], loss="mae", optimizer="rmsprop", epochs=1, batch_size=200)
wide = fb.Model(fb.mlp(4, 100, 2, activation="elu"))  # panels of four lines
fb.train(wide, X, X[:, :2], loss="mae", optimizer="rmsprop", epochs=1, clip_norm=1.0)
inside = [fb.LayerNorm(), fb.Dense(9, "elu"), fb.Dropout(0.1), fb.Dense(4)]
block = fb.Model(fb.Network(4, [fb.Residual(inside), fb.Dropout(0.2), fb.LayerNorm(), fb.Dense(2)]))
fb.train(block, X, X[:, :2], loss="mae", optimizer="rmsprop", epochs=1, validation=0.2)
block.predict(X)
block.predict(X[:1].copy())
block.jacobian(X)
block.loss_and_gradient(X, X[:, :2], "mae")
import sys
assert "numba" not in sys.modules
"""


def test_afterwards_nothing_is_compiled(tmp_path):
    """A process that uses what was warmed up adds no file to the cache."""
    environment = {**os.environ, "FASTBP_CACHE_DIR": str(tmp_path)}
    chosen = ["--dtypes", "float32", "--activations", "elu,identity", "--losses", "mae"]
    command = [sys.executable, "-m", "fastbp", "warmup", *chosen, "--optimizers", "rmsprop"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kernels ready in" in done.stdout
    files = sorted(Path(tmp_path).rglob("*.kernel"))
    assert files
    subprocess.run([sys.executable, "-c", TRAINING], env=environment, check=True)
    assert sorted(Path(tmp_path).rglob("*.kernel")) == files


def test_a_wrong_name_is_refused(capsys):
    code, _, err = run(capsys, "warmup", "--losses", "mse,nonsense")
    assert code == 1
    assert "--losses: expected some of" in err
    assert "nonsense" in err


def test_a_library_call_does_the_same():
    from fastbp.warmup import warm_up

    reported = []
    mse, sgd, tanh = Mse(), fb.SGD(momentum=0.9), Tanh()
    warm_up(["float64"], [tanh], [mse], [sgd], reported.append)
    assert reported == ["tanh, float64", "mse, float64", "sgd, float64"]
    assert warm_up(["float64"], [tanh], [mse], [sgd]) == 0  # everything is there


def test_one_line_while_compiling_takes_long(caplog, monkeypatch):
    monkeypatch.setattr(Notice, "PATIENCE", 0.05)
    notice = Notice("processor", ", and so on")
    with caplog.at_level(logging.WARNING, logger="fastbp"):
        with notice.about("quick"):
            pass
        assert not caplog.records
        for name in ("first", "second"):
            with notice.about(name):
                time.sleep(0.15)
    (record,) = caplog.records
    assert "compiling kernels for this processor" in record.message
    assert record.message.endswith("from the cache, and so on")
    assert "first" in record.message
