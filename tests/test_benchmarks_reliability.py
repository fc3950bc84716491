"""The benchmark of reliability: small runs of the same code, and that it can find something."""

import ast
import json
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import fault_checks
import numpy as np
import pytest

from benchmarks.reliability import __main__ as command
from benchmarks.reliability import bits, faults, float32, gradients, memory, networks, scaling
from benchmarks.reliability.subjects import SUBJECTS, Outcome, Request, look_at
from fastbp.activations import Activation
from fastbp.losses import Loss

ROOT = Path(__file__).parents[1]
HALF_A_PERMILLE = Request(scale=0.0005)


# Networks.


def test_every_activation_meets_every_loss():
    pairs = len(Activation.names()) * len(Loss.names())
    problems = [networks.random_problem(i, 0) for i in range(pairs)]
    found = {(name, p.loss) for p in problems for name in p.activations}
    assert len(found) == pairs
    again = networks.random_problem(7, 0)
    assert np.array_equal(again.flat, problems[7].flat)
    assert not np.array_equal(networks.random_problem(7, 1).flat[:1], again.flat[:1])


@pytest.mark.parametrize("dtype", gradients.DTYPES)
def test_all_laws_are_compiled_ahead(dtype, monkeypatch):
    built = []
    monkeypatch.setattr(gradients, "build", lambda *arguments: built.append(arguments))
    gradients.compile_gradients(dtype)
    networks_built, purposes, losses, _, dtypes, _ = map(list, zip(*built, strict=True))
    laws = {network.layers[0].activation.name for network in networks_built}
    assert laws == set(Activation.names())
    assert {loss.name for loss in losses} == set(Loss.names())
    assert (set(purposes), set(dtypes)) == ({"gradient"}, {dtype})


def test_a_small_run_of_gradients():
    outcome = gradients.check(HALF_A_PERMILLE)
    assert (outcome.cases, outcome.broken) == (50, [])
    assert set(outcome.figures["largest"]) == {"loss", "gradient", "direction", "entries"}
    assert 0 < max(outcome.figures["largest"].values()) < 1e-13


def test_shares_in_several_processes_give_the_same(monkeypatch):
    monkeypatch.setattr(gradients, "SHARE", 20)
    one, two = (gradients.check(Request(0.0005, workers, 3)) for workers in (1, 2))
    assert one.cases == 50  # three shares
    assert one.figures == two.figures


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_an_error_of_a_billionth_is_found(what, monkeypatch):
    exact = networks.Problem.derivatives

    def wrong(problem, dtype="float64"):
        loss, gradient = exact(problem, dtype)
        if what == "loss":
            return loss + 1e-9 * max(1.0, abs(loss)), gradient
        gradient[np.abs(gradient).argmax()] += 1e-9 * max(1.0, np.abs(gradient).max())
        return loss, gradient

    monkeypatch.setattr(networks.Problem, "derivatives", wrong)
    outcome = gradients.check(HALF_A_PERMILLE)
    assert outcome.figures["failures"] == 50
    assert outcome.broken
    assert outcome.figures["largest"][what] == pytest.approx(1e-9, rel=1e-3)
    if what == "gradient":  # the chain rule of the reference has no part in this one
        assert outcome.figures["largest"]["direction"] > 1e-12


def test_a_number_at_a_kink_is_said_and_not_counted(monkeypatch):
    problem = networks.random_problem(0, 0, activations=("relu",), losses=("mse",))
    assert networks.nearest_kink(problem) > 1e-12
    W, b = problem.weights[0]
    b = b - (problem.X[0] @ W + b)
    at_kink = replace(problem, weights=[(W, b), *problem.weights[1:]])
    assert networks.nearest_kink(at_kink) < 1e-12
    monkeypatch.setattr(gradients, "random_problem", lambda number, seed: at_kink)
    monkeypatch.setattr(gradients, "errors_of", lambda *_: {"gradient": 0.1})
    outcome = gradients.check(Request(1e-5))
    assert outcome.broken == []
    assert len(outcome.figures["at_kinks"]) == 1
    monkeypatch.setattr(gradients, "random_problem", lambda number, seed: problem)
    assert len(gradients.check(Request(1e-5)).broken) == 1


def test_a_small_run_of_float32(monkeypatch):
    outcome = float32.check(Request(0.005))
    assert (outcome.cases, outcome.broken) == (100, [])
    assert 0 < outcome.figures["gradient"]["50%"] < outcome.figures["gradient"]["100%"] < 4
    monkeypatch.setattr(networks, "nearest_kink", lambda problem: 1.0)
    monkeypatch.setattr(float32, "scaled_error", lambda found, expected: 1e-2)
    assert float32.check(Request(0.0001)).broken


def test_a_small_run_of_powers_of_two():
    outcome = scaling.check(Request(0.005))
    assert (outcome.cases, outcome.broken) == (50, [])
    assert outcome.figures["differing_bits"] == 0


def test_bits_are_counted(monkeypatch):
    one = np.float64(1.0)
    assert scaling.differing_bits(one, np.nextafter(one, 2)) == 1
    assert scaling.differing_bits(np.float32([0.0, 2.0]), np.float32([-0.0, 2.0])) == 0
    assert scaling.differing_bits(1.0, -1.0) == 1
    exact = networks.Problem.derivatives

    def rounded_twice(problem, dtype="float64"):
        """As if 1/n were rounded before it is multiplied by a size of the data."""
        loss, gradient = exact(problem, dtype)
        size = gradient.dtype.type(np.abs(problem.X).max())
        return loss, (gradient + size) - size

    monkeypatch.setattr(networks.Problem, "derivatives", rounded_twice)
    outcome = scaling.check(Request(0.001))
    assert outcome.figures["differing_bits"] > 0
    assert outcome.broken


# Planted faults.


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.what)
def test_every_fault_can_be_planted(fault):
    """So that none rots: the old text is there once, the new text is Python, the room exists."""
    text = (ROOT / "fastbp" / fault.file).read_text(encoding="utf-8")
    faulty = fault.applied(text)
    assert faulty != text
    ast.parse(faulty)
    assert fault.room in fault_checks.ROOMS
    for other in (text.replace(fault.old, ""), text + fault.old):
        with pytest.raises(ValueError, match=r"occurs [02] times"):
            fault.applied(other)


def test_faults_are_many_and_differ():
    edits = {(fault.file, fault.old, fault.new) for fault in faults.FAULTS}
    assert len(edits) == len({fault.what for fault in faults.FAULTS}) == len(faults.FAULTS) >= 60
    assert len(faults.chosen(0.1)) == round(0.1 * len(faults.FAULTS))
    assert set(fault_checks.LONG) < set(fault_checks.ROOMS)


@pytest.mark.parametrize("room", fault_checks.ROOMS)
def test_the_tests_of_every_room_pass_without_a_fault(room):
    fault_checks.ROOMS[room]()


def by_name(what):
    return next(fault for fault in faults.FAULTS if fault.what == what)


def test_some_faults_are_found(tmp_path):
    """In a law, in a kernel and in Python; and nothing is found where there is none."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    server = faults.Server()
    try:
        faults.prepare(server, len(fault_checks.PARTS) - 1, cache)
        laws, kernels, runs = (
            faults.run_fault(server, by_name(what), cache)
            for what in (
                "tanh: the sign in its derivative",
                "every batch reads the rows of the first",
                "an engine of another loss is used again",
            )
        )
        ending = faults.Fault(
            "shuffle.py", "MASK = 0xFFFFFFFF", "import os; os._exit(3)", "", "laws"
        )
        ended = faults.run_fault(server, ending, cache)
        nowhere = replace(ending, new="MASK = 0xFFFFFFFF  # none", room="schedules")
        (tmp_path / "plain").mkdir()
        plain = server.run(faults.plant(nowhere, tmp_path / "plain"), cache, "schedules", 2)
    finally:
        server.close()
    assert laws["plain"]
    assert laws["found_by"]["room"] == "laws"
    assert not kernels["plain"]
    assert kernels["found_by"]["room"] == "kernels"
    assert not runs["plain"]
    assert runs["found_by"]["room"] == "reuse"
    assert ended["found_by"]["message"] == "it ended with status 3"
    assert (plain["plain"], plain["found_by"]) == (False, None)


def test_a_fault_that_is_missed_breaks_the_promise(monkeypatch):
    missed, found = (
        {"plain": False, "found_by": None},
        {"plain": True, "found_by": {"room": "laws"}},
    )
    monkeypatch.setattr(
        faults,
        "run_faults",
        lambda chosen, request: {chosen[0]: missed, **dict.fromkeys(chosen[1:], found)},
    )
    outcome = faults.check(Request())
    assert outcome.broken == [f"not found: {faults.FAULTS[0].file}, {faults.FAULTS[0].what}"]
    assert outcome.figures["found"] == len(faults.FAULTS) - 1
    assert outcome.figures["missed_by_a_plain_check"] == 1


# Bits and memory.


def test_a_small_run_of_bits(monkeypatch):
    monkeypatch.setattr(bits, "widths", lambda: {"here": {}})
    outcome = bits.check(Request(0.01))
    assert outcome.broken == []
    assert outcome.cases == len(bits.THREADS) * len(bits.DTYPES)
    monkeypatch.setattr(
        bits, "in_a_process", lambda *_: {"float32, 1": {"a": 1, "b": 1}, "float64, 1": {"a": 2}}
    )
    assert bits.check(Request()).broken == ["float32: 2 hashes, ['a', 'b']"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_small_run_of_memory():
    outcome = memory.check(Request(0.01))
    assert outcome.broken == []
    assert outcome.figures["failures"]["count"] >= 280


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_leak_is_seen():
    kept = []

    def leak(count):  # pages of its own: memory from the heap may be some that a test gave back
        kept.append(mmap.mmap(-1, 4 * memory.BOUND))
        kept[-1].write(bytes(4 * memory.BOUND))

    readings = memory.readings_of(leak, 10)
    assert max(readings[1:]) - readings[0] > memory.BOUND


def test_a_call_that_should_fail_and_does_not(tmp_path):
    with pytest.raises(RuntimeError, match="call 0 did not fail"):
        memory.fail([lambda: None], 1)
    calls = memory.failing_calls(tmp_path)
    memory.fail(calls, len(calls))


# The command.


@pytest.fixture
def subjects(monkeypatch):
    """Two subjects that this module plays."""
    monkeypatch.setattr(command, "DOCUMENTS", Path("nowhere"))
    SUBJECTS_HERE = {"good": f"{__name__}:good", "bad": f"{__name__}:bad"}
    for name in list(SUBJECTS):
        monkeypatch.delitem(SUBJECTS, name)
    for name, place in SUBJECTS_HERE.items():
        monkeypatch.setitem(SUBJECTS, name, place)


def good(request):
    return Outcome("It is good.", 3, "cases", "all good", lines=["- one"], figures={"n": 3})


def bad(request):
    if request.seed == 9:
        raise ZeroDivisionError(f"in {ROOT}/bad.py")
    return Outcome("It is good.", 1, "case", "one bad", broken=["that one"])


def test_the_command_writes_what_it_found(subjects, tmp_path, capsys):
    document, data = tmp_path / "found.md", tmp_path / "found.json"
    document.write_text("# Before\n", encoding="utf-8")
    places = ["--markdown", str(document), "--json", str(data)]
    assert command.main(["--only", "good", *places]) == 0
    assert command.main(["--only", "good,bad", "--scale", "0.5", *places]) == 1
    text = document.read_text(encoding="utf-8")
    assert text.startswith("# Before\n")
    assert "It is good." in text
    assert "- that one" in text
    assert str(tmp_path) not in text
    content = json.loads(data.read_text(encoding="utf-8"))
    assert content["subjects"]["bad"]["broken"] == ["that one"]
    assert content["subjects"]["good"]["figures"] == {"n": 3}
    found = content["subjects"]["good"]
    assert (found["scale"], found["seed"]) == (0.5, 0)
    shown = capsys.readouterr()
    assert "BROKEN" in shown.out
    assert "BROKEN: that one" in shown.err


def test_a_subject_that_fails_is_a_broken_promise(subjects, capsys):
    assert command.main(["--only", "bad", "--seed", "9"]) == 1
    assert "not finished" in capsys.readouterr().out
    outcome = look_at("bad", Request(seed=9))
    assert outcome.broken[0].startswith("ZeroDivisionError")


def test_only_a_run_of_everything_replaces_what_is_published():
    everything = command.parse([])
    assert everything.json == ROOT / "docs" / "reliability.json"
    assert everything.markdown == ROOT / "docs" / "reliability.md"
    for partial in (["--only", "bits"], ["--scale", "0.1"]):
        options = command.parse(partial)
        assert options.json is options.markdown is None
    some = command.parse(["--only", "bits", "--update"])
    assert (some.json, some.markdown) == (everything.json, everything.markdown)


def test_an_update_keeps_what_is_there_of_others(subjects, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "DOCUMENTS", tmp_path)
    assert command.main(["--only", "bad", "--update"]) == 1
    assert command.main(["--only", "good", "--update"]) == 0
    content = json.loads((tmp_path / "reliability.json").read_text(encoding="utf-8"))
    assert list(content["subjects"]) == ["good", "bad"]
    text = (tmp_path / "reliability.md").read_text(encoding="utf-8")
    assert text.index("## good") < text.index("## bad")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--only", "gradient"],
        ["--scale", "0"],
        ["--scale", "nan"],
        ["--workers", "0"],
        ["--seed", "-1"],
    ],
)
def test_arguments_that_make_no_sense(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        command.parse(wrong)
    assert caught.value.code == 2


def test_what_is_published_has_no_broken_promise():
    content = json.loads((ROOT / "docs" / "reliability.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for name, subject in content["subjects"].items():
        assert subject["broken"] == []
        assert subject["scale"] == 1.0
        assert f"## {name}\n" in text
        assert subject["result"] in text


def test_all_subjects_are_there():
    """Each names a function of a module that can be found."""
    import importlib

    for place in SUBJECTS.values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), place
    assert "tests" in {Path(folder).name for folder in sys.path}
