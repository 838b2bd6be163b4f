import time

import pytest
import torch

from playground.training import measure
from playground.training.measure import PeakMemory, Stopwatch, calibrate_threads, directory_bytes

MEASURED = measure._CLEAR_REFS.exists()


@pytest.mark.skipif(not MEASURED, reason="peak memory cannot be reset on this system")
def test_peak_memory_is_that_of_the_block():
    with PeakMemory() as before:
        large = bytearray(b"x") * 200_000_000
        del large
    with PeakMemory() as after:
        small = bytearray(b"x") * 1_000
    assert before.bytes - after.bytes > 150_000_000
    assert after.bytes > 10_000_000 and len(small) == 1_000


@pytest.mark.skipif(not MEASURED, reason="peak memory cannot be reset on this system")
def test_a_block_is_not_charged_for_what_was_freed_before_it():
    with PeakMemory() as before:
        pass
    blocks = [bytearray(b"x") * 100_000 for _ in range(2_000)]
    last = blocks.pop()  # at the top of the heap: the allocator keeps all that is below it
    blocks.clear()
    with PeakMemory() as after:
        pass
    assert after.bytes - before.bytes < 50_000_000 and last


def test_peak_memory_is_none_where_it_cannot_be_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    with PeakMemory() as peak:
        pass
    assert peak.bytes is None


def test_stopwatch_stops():
    with Stopwatch() as watch:
        time.sleep(0.02)
    first = watch.seconds
    time.sleep(0.02)
    assert 0.02 <= first == watch.seconds


def test_directory_bytes_does_not_follow_links(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "large").write_bytes(b"x" * 10_000)
    (tmp_path / "in" / "a").write_bytes(b"x" * 10)
    (tmp_path / "in" / "deep" / "b").write_bytes(b"x" * 5)
    assert directory_bytes(tmp_path / "in") == 15
    (tmp_path / "in" / "link").symlink_to(tmp_path / "large")
    assert directory_bytes(tmp_path / "in") < 1_000
    assert directory_bytes(tmp_path / "large") == 10_000


def test_the_faster_thread_count_is_set():
    before = torch.get_num_threads()
    try:
        delays = {4: 0.03, 1: 0.0}
        best, seconds = calibrate_threads(lambda: time.sleep(delays.get(torch.get_num_threads(), 0)), most=4)
        assert best == torch.get_num_threads() == 1 and set(seconds) == {1, 4}
        delays = {4: 0.0, 1: 0.03}
        best, _ = calibrate_threads(lambda: time.sleep(delays.get(torch.get_num_threads(), 0)), most=4)
        assert best == torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("long", "each"), [(10.0, 1 + measure.TRIALS), (0.0, 2)])
def test_long_steps_are_timed_once(monkeypatch, long, each):
    before, steps = torch.get_num_threads(), []
    monkeypatch.setattr(measure, "LONG", long)
    try:
        calibrate_threads(lambda: steps.append(torch.get_num_threads()), most=2)
    finally:
        torch.set_num_threads(before)
    assert steps == [2] * each + [1] * each


def test_a_count_of_threads_that_cannot_win_is_not_tried_again():
    before, steps = torch.get_num_threads(), []

    def step():
        steps.append(torch.get_num_threads())
        time.sleep(0.08 if steps[-1] == 1 else 0.01)

    try:
        best, seconds = calibrate_threads(step, most=2)
    finally:
        torch.set_num_threads(before)
    assert best == 2 and steps.count(1) == 1 and steps.count(2) == 1 + measure.TRIALS
    assert seconds[1] >= 0.08
