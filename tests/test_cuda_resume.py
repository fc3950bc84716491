"""Runs on a GPU that were cut and go on: the same bits as those that never stopped."""

import signal

import numpy as np
import pytest
from simulated import WAYS, problem
from test_resume import Cut, assert_same

import fastbp as fb
from fastbp.backends.cuda.pace import Pace

pytestmark = pytest.mark.usefixtures("gpu")

NETWORK = fb.Network(3, [fb.Dense(5, "tanh", max_norm=0.7), fb.Dense(2)])
RUNS = {
    "nadam, averages": {"optimizer": fb.NAdam(0.01), "ema": 0.7},
    "best parameters, clipping": {
        "optimizer": fb.Adam(0.1, amsgrad=True),
        "patience": 3,
        "validation": 0.25,
        "clip_norm": 0.5,
        "schedule": fb.ReduceOnPlateau(patience=1, factor=0.5),
    },
}


def trained(path, *, seed=0, cut_at=None, epochs=2, device="cuda", **settings):
    """A training of two batches or more an epoch, whose callback may raise after an epoch."""
    model = fb.Model(NETWORK, seed=seed)

    def cut(row, _):
        if row["epoch"] == cut_at:
            raise Cut

    result = fb.train(
        model,
        *problem(16),
        epochs=epochs,
        batch_size=6,
        device=device,
        callbacks=[cut],
        checkpoint=path and fb.Checkpoint(path, every_epochs=1),
        **settings,
    )
    return model, result


@pytest.mark.parametrize("run", RUNS)
def test_a_run_goes_on_from_an_epoch(run, tmp_path):
    settings = RUNS[run]
    expected = trained(None, **settings)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Cut):
        trained(path, cut_at=2, **settings)
    assert_same(trained(path, seed=9, resume=True, **settings), expected)


@pytest.mark.parametrize("run", RUNS)
def test_a_run_goes_on_from_a_batch(run, tmp_path, monkeypatch):
    """Ctrl-C between two calls, each of one batch: the state is that of the middle of an epoch."""
    settings = RUNS[run]
    expected = trained(None, **settings)
    monkeypatch.setattr(Pace, "measured", lambda self, batches, seconds: None)
    path, calls, stops = tmp_path / "run.safetensors", [], [0]

    def interrupted(self, epochs, seconds):
        calls.append(seconds)
        if len(calls) == stops[0]:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(fb.Checkpoint, "is_due", interrupted)
    for stops[0] in (1, 4):
        calls.clear()
        with pytest.raises(KeyboardInterrupt) as caught:
            trained(path, resume=True, **settings)
        assert f"{path} has the run up to step" in caught.value.__notes__[0]
    stops[0] = -1
    assert_same(trained(path, seed=9, resume=True, **settings), expected)


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_an_interrupt_amid_the_launches_of_a_batch_waits_for_its_end(
    way, gpu, tmp_path, monkeypatch, ctrl_c_works
):
    settings = RUNS["nadam, averages"] | {"epochs": 1}
    expected = trained(None, **settings)
    monkeypatch.setattr(Pace, "measured", lambda self, batches, seconds: None)
    launch, launches = gpu.launch, []

    def interrupted(*arguments, **options):
        launches.append(arguments)
        launch(*arguments, **options)
        if len(launches) == stop_at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(gpu, "launch", interrupted)
    path = tmp_path / "run.safetensors"
    of_a_batch = {"resident": 1, "meeting": 1, "fused": 6, "layered": 10}[way]
    stop_at = of_a_batch + -(-of_a_batch // 2)  # in the middle of the second batch
    with pytest.raises(KeyboardInterrupt) as caught:
        trained(path, resume=True, **settings)
    assert len(launches) == 2 * of_a_batch
    assert f"{path} has the run up to step 2;" in caught.value.__notes__[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    stop_at = -1
    assert_same(trained(path, seed=9, resume=True, **settings), expected)


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_does_not_go_on_on_another_kind_of_device(first, second, tmp_path):
    """The bits would be others."""
    path = tmp_path / "run.safetensors"
    trained(path, epochs=1, device=first)
    model, content = fb.Model(NETWORK, seed=4), path.read_bytes()
    before = model.parameters.copy()
    message = f"resume: .* is of a run with device='{first}'; this one has '{second}'"
    with pytest.raises(fb.CheckpointError, match=message):
        fb.train(
            model,
            *problem(16),
            epochs=1,
            batch_size=6,
            device=second,
            checkpoint=path,
            resume=True,
        )
    assert np.array_equal(model.parameters, before)
    assert path.read_bytes() == content
