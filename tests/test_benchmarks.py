"""The benchmark as a program: its table of workloads, its arithmetic, its reports. Nothing timed."""

import json
import math
import re

import numpy as np
import pytest
import reference

from benchmarks import layer_statistics
from benchmarks.__main__ import main, parse
from benchmarks.fastbp_side import Contestant
from benchmarks.peak import gigaflops, vector_lanes
from benchmarks.processes import MissingLibraryError, WorkerError, WorkerProcess
from benchmarks.report import BEGIN, END, replace_between_markers, report, short_number
from benchmarks.summary import goals, paired_ratio, shortfalls, single_row_overhead, summarize
from benchmarks.verify import VerificationError, check_losses
from benchmarks.workloads import WORKLOADS, initial_parameters, make_data

DESCRIPTIONS = {
    "tiny": "4-32-32-1 tanh, mse, Adam, batch 32",
    "surrogate": "8-64-64-1 tanh, mse, Adam, batch 256",
    "simplechains": "4-32-16-4 tanh, mse, Adam, full batch 10,000",
    "deep_narrow": "16-8x32-4 relu, mse, Adam, batch 64",
    "online": "10-32-1 tanh, mse, SGD, batch 1",
    "actor": "17-256-256-6 relu, mse, Adam, batch 256",
    "higgs": "28-5x300-1 tanh, mse, SGD, batch 100",
    "mnist_small": "784-128-10 relu, ce, SGD, batch 128",
    "mnist_mlp": "784-512-512-10 relu, ce, Adam, batch 256",
    "wide": "1024-2048-2048-10 relu, ce, Adam, batch 512",
}


def canned(rate=lambda work: 10.0 * work.goal, large=2.0, small=1.0):
    """A result in which every peer makes 10 samples a second."""
    records = {}
    for name, work in WORKLOADS.items():
        own = rate(work)
        rates = {f"{peer}-{n}": [10.0] * 3 for peer in ("torch", "jax", "sklearn") for n in (1, 2)}
        rates["fastbp-1"] = [own, own, 2 * own]
        rates["fastbp-2"] = [(large if work.scales else small) * r for r in rates["fastbp-1"]]
        rates["fastbp-float64-1"] = [0.6 * r for r in rates["fastbp-1"]]
        records[name] = {
            "description": work.describe(),
            "batch_size": work.batch_size,
            "rows": work.rows,
            "step_flops": work.step_flops,
            "verified": {},
            "rates": rates,
            "peak_gigaflops": {"1": [100.0] * 3, "2": [200.0] * 3, "float64-1": [50.0] * 3},
            "compile_seconds": {"fastbp-1": 5.0, "jax-1": 1.0},
            "cores_of_others": 0.02,
            "errors": {},
            "missing": [],
        }
    return {
        "command": "python -m benchmarks",
        "machine": {
            "processor": "A processor",
            "cores": 2,
            "float32_lanes": 16,
            "system": "Linux",
            "python": "3.11",
            "versions": {"fastbp": "0.1"},
            "date": "2026-01-01",
        },
        "settings": {
            "rounds": 3,
            "seconds": 1.0,
            "threads": [1, 2],
            "peers": ["torch", "jax", "sklearn"],
        },
        "workloads": records,
        "verification_failures": [],
        "prediction": {
            "batch": {"actor": {"fastbp": [30.0], "jax": [10.0], "torch": [5.0]}},
            "latency": {"fastbp": {"1": [4.0], "32": [35.0]}},
            "errors": {},
        },
        "startup": {
            "import_seconds": 0.1,
            "first_training_seconds": 0.5,
            "first_training_empty_cache_seconds": 6.0,
        },
        "seconds": 600.0,
    }


def test_the_workloads_are_those_of_the_table():
    assert {name: work.describe() for name, work in WORKLOADS.items()} == DESCRIPTIONS
    goal = [4.5, 3, 6, 3, 3, 1.4, 1.2, 1.25, 1.15, 1.15]
    assert [work.goal for work in WORKLOADS.values()] == goal
    for name, work in WORKLOADS.items():
        assert work.name == name
        assert work.rows % work.batch_size == 0


@pytest.mark.parametrize("name", ["tiny", "deep_narrow", "higgs"])
def test_flops_are_those_of_the_products_counted_one_by_one(name):
    work = WORKLOADS[name]
    count = 0
    for i, (weight, _) in enumerate(initial_parameters(work)):
        a, delta = np.empty((work.batch_size, weight.shape[0])), np.empty((work.batch_size, 1))
        forward = a.shape[0] * a.shape[1] * weight.shape[1]
        gradient = a.T.shape[0] * delta.shape[0] * weight.shape[1]
        backward = delta.shape[0] * weight.shape[1] * weight.shape[0] if i else 0
        count += 2 * (forward + gradient + backward)
    assert work.step_flops == count


@pytest.mark.parametrize("name", ["tiny", "online", "mnist_small"])
def test_data_have_the_documented_shapes_and_are_always_the_same(name):
    work = WORKLOADS[name]
    X, y = make_data(work)
    again, _ = make_data(work)
    assert np.array_equal(X, again)
    assert X.shape == (work.rows, work.sizes[0])
    assert X.dtype == np.float32
    assert X.flags.c_contiguous
    if work.loss == "cross_entropy":
        assert y.shape == (work.rows,)
        assert set(y) == set(range(work.sizes[-1]))
    else:
        assert y.shape == (work.rows, work.sizes[-1])
        assert y.dtype == np.float32


def test_ratios_are_taken_round_by_round():
    assert paired_ratio([1.0, 20.0, 300.0], [1.0, 10.0, 100.0]) == 2.0
    assert paired_ratio([1.0], None) is None
    assert single_row_overhead({"1": [4.0], "32": [35.0]}) == 3.0
    assert single_row_overhead({}) is None


def test_figures_of_a_canned_result():
    record = canned()["workloads"]["tiny"]
    record["rates"]["jax-1"] = [20.0] * 3
    record["rates"]["torch-2"] = [15.0] * 3
    work = WORKLOADS["tiny"]
    found = summarize(record, 1)
    assert found["best_peer"] == "jax-1"
    assert found["ratio"] == pytest.approx(45 / 20)
    assert found["ratio_to_sklearn"] == pytest.approx(4.5)
    assert found["step_microseconds"] == pytest.approx(32 / 45 * 1e6)
    operations = 45 / 32 * work.step_flops
    assert found["percent_of_peak"] == pytest.approx(100 * operations / 100e9)
    found = summarize(record, 2)
    assert found["ratio"] == pytest.approx(45 / 15)
    assert found["ratio_to_best_thread_count"] == pytest.approx(45 / 20)
    found = summarize(record, 1, "float64")
    assert found["ratio_to_one_thread"] == pytest.approx(0.6)
    assert found["percent_of_peak"] == pytest.approx(100 * 0.6 * operations / 50e9)


def test_check_passes_where_every_goal_is_reached():
    result = canned()
    assert shortfalls(result) == []
    assert len(goals(result)) == 10 * 4 + 1 + 1 + 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda r: r["startup"].update(import_seconds=0.2), "import fastbp"),
        (lambda r: r["prediction"]["latency"]["fastbp"].update({"1": [9.0]}), "one row"),
        (lambda r: r["prediction"]["batch"]["actor"].update(jax=[16.0]), "actor, prediction"),
        (lambda r: r["workloads"]["wide"]["rates"].update({"torch-2": [99.0] * 3}), "wide, 2 threads"),
        (lambda r: r["workloads"]["online"]["rates"].pop("fastbp-2"), "not measured"),
        (lambda r: r["workloads"]["actor"]["errors"].update({"jax-1": "run: it died"}), "it died"),
        (lambda r: r["verification_failures"].append("tiny: the gradient is off"), "is off"),
    ],
)  # fmt: skip
def test_check_names_what_falls_short(change, complaint):
    result = canned()
    change(result)
    found = shortfalls(result)
    assert found
    assert any(complaint in line for line in found)


def test_check_wants_two_threads_to_help_the_large_and_not_to_harm_the_small():
    assert len(shortfalls(canned(large=1.5))) == 5
    slower = [line for line in shortfalls(canned(small=0.9)) if "two threads by one" in line]
    assert len(slower) == 5


def test_the_report_has_every_workload_and_says_who_failed(tmp_path):
    result = canned()
    result["workloads"]["wide"]["errors"]["torch-2"] = "run: torch float32 2 threads: it died"
    del result["workloads"]["wide"]["rates"]["torch-2"]
    text = report(result)
    for name in WORKLOADS:
        assert len(re.findall(rf"\| {name} ", text)) >= 3
    assert "it died" in text
    assert "A processor" in text
    assert "no quiet machine" not in text
    result["workloads"]["tiny"]["cores_of_others"] = 1.0
    assert "no quiet machine" in report(result)

    path = tmp_path / "benchmarks.md"
    path.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    replace_between_markers(path, text)
    once = path.read_text()
    replace_between_markers(path, text)
    assert path.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert text.strip() in once


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1_861_234.0, "1.86 M"),
        (999_900.0, "1.00 M"),
        (178_000.0, "178 k"),
        (9_400.0, "9.40 k"),
        (12.0, "12"),
        (None, "-"),
    ],
)
def test_short_numbers(number, text):
    assert short_number(number) == text


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.picture import draw

    result = canned()
    del result["workloads"]["wide"]["rates"]["fastbp-2"]
    draw(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_peak_is_a_positive_number(dtype):
    assert vector_lanes(dtype) in {2, 4, 8, 16}
    for threads in (1, 2):
        found = gigaflops(dtype, threads, 0.0)
        assert math.isfinite(found)
        assert found > 0


def test_losses_that_differ_from_a_peers_stop_a_workload():
    work, own = WORKLOADS["tiny"], {"before": 1.0, "after": 0.5}
    check_losses(work, {"fastbp": own, "jax": {"before": 1.0, "after": 0.5001}})
    with pytest.raises(VerificationError, match="jax"):
        check_losses(work, {"fastbp": own, "jax": {"before": 1.0, "after": 0.502}})
    with pytest.raises(VerificationError, match="did not fall"):
        check_losses(work, {"fastbp": {"before": 1.0, "after": 1.0}})


def test_the_steps_of_the_check_are_those_of_the_reference():
    work = WORKLOADS["tiny"]
    before, after = Contestant(work, 1, "float64").loss_after(3 * work.batch_size, 1)
    X, y = make_data(work, "float64")
    weights = [(w.astype(float), b.astype(float)) for w, b in initial_parameters(work)]
    activations = ["tanh", "tanh", "identity"]
    rows = np.arange(3 * work.batch_size)
    trained, objectives = reference.train(
        weights, activations, X, y, "mse", "adam", {"learning_rate": 1e-3}, np.split(rows, 3)
    )
    outputs = reference.forward(trained, activations, X[rows])
    assert after == pytest.approx(reference.batch_loss("mse", outputs, y[rows]), rel=1e-12)
    assert before != after
    assert len(objectives) == 3


def test_a_worker_that_fails_says_why():
    with (
        WorkerProcess("fastbp", "no such workload") as worker,
        pytest.raises(WorkerError) as raised,
    ):
        worker.wait_until_ready()
    assert not isinstance(raised.value, MissingLibraryError)
    assert "no such workload" in str(raised.value)


def test_the_command_line_refuses_nonsense_and_partial_runs_write_nothing():
    assert parse(["--workloads", "tiny"]).json is None
    for arguments in (
        ["--workloads", "huge"],
        ["--rounds", "0"],
        ["--peers", "abacus"],
        ["--threads", "0"],
    ):
        with pytest.raises(SystemExit):
            parse(arguments)


def test_a_short_run_of_fastbp_alone(tmp_path, capsys):
    path = tmp_path / "result.json"
    arguments = (
        "--workloads online --rounds 1 --seconds 0.01 --threads 1 --parts training "
        f"--ordinary-cache --json {path}"
    ).split()
    assert main([*arguments, "--peers", ""]) == 0
    result = json.loads(path.read_text())
    record = result["workloads"]["online"]
    assert record["errors"] == {}
    assert record["rates"]["fastbp-1"][0] > 0
    assert record["cores_of_others"] is None or record["cores_of_others"] >= 0
    assert record["verified"]["gradient_errors"]["float64"] < 1e-10
    figures = result["figures"]["online"]["1"]
    assert 0 < figures["percent_of_peak"] < 100
    assert figures["ratio"] is None
    assert "| online" in capsys.readouterr().out
    assert shortfalls(result)  # no peer, no ratio


def test_costs_of_looking_at_layers():
    """A look of 2 ms every 4 epochs of 10 ms takes a twentieth of the time."""
    costs = layer_statistics.Costs(
        10, 4.0, [0.001, 0.002, 0.5], [(0.2, 0.1), (0.1, 0.1), (0.3, 0.1)]
    )
    assert costs.share == pytest.approx(0.05)
    assert costs.ratios == pytest.approx((2.0, 1.5, 2.5))


def test_a_short_run_of_looking_at_layers(monkeypatch):
    """Runs that look do so after their first epoch and then at intervals; the others never."""
    looks = layer_statistics.Clock
    clocks = []

    def clock():
        clocks.append(looks())
        return clocks[-1]

    monkeypatch.setattr(layer_statistics, "Clock", clock)
    costs = layer_statistics.measure(WORKLOADS["online"], 2, 0.01, 1)
    assert [len(each.looks) for each in clocks] == [1 + int(costs.epochs / costs.interval)] * 2
    assert len(costs.looks) == sum(len(each.looks) - 1 for each in clocks) > 0
    assert len(costs.seconds) == 2
    assert min(min(pair) for pair in costs.seconds) > 0
