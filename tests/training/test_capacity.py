"""Free memory with and without a container's limit, verdicts, and the speed probe."""

import psutil
import pytest
import torch

from playground.training import capacity
from playground.training.capacity import free_memory, speed, thread_counts, verdict


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_a_limit_the_machine_counts(tmp_path):
    assert free_memory("cpu", tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    write(tmp_path, {"memory.max": "max\n", "memory.current": "5\n", "memory.stat": "inactive_file 1\n"})
    assert free_memory("cpu", tmp_path) > 10**6


def test_a_container_of_version_two(tmp_path):
    write(
        tmp_path,
        {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 3\ninactive_file 200\n"},
    )
    assert free_memory("cpu", tmp_path) == 500


def test_a_container_of_version_one(tmp_path):
    write(
        tmp_path,
        {
            "memory/memory.limit_in_bytes": "1000\n",
            "memory/memory.usage_in_bytes": "900\n",
            "memory/memory.stat": "total_inactive_file 50\n",
        },
    )
    assert free_memory("cpu", tmp_path) == 150
    write(tmp_path, {"memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert free_memory("cpu", tmp_path) > 10**6


@pytest.mark.parametrize(
    ("needed", "free", "told"),
    [(100, 1000, "fits"), (900, 1000, "tight"), (1001, 1000, "does not fit"), (5, None, None)],
)
def test_verdicts(needed, free, told):
    assert verdict(needed, free) == told


def test_the_probe_measures_and_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    found = speed("cpu", torch.float32, False, (1,), 16, 32, 48)
    assert found.flops > 1e6 and found.bytes > 1e6
    assert torch.get_num_threads() == before
    assert speed("cpu", torch.float32, False, (1,), 16, 32, 48) is found


def test_what_others_take_of_the_processor_counts(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(capacity.time, "perf_counter", lambda: clock[0])

    def work(weight):
        clock[0] += weight

    quiet = capacity._seconds(work, [0.01], lambda: None)
    busy = capacity._seconds(work, [0.01, 0.03], lambda: None)  # every second product waits for its turn
    assert (quiet, busy) == (pytest.approx(0.01), pytest.approx(0.02))


def test_the_first_lap_is_left_out_where_there_are_more(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(capacity.time, "perf_counter", lambda: clock[0])
    lengths = iter([0.05] + [0.01] * 50)

    def work(_):
        clock[0] += next(lengths)

    assert capacity._seconds(work, [None], lambda: None) == pytest.approx(0.01)
    lengths = iter([9.0])
    assert capacity._seconds(work, [None], lambda: None) == pytest.approx(9.0)


def test_a_speed_is_measured_anew_after_a_while(monkeypatch):
    at = [1000.0]
    monkeypatch.setattr(capacity.time, "monotonic", lambda: at[0])
    how = ("cpu", torch.float32, False, (1,), 16, 32, 64)
    first = speed(*how)
    assert speed(*how) is first
    at[0] += capacity.FRESH_SECONDS
    assert speed(*how) is not first


def test_thread_counts():
    assert thread_counts(3) == (3,)
    assert thread_counts(0)[0] == 1
