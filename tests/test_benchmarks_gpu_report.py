"""The GPU benchmark's parts put together, over made-up measurements: its report, goals and files."""

import dataclasses
import itertools
import json
import re

import pytest

import fastbp as fb
from benchmarks.gpu import __main__ as program
from benchmarks.gpu import correctness, rows, speed
from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.helpers import Failed, Skipped
from benchmarks.gpu.report import goals, report, write_json
from benchmarks.report import BEGIN, END
from benchmarks.workloads import make_data
from fastbp.backends import choose


def quiet(text):
    pass


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
    moved = 8 * rows.ROWS["wide"].step_bytes / 1e-3
    assert found["gigabytes_per_second"] == pytest.approx(moved / 1e9)
    assert found["percent_of_copy"] == pytest.approx(100 * moved / 2.8e12)
    assert stored["figures"]["wide tf32"]["percent"] is None
    assert stored["figures"]["wide tf32"]["percent_of_copy"] == found["percent_of_copy"]
    assert "/opt/" not in text + (tmp_path / "result.json").read_text()


def test_the_table_of_speeds_has_bytes_beside_operations(monkeypatch):
    result = canned(monkeypatch)
    header, _, tiny, *_ = table_of(report(result))
    assert header[-4:] == ["TFLOP/s", "of multiply-adds", "GB/s at least", "of copy"]
    # 65,536 rows in batches of 32 within a millisecond: 2.048 million steps a second.
    operations = 2.048e6 * 6 * 32 * (4 * 32 + 32 * 32 + 32) / 1e12
    moved = 2.048e6 * (32 * 4 * 5 + 2 * 3 * 4 * (5 * 32 + 33 * 32 + 33)) / 1e9
    percent = [f"{100 * operations / 60:.1f}%", f"{100 * moved / 2800:.1f}%"]
    assert tiny[-4:] == [f"{operations:.2f}", percent[0], f"{moved:,.1f}", percent[1]]
    result["parts"]["ceilings"]["found"]["copy"] = None
    assert table_of(report(result))[2][-2:] == [f"{moved:,.1f}", "-"]
    result["parts"]["speed"]["rows"]["tiny"]["contestants"].pop("fastbp")
    assert table_of(report(result))[2][-2:] == ["-", "-"]


def table_of(text):
    """The cells of the table of speeds; the text above it says what its bytes are."""
    _, _, part = text.partition("### Training speed")
    about, _, table = part.partition("\n|")
    assert "inputs and targets of the batch read once, parameters" in " ".join(about.split())
    lines = ["|" + line for line in ("|" + table).split("\n|")]
    return [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in lines]


@pytest.mark.parametrize("row", rows.ROWS.values(), ids=list(rows.ROWS))
def test_the_least_bytes_of_a_step(row):
    """Counted from the arrays that are trained on and from what the optimizer keeps."""
    work = row.work
    X, y = make_data(dataclasses.replace(work, rows=2))
    network = fb.mlp(*work.sizes)
    optimizer = fb.Optimizer.resolve(work.optimizer)
    state = 4 * network.parameter_count * (1 + len(optimizer.slots))
    assert row.step_bytes == work.batch_size * (X.nbytes + y.nbytes) // 2 + 2 * state


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
