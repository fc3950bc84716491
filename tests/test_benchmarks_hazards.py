"""Reliability under kills, damage, Ctrl-C and concurrency: small runs, and that each finds a fault."""

import os
from collections import Counter

import cache_abuse
import child_processes  # noqa: F401  (enters its scenarios)
import concurrency as scenarios
import interrupting
import killed_runs
import killing
import numpy as np
import pytest

from benchmarks.reliability import concurrency, interrupts, kill, mutations
from benchmarks.reliability.fault_tables import Fault
from benchmarks.reliability.faults import plant
from benchmarks.reliability.subjects import Request
from fastbp import tensor_file

NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def planted(folder, file, old, new):
    """A copy of the package with a fault; where to import it from."""
    return plant(Fault(file, old, new, "planted here", ""), folder)


# Kills.


@NEEDS_FORK
def test_a_small_run_of_kills():
    outcome = kill.check(Request(0.02))
    assert (outcome.cases, outcome.broken) == (6, [])
    assert outcome.figures["writers"]["killed"] == 5
    assert outcome.figures["trainings"]["ended"] >= 1
    for name in ("writers", "trainings"):
        found = outcome.figures[name]
        assert sum(found["files"].values()) == found["killed"]
    assert outcome.figures["deaths_at_every_call"] >= 20


REPLACE = "os.replace(stem + PARTIAL, final)"
IN_PLACE = """with open(final, "wb", buffering=0) as file:
                for start in range(0, len(content), 4096):
                    file.write(content[start : start + 4096])
                    __import__("time").sleep(0.0002)"""
WRITERS = {
    "in place": (IN_PLACE, "could not be read"),
    "written once": (f"os.path.exists(final) or {REPLACE}", "checkpoints lost"),
}


@NEEDS_FORK
@pytest.mark.parametrize("fault", WRITERS)
def test_a_writer_that_does_not_keep_its_promise_is_found(fault, tmp_path, monkeypatch):
    new, message = WRITERS[fault]
    monkeypatch.setattr(killing, "ROOT", planted(tmp_path, "files.py", REPLACE, new))
    runs = Counter(killed=1, ended=1, resumed=0), Counter()
    monkeypatch.setattr(kill, "some_runs", lambda first, last, seed: runs)
    monkeypatch.setattr(kill, "deaths_at_every_call", lambda: 0)
    outcome = kill.check(Request(0.02))
    (broken,) = outcome.broken
    assert broken.startswith("writers: ")
    assert broken.endswith(message)


def test_runs_that_lose_something_are_found(monkeypatch):
    found = killed_runs.Killed(1, 2, 3, False, 0, 1, Counter(nothing=1))
    monkeypatch.setattr(killed_runs, "kill_runs", lambda *_: found)
    monkeypatch.setattr(kill, "some_writers", lambda *_: (Counter(killed=3), Counter()))
    monkeypatch.setattr(kill, "deaths_at_every_call", lambda: 0)
    outcome = kill.check(Request(0.02))
    assert outcome.broken == [
        "writers: 3 of 5 were killed",
        "trainings: 3 checkpoints that could not be read",
        "trainings: 2 checkpoints lost",
        "trainings: 1 runs that ended with other bits",
        "trainings: none came to its end",
    ]


# Damaged files.


@pytest.fixture
def fresh_files():
    """Files that are written with what a test changes, and forgotten afterwards."""
    mutations.sources.cache_clear()
    yield
    mutations.sources.cache_clear()


def test_a_small_run_of_mutations(fresh_files):
    outcome = mutations.check(Request(0.01))
    changes = outcome.figures["changes"]
    assert outcome.broken == []
    of_mutations = [row for kind, row in changes.items() if kind in MUTATIONS]
    assert sum(sum(row.values()) for row in of_mutations) == 200
    for kind in ("cut off at a byte", "without a range of 8", "a single bit"):
        assert changes[kind]["refused"] == sum(changes[kind].values()) >= 20
    assert changes["forged texts"]["refused"] > 0
    resumed = [row for kind, row in changes.items() if kind.startswith("resumed")]
    assert sum(sum(row.values()) for row in resumed) == 20
    assert sum(row["refused"] for row in resumed) > 5
    assert 1 < outcome.figures["memory"]["of_size"] < 2.2


MUTATIONS = {
    f"{words} {more}".strip()
    for words, mores in {
        "changed": ["bytes"], "flipped": ["bit"], "inserted": [""], "deleted": [""],
        "repeated": [""], "zeroed": [""], "swapped": [""], "cut or extended": [""],
        "header": ["length", "entry", "names", "text"], "forged": ["texts", "tensors"],
    }.items()
    for more in mores
}  # fmt: skip


def test_a_sum_that_nobody_checks_is_found(fresh_files, monkeypatch):
    monkeypatch.setattr(tensor_file, "content_digest", lambda tensors, texts: "0" * 64)
    outcome = mutations.check(Request(0.004))
    assert any(line.endswith(": other") for line in outcome.broken)


def test_a_layout_that_nobody_checks_is_found(fresh_files, monkeypatch):
    monkeypatch.setattr(tensor_file, "check_layout", lambda entries, size: None)
    outcome = mutations.check(Request(0.004))
    assert any("header entry" in line and "Error" in line for line in outcome.broken)


def test_a_reader_that_takes_too_much_memory_is_found(fresh_files, monkeypatch):
    original = tensor_file.read_header

    def wasteful(file, size):
        three_times = file.read() * 3
        file.seek(0)
        return original(file, size) if three_times else {}

    monkeypatch.setattr(tensor_file, "read_header", wasteful)
    outcome = mutations.check(Request(0.004))
    assert outcome.figures["memory"]["of_size"] > 3
    assert any(" bytes for " in line for line in outcome.broken)


# Ctrl-C.


@pytest.fixture
def two_trainings(monkeypatch):
    """Of the seven; and the time is no matter of a test."""
    kept = ("small batches", "short epochs, watched")
    monkeypatch.setattr(interrupting, "CASES", {name: interrupting.CASES[name] for name in kept})
    monkeypatch.setattr(interrupts, "LIMIT", np.inf)
    return kept


def test_a_small_run_of_interrupts(two_trainings):
    outcome = interrupts.check(Request(0.1))
    assert (outcome.cases, outcome.broken) == (6, [])
    assert set(outcome.figures["trainings"]) == set(two_trainings)
    for row in outcome.figures["trainings"].values():
        assert 0 < row["50%"] <= row["99%"] <= row["100%"]


def test_a_model_of_another_step_is_found(two_trainings, monkeypatch):
    original = interrupting.replay

    def late(case, steps):
        return {digest: step + 1 for digest, step in original(case, steps).items()}

    monkeypatch.setattr(interrupting, "replay", late)
    monkeypatch.delitem(interrupting.CASES, "small batches")
    outcome = interrupts.check(Request(0.01))
    assert any("the parameters are those of step" in line for line in outcome.broken)


def test_what_an_interrupt_should_not_do_is_found(monkeypatch):
    good = interrupting.Trial("KeyboardInterrupt", 0.001, 3, 3, True)
    trials = {
        "good": [good],
        "swallowed": [interrupting.Trial("nothing", 0.001, 3, 3, True)],
        "a mixture": [interrupting.Trial("KeyboardInterrupt", 0.001, None, 3, True)],
        "not scaled": [interrupting.Trial("KeyboardInterrupt", 0.001, 3, 3, False)],
        "late": [good, interrupting.Trial("KeyboardInterrupt", 0.3, 3, 3, True)],
    }
    monkeypatch.setattr(interrupting, "CASES", trials)
    monkeypatch.setattr(interrupting, "interrupt", lambda name, count, seed: trials[name])
    outcome = interrupts.check(Request())
    assert outcome.broken == [
        "swallowed, interrupt 0: it ended with nothing",
        "a mixture, interrupt 0: the parameters are those of no step",
        "not scaled, interrupt 0: the model is not usable as it is",
        "late: 99% within 297 ms, not 250",
    ]
    assert outcome.figures["all_ms"]["100%"] == 300


# Threads and processes.


@pytest.fixture
def few_scenarios(monkeypatch):
    """Some of each kind, and an abuse of a cache that is soon filled."""
    kept = ("trainings_in_8_threads", "one_model_in_two_threads", "bits")
    for name in set(scenarios.SCENARIOS) - set(kept):
        monkeypatch.delitem(scenarios.SCENARIOS, name)
    monkeypatch.setattr(scenarios, "LAYERS", {"workqueue": "workqueue"})
    monkeypatch.setattr(cache_abuse, "ABUSES", {"full disk": cache_abuse.full})
    monkeypatch.setattr(cache_abuse, "PREDICT", cache_abuse.FEW)


@NEEDS_FORK
def test_a_small_run_of_concurrency(few_scenarios):
    outcome = concurrency.check(Request(0.01))
    assert outcome.broken == []
    assert outcome.figures["scenarios"].keys() == {
        "trainings in 8 threads",
        "one model in two threads",
        "bits, default",
        "bits, workqueue",
        "cache: full disk",
        "cache: truncated",
    }
    assert outcome.cases == 6
    assert (outcome.figures["bits"], outcome.figures["hangs"], outcome.figures["errors"]) == (
        1,
        0,
        0,
    )


def test_scenarios_that_hang_or_fail_or_differ_are_found(few_scenarios, monkeypatch):
    def run_scenario(name, **settings):
        if name == "one_model_in_two_threads":
            raise AssertionError("in a thread\nValueError: a lock was left")
        if name == "bits":
            return [settings["NUMBA_THREADING_LAYER"]]
        with monkeypatch.context() as patch:
            patch.setattr(scenarios, "SECONDS", 0.01)
            return original(name)

    original = scenarios.run_scenario
    monkeypatch.setattr(scenarios, "run_scenario", run_scenario)
    monkeypatch.setattr(concurrency, "abuses", lambda *_: [])
    outcome = concurrency.check(Request(0.01))
    assert outcome.broken == [
        "bits: 2 different results of one training",
        "one model in two threads: ValueError: a lock was left",
        "trainings in 8 threads: hangs",
    ]
    assert (outcome.figures["hangs"], outcome.figures["errors"]) == (1, 1)


def test_a_scenario_that_fails_says_why():
    with pytest.raises(AssertionError, match="KeyError: 'no such scenario'"):
        scenarios.run_scenario("no such scenario")


def test_a_cache_that_believes_what_it_reads_is_found(tmp_path):
    """Without the check of the sum, half a file is code."""
    (tmp_path / "package").mkdir()
    package = planted(
        tmp_path / "package",
        "backends/object_cache.py",
        "if head != MAGIC + hashlib.sha256(rest).digest() or",
        "if",
    )
    filled = cache_abuse.fill(tmp_path, cache_abuse.FEW, package)
    job = concurrency.Job(
        "truncated", lambda: concurrency.in_folder(cache_abuse.truncated, filled, [0.6])
    )
    found = concurrency.end(job)
    assert "it ended with" in found.error or "not so: assert filled.run(copy)" in found.error
