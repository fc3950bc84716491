"""The GPU benchmark as a program, without a GPU: its budget, helpers, contestants and checks."""

import importlib.util
import subprocess
import sys

import golden
import numpy as np
import pytest
import test_golden
from simulator import SimulatedDevice

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import checks, correctness, device_tests, questions, rows
from benchmarks.gpu.budget import Budget, Deadline
from benchmarks.gpu.contest import contend, epoch_times, grouped
from benchmarks.gpu.fastbp_side import Contestant
from benchmarks.gpu.helpers import Failed, Helper, Skipped, Task, run_tasks
from benchmarks.gpu.prepare import prepared, preparing_tasks
from benchmarks.gpu.report import failures, not_run
from benchmarks.processes import ROOT, WorkerError
from benchmarks.workloads import WORKLOADS, Workload
from fastbp.backends import choose
from fastbp.backends.cuda.entries import Entry

SMALL = rows.Row(
    "small", "small", Workload("small", (2, 3, 1), "tanh", "mse", "adam", 1e-3, 4, 8, 1.0, False)
)
CLASSES = rows.Row(
    "classes",
    "classes",
    Workload("classes", (3, 8, 4), "relu", "cross_entropy", "adam", 1e-3, 16, 256, 1.0, False),
)


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def quiet(text):
    pass


# Rows, budget.


def test_the_rows_of_the_table():
    assert list(rows.ROWS)[:5] == ["tiny", "surrogate", "actor", "mnist_mlp", "wide"]
    assert list(rows.ROWS)[-3:] == ["relu64 2,097,152", "wide tf32", "wide bf16"]
    assert rows.GROUPS == ("tiny", "surrogate", "actor", "mnist_mlp", "wide", "relu64")
    for row in rows.ROWS.values():
        work = row.work
        assert work.rows % work.batch_size == 0
        assert row.check_rows * row.check_epochs == row.check_steps * work.batch_size
        assert row.check_steps >= 2
        batches = row.check_rows // work.batch_size
        for count in (row.check_steps, work.steps_per_epoch, batches):  # whole graphs
            assert count % min(8, row.check_steps, work.steps_per_epoch) == 0
        assert row.goal == (10.0 if row.name in {"tiny", "surrogate"} else 1.0)
    large = rows.ROWS["relu64 2,097,152"]
    assert large.step_flops == 6 * 2**21 * (5 * 64 * 64 + 64 * 16)
    assert large.check_steps == 2
    X, y = rows.data_for(rows.ROWS["relu64 1,024"].work)
    assert (X.shape, y.shape) == ((2**18, 64), (2**18, 16))
    assert np.array_equal(X[: 2**16], X[2**16 : 2**17])


def test_a_part_has_its_share_and_leaves_the_rest_to_others():
    clock = Clock()
    budget = Budget(100.0, {"a": 1.0, "b": 3.0, "c": 1.0}, clock)
    first = budget.begin("a")
    assert first.left() == pytest.approx(20.0)
    assert first.within(0.25).left() == pytest.approx(5.0)
    clock.now += 5.0
    second = budget.begin("b")
    assert second.left() == pytest.approx(95.0 * 3 / 4)
    clock.now += 200.0
    assert second.left() == 0.0
    assert budget.begin("c").left() == 0.0


def test_all_parts_run_though_one_fails(capsys):
    clock, seen = Clock(), []

    def part(name, chosen, deadline):
        seen.append((name, deadline.left()))
        clock.now += 40.0
        if name == "questions":
            raise RuntimeError("it broke")
        return {"failures": [], "not_run": [f"something of {name}"]}

    options = program.parse(["--budget", "230", "--workloads", "tiny"])
    result = program.measure(options, {}, "command", part, clock)
    assert [name for name, _ in seen] == ["correctness", "questions", "ceilings", "speed"]
    assert seen[0][1] == pytest.approx(75.0)
    assert seen[1][1] == pytest.approx(190.0 * 30 / 310)
    assert seen[3][1] == pytest.approx(110.0)
    assert failures(result) == ["questions: RuntimeError: it broke"]
    assert "speed: something of speed" in not_run(result)
    assert result["seconds"] == 160.0
    assert "it broke" in capsys.readouterr().err


# Helpers.


class FakeHelper:
    """Does what a task's name says."""

    made = 0

    def __init__(self, name):
        type(self).made += 1

    def call(self, patience, side, function, /, **arguments):
        error = {"wrong": Failed, "absent": Skipped, "broken": WorkerError}.get(function)
        if error:
            raise error(f"{function} indeed")
        return {"value": arguments["n"]}

    def close(self):
        pass


def test_tasks_go_on_after_failures():
    FakeHelper.made = 0
    tasks = [
        Task(f"{i} {name}", "side", name, {"n": i})
        for i, name in enumerate(["fine", "wrong", "absent", "broken", "fine"])
    ]
    lines = []
    found = run_tasks(tasks, 1, Deadline(60.0), lines.append, FakeHelper)
    assert found["4 fine"].content == {"value": 4}
    assert found["1 wrong"].failure == "wrong indeed"
    assert found["2 absent"].reason == "absent indeed"
    assert found["3 broken"].failure == "broken indeed"
    assert FakeHelper.made == 2  # anew after the broken one
    assert len(lines) == 2
    late = run_tasks(tasks, 3, Deadline(0.0), quiet, FakeHelper)
    assert {outcome.reason for outcome in late.values()} == {"no time was left"}


def test_a_true_helper_answers_fails_and_ends_in_time():
    with Helper("a helper") as helper, pytest.raises(WorkerError, match="KeyError"):
        helper.call(60.0, "checks", "nothing of the kind")
    with Helper("a helper") as helper, pytest.raises(WorkerError, match="in time"):
        helper.call(0.0, "checks", "golden", number=0, dtype="float64")


# Contestants.


def test_a_wrong_loss_is_never_timed():
    class Wrong:
        def loss_after(self):
            return 1.0, 0.6

        def times(self, seconds):
            raise AssertionError

    with pytest.raises(Failed, match=r"the loss after 2 steps is 0\.6, and on the processor 0\.5"):
        contend(Wrong, rows.ROWS["relu64 2,097,152"], (1.0, 0.5), 1.0)


def test_short_epochs_are_timed_together():
    calls = []
    found = epoch_times(calls.append, 0.0)
    assert calls[:2] == [1, 1]
    assert calls[2] > 1
    assert len(found) == 1
    assert grouped([0.01, 0.012, 0.01, 0.012, 5.0]) == pytest.approx([0.011, 0.011])
    assert grouped([0.5, 0.25]) == [0.5, 0.25]


def test_fastbp_on_a_simulated_gpu(gpu, monkeypatch):
    monkeypatch.setattr(rows, "CHECK_STEPS", 2)
    expected = Contestant(SMALL, "cpu").loss_after()
    found = contend(lambda: Contestant(SMALL, "cuda"), SMALL, expected, 0.0)
    assert found["losses"] == pytest.approx(expected, rel=1e-5)
    assert found["epoch_seconds"] > 0
    assert found["repetitions"] >= 1


@pytest.mark.parametrize("row", [SMALL, CLASSES], ids=lambda row: row.name)
@pytest.mark.parametrize("kind", ["eager", "graph"])
def test_torch_as_a_peer(row, kind):
    pytest.importorskip("torch")
    from benchmarks.gpu import peers_torch

    expected = Contestant(row, "cpu").loss_after()
    found = contend(lambda: peers_torch.Contestant(row, kind, "cpu"), row, expected, 0.0)
    assert found["losses"] == pytest.approx(expected, rel=1e-4)
    assert found["epoch_seconds"] > 0
    if not peers_torch.torch.cuda.is_available():
        with pytest.raises(Skipped, match="sees no GPU"):
            peers_torch.compete("tiny", kind, expected, 0.0)


@pytest.mark.parametrize("row", [SMALL, CLASSES], ids=lambda row: row.name)
def test_jax_as_a_peer(row):
    pytest.importorskip("jax")
    from benchmarks.gpu import peers_jax

    expected = Contestant(row, "cpu").loss_after()
    found = contend(lambda: peers_jax.Contestant(row, "cpu"), row, expected, 0.0)
    assert found["losses"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(Skipped, match="no tpu device"):
        peers_jax.find_device("tpu")


# Checks and questions, on a simulated GPU.


def test_the_bounds_are_those_of_the_golden_tests():
    assert checks.GOLDEN_BOUNDS["float32"] == test_golden.FLOAT32_TRAJECTORY_BOUND
    assert checks.NOISE_BOUNDS["float32"] == test_golden.FLOAT32_ADAM_ON_NOISE_BOUND
    assert len(golden.CASES) == checks.GOLDEN_CASES == correctness.GOLDEN_CASES


def test_checks_of_a_simulated_gpu(gpu, monkeypatch):
    assert checks.check_golden(0, "float64", epochs=1)["error"] < 1e-12
    monkeypatch.setitem(checks.GOLDEN_BOUNDS, "float64", -1.0)
    with pytest.raises(Failed, match="off by"):
        checks.check_golden(0, "float64", epochs=1, device="cpu")
    errors = checks.check_against_processor(SMALL.work)
    assert errors["step"] < 1e-13
    one = Workload("one", (2, 3, 1), "tanh", "mse", "sgd", 0.1, 2, 4, 1.0, False)
    for way in ("resident", "layered"):
        first, second = checks.hash_runs(one, way, "float64", 2)["digests"]
        assert first == second


def test_questions_on_a_simulated_gpu():
    device = SimulatedDevice(multiprocessors=2)
    found = questions.measure_launches(device, launches=3)["microseconds"]
    assert list(found) == ["1", "4", "16"]
    assert questions.measure_replay(device, launches=4, replays=2)["works"]
    found = questions.measure_barriers(device, count=2)["microseconds"]
    assert list(found) == ["grid of 1 block", "grid of 2 blocks", "block"]
    assert questions.measure_copy(device, nbytes=4096)["bytes_per_second"] > 0


def test_the_small_kernels_compile():
    if importlib.util.find_spec("numba_cuda_mlir") is None:
        pytest.skip("numba-cuda-mlir is not installed: pip install '.[cuda-test]'")
    text = (
        "from benchmarks.gpu import kernels as k\n"
        "for entry in (k.empty(16), k.MULTIPLY_ADD, k.GRID_BARRIERS, k.BLOCK_BARRIERS):\n"
        "    assert entry.code((9, 0)).startswith(b'\\x7fELF')\n"
    )
    subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=True)


def test_preparing_compiles_all_that_would_be_launched(monkeypatch):
    compiled = []
    monkeypatch.setattr(Entry, "code", lambda self, capability: compiled.append(self) or b"")
    with prepared((9, 0), 232_448):
        checks.train_golden(0, "float64", 1, "cuda")
    assert len(compiled) == 1
    with prepared((9, 0), 232_448):
        checks.train_one_way(WORKLOADS["tiny"], "layered", "float32", "cuda")
    assert len(set(compiled)) > 4
    assert not choose.cuda_device.__name__.startswith("<")  # put back
    names = [task.name for task in preparing_tasks((9, 0), 1, ["tiny"], correctness.HASHED)]
    assert len(set(names)) == len(names) == 1 + len(correctness.HASHED) + 10 + 2 * 49


def test_outcomes_are_read_from_what_pytest_prints():
    text = (
        "tests/test_a.py::test_b[1-a b] PASSED                      [ 10%]\n"
        "tests/test_a.py::test_c FAILED [ 20%]\n"
        "tests/test_a.py::test_d SKIPPED (no driver) [ 30%]\n"
        "tests/test_a.py::test_e PASSED [ 40%]\n"
        "tests/test_a.py::test_e ERROR [ 40%]\n"
    )
    assert device_tests.read_outcomes(text) == {
        "tests/test_a.py::test_b[1-a b]": "PASSED",
        "tests/test_a.py::test_c": "FAILED",
        "tests/test_a.py::test_d": "SKIPPED",
        "tests/test_a.py::test_e": "ERROR",
    }


# The tests that run on a GPU.

DEVICE_FILES = [
    "tests/test_cuda_golden.py",
    "tests/test_cuda_gradients.py",
    "tests/test_cuda_layers.py",
    "tests/test_cuda_memory.py",
    "tests/test_cuda_precision.py",
    "tests/test_cuda_resume.py",
    "tests/test_cuda_rounds.py",
    "tests/test_cuda_statistics.py",
    "tests/test_cuda_stopping.py",
    "tests/test_cuda_training.py",
]


def test_all_files_that_take_the_gpu_run_on_it():
    assert device_tests.test_files() == DEVICE_FILES


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("def test_it(gpu): pass", True),
        ("def test_it(way, *, racing): pass", True),
        ("class TestIt:\n    def test_it(self, gpu): pass", True),
        ('pytestmark = pytest.mark.usefixtures("gpu")', True),
        ('pytestmark = [slow, pytest.mark.usefixtures("way", "racing")]', True),
        ('@mark.usefixtures("racing")\ndef test_it(): pass', True),
        ('@pytest.mark.usefixtures("way")\ndef test_it(): pass', False),
        ("def helper(gpu): pass", False),
        ("@pytest.fixture\ndef gpu(): pass\ndef test_it(gpu): pass", False),
        ("# from simulated import gpu", False),
    ],
)
def test_what_takes_the_gpu(text, taken):
    assert device_tests.takes_gpu(text) is taken


def collected(blocked):
    """The names of the tests for a GPU, on a machine without some packages."""
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "import pytest\n"
        "sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *device_tests.test_files()],
        cwd=ROOT,
        env=device_tests.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return [line for line in done.stdout.splitlines() if line.startswith("tests/")]


def test_they_need_no_package_of_the_simulator():
    names = collected(["greenlet", "mpmath"])
    assert {name.partition("::")[0] for name in names} == set(DEVICE_FILES)
    assert names == device_tests.collect(Deadline(60.0))


def test_the_switch_of_the_tests_never_falls_back_to_the_simulator(monkeypatch):
    if not choose.why_not_cuda(0):
        pytest.skip("for machines without a GPU")
    monkeypatch.setattr(device_tests, "test_files", lambda: ["tests/test_cuda_golden.py"])
    found = device_tests.run_device_tests(2, Deadline(60.0))
    assert list(found["counts"]) == ["SKIPPED"]
    assert found["counts"]["SKIPPED"] >= len(golden.CASES)
    assert found["not_run"] == []
