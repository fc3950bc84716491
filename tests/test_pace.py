"""The length of the driver's calls, and the choice between serial and parallel, on simulated clocks."""

import pytest

from fastbp.backends.cpu.pace import CALL_SECONDS, FIRST_INTERVAL, LONGEST_INTERVAL, Pace


def simulate(pace, seconds_a_batch, calls):
    """Run some calls; return (parallel, batches, seconds) of each."""
    record = []
    for _ in range(calls):
        parallel, batches = pace.next_call()
        seconds = batches * seconds_a_batch[parallel]
        pace.measured(parallel, batches, seconds)
        record.append((parallel, batches, seconds))
    return record


@pytest.mark.parametrize("each", [1e-6, 1e-4, 1e-2, 1.0])
def test_calls_are_short(each):
    record = simulate(Pace(False), {False: each}, 60)
    assert not any(parallel for parallel, _, _ in record)
    longest = max(seconds for _, _, seconds in record)
    assert longest <= max(CALL_SECONDS, each) * 1.01
    assert record[-1][2] >= min(CALL_SECONDS, each) * 0.5


@pytest.mark.parametrize(("serial", "parallel"), [(1e-4, 6e-5), (1e-4, 5e-3), (1e-5, 9e-6)])
def test_the_faster_driver_does_nearly_all_the_work(serial, parallel):
    pace = Pace(True)
    simulate(pace, {False: serial, True: parallel}, 60)
    assert pace.prefers_parallel == (parallel < serial)
    record = simulate(pace, {False: serial, True: parallel}, 2000)
    slow = sum(seconds for used, _, seconds in record if used != pace.prefers_parallel)
    assert slow < 0.05 * sum(seconds for _, _, seconds in record)


def test_it_comes_back_when_the_machine_is_free_again():
    pace = Pace(True)
    simulate(pace, {False: 1e-4, True: 5e-3}, 200)
    assert not pace.prefers_parallel
    simulate(pace, {False: 1e-4, True: 6e-5}, 10 * LONGEST_INTERVAL)
    assert pace.prefers_parallel
    record = simulate(pace, {False: 1e-4, True: 5e-3}, 10 * FIRST_INTERVAL)
    assert not pace.prefers_parallel
    # Found out within a few calls, not after a whole run of slow ones.
    assert sum(parallel for parallel, _, _ in record) < 3 * FIRST_INTERVAL


def test_a_serial_engine_never_tries_threads():
    assert not any(used for used, _, _ in simulate(Pace(False), {False: 1e-5}, 500))
