"""The GPU benchmark as a program, without a GPU: its budget, helpers, contestants and report."""

import importlib.util
import itertools
import json
import re
import subprocess
import sys

import golden
import numpy as np
import pytest
import test_golden
from simulated import gpu  # noqa: F401  (a fixture)
from simulator import SimulatedDevice

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import checks, correctness, device_tests, questions, rows, speed
from benchmarks.gpu.budget import Budget, Deadline
from benchmarks.gpu.contest import contend, epoch_times, grouped
from benchmarks.gpu.fastbp_side import Contestant
from benchmarks.gpu.helpers import Failed, Helper, Skipped, Task, run_tasks
from benchmarks.gpu.prepare import prepared, preparing_tasks
from benchmarks.gpu.report import failures, goals, not_run, report, write_json
from benchmarks.processes import ROOT, WorkerError
from benchmarks.report import BEGIN, END
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


def test_fastbp_on_a_simulated_gpu(gpu, monkeypatch):  # noqa: F811
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


def test_checks_of_a_simulated_gpu(gpu, monkeypatch):  # noqa: F811
    assert checks.check_golden(0, "float64", epochs=1)["error"] < 1e-12
    monkeypatch.setitem(checks.GOLDEN_BOUNDS, "float64", -1.0)
    with pytest.raises(Failed, match="off by"):
        checks.check_golden(0, "float64", epochs=1, device="cpu")
    errors = checks.check_against_processor(SMALL.work)
    assert errors["step"] < 1e-13
    digests = {
        digest
        for way in ("resident", "layered")
        for digest in checks.hash_runs(
            Workload("one", (2, 3, 1), "tanh", "mse", "sgd", 0.1, 2, 8, 1.0, False),
            way,
            "float64",
            1,
        )["digests"]
    }
    assert 1 <= len(digests) <= 2


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
        pytest.skip("numba-cuda-mlir is not installed")
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
    assert "tests/test_cuda_golden.py" in device_tests.test_files()


def test_the_switch_of_the_tests_never_falls_back_to_the_simulator(monkeypatch):
    if not choose.why_not_cuda(0):
        pytest.skip("for machines without a GPU")
    monkeypatch.setattr(device_tests, "test_files", lambda: ["tests/test_cuda_golden.py"])
    found = device_tests.run_device_tests(2, Deadline(60.0))
    assert found["counts"] == {"SKIPPED": len(golden.CASES)}
    assert found["not_run"] == []


# Parts, put together.


class FakeSide:
    """Answers as the helpers' functions would; JAX is missing, one contestant is wrong."""

    def __init__(self, name):
        pass

    def call(self, patience, side, function, /, **arguments):
        if function == "compete" and side == "jax":
            raise Skipped("JAX has no cuda device")
        if arguments.get("kind") == "compiled" and arguments["row"] == "tiny":
            raise Failed("the loss is wrong")
        factor = {"fastbp": 1.0, "torch": 4.0 if arguments.get("kind") == "graph" else 8.0}
        return {
            "golden": lambda: {"error": 1e-13},
            "against_processor": lambda: {"step": 1e-15, "epoch": 1e-12},
            "hashes": lambda: {"digests": ["a"] * arguments["runs"]},
            "reference": lambda: {"losses": [1.0, 0.5]},
            "compile": lambda: {"seconds": 1.0},
            "compete": lambda: {"losses": [1.0, 0.5], "epoch_seconds": 1e-3 * factor[side], "repetitions": 3, "median_seconds": 1.0, "setup_seconds": 1.0},
        }[function]()  # fmt: skip

    def close(self):
        pass


MACHINE = {
    "gpu": "NVIDIA H100, compute capability 9.0",
    "nvidia_smi": {"driver_version": "580.1", "clocks.max.sm": "1980 MHz", "clocks.max.memory": "2619 MHz", "power.limit": "700 W"},
    "processor": "A processor",
    "cores": 16,
    "system": "Linux",
    "python": "3.11",
    "versions": {"fastbp": "0.1"},
    "commit": "0123456789ab",
    "date": "2026-01-01",
}  # fmt: skip


def canned(monkeypatch):
    """A result of all parts."""
    monkeypatch.setattr(correctness, "missing_packages", lambda: ["hypothesis"])
    times = {"host": 2.0, "done": 3.0}
    facts = {
        "libraries": {"files": {"nvrtc": "nvidia/cu13/lib/libnvrtc.so.13 (site-packages)"}},
        "launches": {"microseconds": {"1": times, "4": times, "16": times}},
        "array_launches": None,
        "replay": {"works": True, "microseconds": {"100": times}},
        "barriers": {"microseconds": {"grid of 132 blocks": 1.25}},
    }
    ceilings = {
        "copy": {"bytes_per_second": 2.8e12},
        "multiply_adds": {"flops_per_second": 6e13},
    }
    chosen = ["tiny", "wide", "wide tf32"]
    return {
        "command": "python -m benchmarks.gpu",
        "machine": MACHINE,
        "settings": {},
        "parts": {
            "correctness": correctness.check_correctness(Deadline(60.0), 2, quiet, FakeSide),
            "questions": {"found": facts, "failures": ["array_launches: File /opt/some/where/api.py broke"], "not_run": []},
            "ceilings": {"found": ceilings, "failures": [], "not_run": []},
            "speed": speed.measure_speed(chosen, 2, Deadline(60.0), quiet, FakeSide),
        },
        "interrupted": False,
        "seconds": 300.0,
    }  # fmt: skip


def test_the_report_of_all_parts(monkeypatch, tmp_path):
    result = canned(monkeypatch)
    part = result["parts"]["correctness"]
    assert part["golden"]["float64"] == {"cases": 49, "held": 49, "worst": 1e-13}
    assert all(row["same"] and row["runs"] == 4 for row in part["runs"])
    text = report(result)
    for line in (
        "49 of 49 golden trajectories of 30 epochs held in float64",
        "9 of 9 networks and ways gave the same bits in 4 runs in two processes",
        "2,800 GB/s",
        "60.0 TFLOP/s",
        "Graph replay: works",
        "speed: jax, tiny: JAX has no cuda device",
        "speed: torch compiled, tiny: the loss is wrong",
        "the tests: not installed: hypothesis",
        "questions: array_launches: File api.py broke",
        "tiny, ratio to the best peer: 4.00, to be at least 10",
        "2 of 3 goals reached; 2 failures",
    ):
        assert line in text
    assert re.search(r"\| tiny +\| +65\.5 M +\| +16\.4 M +\| +- +\| +8\.19 M", text)
    assert [goal.reached for goal in goals(result)] == [False, True, True]
    write_json(result, tmp_path / "result.json")
    stored = json.loads((tmp_path / "result.json").read_text())
    found = stored["figures"]["wide"]
    assert found["best_peer"] == "torch graph"
    assert found["ratio"] == pytest.approx(4.0)
    operations = 8 * rows.ROWS["wide"].step_flops / 1e-3
    assert found["teraflops"] == pytest.approx(operations / 1e12)
    assert found["percent"] == pytest.approx(100 * operations / 6e13)
    assert stored["figures"]["wide tf32"]["percent"] is None
    assert "/opt/" not in text + (tmp_path / "result.json").read_text()


def test_different_bits_are_a_failure(monkeypatch):
    numbers = itertools.count()

    class Restless(FakeSide):
        def call(self, patience, side, function, /, **arguments):
            if function == "hashes":
                return {"digests": [str(next(numbers)) for _ in range(arguments["runs"])]}
            return super().call(patience, side, function, **arguments)

    monkeypatch.setattr(correctness, "missing_packages", lambda: ["pytest"])
    part = correctness.check_correctness(Deadline(60.0), 1, quiet, Restless)
    assert len(part["failures"]) == len(correctness.HASHED)
    assert "different bits" in part["failures"][0]


def test_what_has_no_time_left_is_listed(monkeypatch):
    monkeypatch.setattr(speed, "LEAST_SECONDS", 100.0)
    part = speed.measure_speed(["tiny"], 1, Deadline(60.0), quiet, FakeSide)
    assert part["rows"]["tiny"]["contestants"] == {}
    assert part["not_run"] == [f"{name}, tiny: no time was left" for name in speed.CONTESTANTS]


def test_without_a_gpu_nothing_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(choose, "why_not_cuda", lambda ordinal=None: "there is no NVIDIA driver")
    monkeypatch.setattr(program, "DOCUMENTS", tmp_path)
    assert program.main([]) == 2
    assert list(tmp_path.iterdir()) == []
    assert "there is no NVIDIA driver" in capsys.readouterr().err


def test_a_whole_run_writes_both_files(monkeypatch, tmp_path, capsys):
    result = canned(monkeypatch)
    monkeypatch.setattr(program, "DOCUMENTS", tmp_path)
    monkeypatch.setattr(program, "find_gpu", lambda: ("a GPU", ""))
    monkeypatch.setattr(program, "measure", lambda *arguments: result)
    page = tmp_path / "benchmarks-gpu.md"
    page.write_text(f"before\n\n{BEGIN}\n\nNot run yet.\n\n{END}\n")
    assert program.main(["--only", "speed"]) == 1
    assert "Not run yet." in page.read_text()
    assert program.main([]) == 1
    assert "Not run yet." not in page.read_text()
    assert page.read_text().startswith("before\n")
    assert (tmp_path / "benchmarks-gpu.json").exists()
    assert "### Training speed" in capsys.readouterr().out


def test_the_command_line_refuses_nonsense():
    for arguments in (
        ["--only", "fun"],
        ["--budget", "0"],
        ["--workloads", "huge"],
        ["--prepare", "new"],
    ):
        with pytest.raises(SystemExit):
            program.parse(arguments)
    assert program.parse(["--only", "speed", "--only", "ceilings"]).only == ("ceilings", "speed")
