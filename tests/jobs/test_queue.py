import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from playground import settings as settings_module
from playground.errors import InvalidInput, InvalidParams, ModelUnavailable, QueueError, RunNotFound
from playground.jobs import local, processes
from playground.jobs import queue as queue_module
from playground.jobs.queue import Queue
from playground.methods import presets
from playground.methods.presets import Preset

ROOT = Path(__file__).parents[2]
LONG = {"steps": 1000, "pause": 0.05}


def submit(queue, method="patient", seed=0, limit=None, **params):
    return queue.submit(method, params, "tiny", "fake", seed=seed, limit=limit)


def running(store, run_id, eventually):
    return eventually(
        lambda: (run := store.get(run_id)).status == "running" and run.process and run.progress and run
    )


def test_a_run_from_filing_to_its_row(queue, ended, store):
    run = ended(submit(queue, steps=3, limit=5).id)
    assert (run.status, run.error, run.limit) == ("done", None, 5)
    assert run.metrics["quality"] == 0.5
    assert run.metrics["n"] == 5
    assert run.metrics["load_seconds"] == 0.25
    assert 0.03 <= run.metrics["adapt_seconds"] < 5
    assert run.metrics["trainable_share"] == 0.01
    assert run.provenance["params"] == {"steps": 3, "pause": 0.01, "way": "done", "loud": False}
    assert run.provenance["data_hash"] == "hash-of-tiny"
    assert run.provenance["model_revision"] == "fake-revision"
    assert run.provenance["libraries"]["transformers"]
    assert 0 <= run.provenance["other_load_cores"] < 2 * os.cpu_count()
    assert run.created <= run.started <= run.finished
    curve = [
        told.data for told in store.events(run.id, kinds=["metric"]) if told.data["name"] == "train_loss"
    ]
    assert [point["step"] for point in curve] == [0, 1, 2]
    assert {event.data["phase"] for event in store.events(run.id, kinds=["progress"])} >= {
        "adapt",
        "evaluate",
    }


def test_limited_runs_answer_the_same_items(queue, ended, store):
    first, second = submit(queue, limit=4), submit(queue, "zero_shot", seed=5, limit=4)
    items = [
        [event.data["item"] for event in store.events(ended(run.id).id, kinds=["sample"])]
        for run in (first, second)
    ]
    assert items[0] == items[1]
    assert len(set(items[0])) == 4


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"method_id": "magic"}, InvalidInput, "magic"),
        ({"task_id": "nothing"}, InvalidInput, "nothing"),
        ({"model_id": "no/such"}, ModelUnavailable, "no/such"),
        ({"params": {"steps": 0}}, InvalidParams, "Steps"),
        ({"params": {"steps": 77}}, InvalidParams, "77"),
        ({"params": {"rank": 1}}, InvalidParams, "rank"),
        ({"limit": 0}, InvalidInput, "limit"),
        ({"limit": 1.5}, InvalidInput, "limit"),
        ({"seed": -1}, InvalidInput, "seed"),
    ],
)
def test_bad_input_is_refused_before_filing(queue, store, change, error, words):
    good = {"method_id": "patient", "params": {}, "task_id": "tiny", "model_id": "fake"}
    with pytest.raises(error, match=words):
        queue.submit(**(good | change))
    assert store.list() == []


def test_a_limit_above_the_test_is_no_limit(queue):
    assert submit(queue, limit=20).limit is None


def test_the_queue_has_an_end(settings, store, world):
    queue = Queue(settings, store)
    for seed in range(8):
        submit(queue, seed=seed)
    with pytest.raises(QueueError, match="full"):
        submit(queue, seed=99)
    assert store.position(store.queued()[2].id) == 3


def test_a_race_takes_presets_that_were_tried(queue, monkeypatch):
    def steps(tried, given=None):
        entry = Preset("patient", "135m", "cpu", tried, "by hand", {"steps": 7})
        monkeypatch.setattr(presets, "presets", lambda id: (entry,) if id == "patient" else ())
        monkeypatch.setattr(presets, "size_of", lambda parameters: "135m")
        filings = queue.prepare_race("tiny", "fake", ["zero_shot", "patient"], given)
        return filings[1].params["steps"]

    default = queue.prepare("patient", {}, "tiny", "fake").params["steps"]
    assert (steps(True), steps(False)) == (7, default)
    assert steps(True, {"patient": {"steps": 9}}) == 9
    assert steps(True, {"patient": {}}) == default


def test_a_race_takes_presets_for_the_device_that_is_here(settings, store, world, monkeypatch):
    asked = []
    monkeypatch.setattr(presets, "fitting", lambda id, parameters, device, **_: asked.append(device))
    monkeypatch.setattr(settings_module, "_kind_here", lambda: "cuda")
    for device in ("auto", "cpu"):
        Queue(replace(settings, device=device), store).prepare_race("tiny", "fake", ["zero_shot"])
    assert asked == ["cuda", "cpu"]


def test_a_race_is_filed_whole_or_not_at_all(queue, store):
    with pytest.raises(InvalidParams):
        queue.race("tiny", "fake", ["zero_shot", "patient"], {"patient": {"steps": 77}})
    with pytest.raises(InvalidInput, match="twice"):
        queue.race("tiny", "fake", ["patient", "patient"])
    assert store.list() == []
    runs = queue.race("tiny", "fake", ["zero_shot", "patient"], {"patient": {"steps": 2}}, limit=3)
    assert [run.method for run in runs] == ["zero_shot", "patient"]
    assert runs[0].group == runs[1].group is not None


def test_two_starts_at_once_from_threads_make_one_run(queue, store):
    refused = []

    def press():
        try:
            submit(queue, **LONG)
        except QueueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = store.list()
    assert len(refused) == 7
    assert all(f"run {run.id}" in message for message in refused)


def test_two_starts_at_once_from_processes_make_one_run(settings, store, world):
    code = (
        "from playground.jobs.queue import Queue; from playground.results.runs import RunStore\n"
        "from playground.settings import Settings; from playground.errors import QueueError\n"
        "settings = Settings.from_environment(); queue = Queue(settings, RunStore(settings.database))\n"
        "try: queue.submit('patient', {}, 'tiny', 'fake'); print('filed')\n"
        "except QueueError as error: print(error)"
    )
    processes = [_python(settings, code, stdout=subprocess.PIPE) for _ in range(4)]
    said = [process.communicate(timeout=30)[0].decode() for process in processes]
    assert sorted(line.strip() == "filed" for line in said) == [False, False, False, True]
    assert len(store.list()) == 1


def test_a_device_does_one_job_at_a_time_over_processes(queue, settings, store, ended, eventually):
    first = submit(queue, **LONG)
    running(store, first.id, eventually)
    assert local.lock_device(settings) is None
    other = _python(settings, _PAGE.format(params={"steps": 2}), stdout=subprocess.PIPE)
    try:
        second = int(other.stdout.readline())
        time.sleep(1)
        assert store.get(second).status == "queued"
        queue.cancel(first.id)
        assert ended(second).status == "done"
    finally:
        other.kill()
        other.communicate()


def test_first_come_first_served(queue, ended):
    runs = [submit(queue, seed=seed) for seed in range(4)]
    done = [ended(run.id) for run in runs]
    assert [run.started for run in done] == sorted(run.started for run in done)
    for before, after in zip(done, done[1:], strict=False):
        assert before.finished <= after.started


def test_a_run_leaves_the_cores_to_the_page_where_both_want_them(queue, store, eventually):
    run = running(store, submit(queue, **LONG).id, eventually)
    assert os.getpriority(os.PRIO_PROCESS, run.process) > os.getpriority(os.PRIO_PROCESS, 0)
    queue.cancel(run.id)


def test_stop_is_quick_and_pressed_twice_it_says_so(queue, store, eventually):
    run = submit(queue, way="deaf", **LONG)
    run = running(store, run.id, eventually)
    child = int((local.run_folder(queue.settings, run.id) / "child").read_text())
    start = time.monotonic()
    assert queue.cancel(run.id).status == "cancelled"
    assert time.monotonic() - start < 2
    assert processes.started(run.process) is None
    eventually(lambda: processes.started(child) is None, 2)
    with pytest.raises(QueueError, match="already stopped"):
        queue.cancel(run.id)
    time.sleep(0.5)
    assert store.get(run.id).status == "cancelled"


def test_stop_takes_a_waiting_run_out(queue, store, eventually):
    first, second = submit(queue, **LONG), submit(queue, seed=1)
    running(store, first.id, eventually)
    assert store.position(second.id) == 1
    assert queue.cancel(second.id).status == "cancelled"
    assert store.position(second.id) is None
    with pytest.raises(RunNotFound):
        queue.cancel(12345)


def test_stopped_runs_go_on_from_their_checkpoint(queue, store, ended, eventually):
    run = submit(queue, steps=100, pause=0.02)
    eventually(lambda: (store.get(run.id).progress or {}).get("done", 0) >= 20)
    queue.cancel(run.id)
    spent = store.get(run.id).progress["adapt_seconds"]
    again = queue.resume(run.id)
    assert again.id == run.id
    done = ended(run.id)
    assert done.status == "done"
    starts = [event.data["text"] for event in store.events(run.id, kinds=["log"])]
    assert starts[0] == "from step 0"
    assert int(starts[1].split()[-1]) >= 20
    assert done.metrics["adapt_seconds"] >= spent + 0.02 * (100 - int(starts[1].split()[-1]))
    with pytest.raises(QueueError, match="done"):
        queue.resume(run.id)


@pytest.mark.parametrize("change", ["data", "number type"])
def test_a_run_does_not_go_on_with_other_data_or_another_number_type(settings, store, model, words, change):
    idle = Queue(settings, store)
    run = idle.submit("lora", {"epochs": 1}, words, model)
    idle.cancel(run.id)
    if change == "data":
        file = settings.tasks / "words/train.jsonl"
        file.write_text(file.read_text().replace('"target": "a"', '"target": "b"'))
    else:
        idle = Queue(replace(settings, dtype="bfloat16"), store)
    with pytest.raises(QueueError, match="have changed since it was filed"):
        idle.resume(run.id)
    assert store.get(run.id).status == "cancelled"
    assert idle.submit("lora", {"epochs": 1}, words, model).key != run.key


def test_a_new_run_finds_nothing_of_an_earlier_one_with_its_number(queue, settings, ended):
    left = settings.runs / "1/adapter/left.txt"
    left.parent.mkdir(parents=True)
    left.write_text("from a store that was moved away")
    run = submit(queue)
    assert (run.id, ended(run.id).status) == (1, "done")
    assert not left.exists() and (settings.runs / "1" / local.LOG).is_file()


def test_delete_takes_everything_but_not_while_it_runs(queue, store, settings, ended, eventually):
    run = submit(queue, **LONG)
    running(store, run.id, eventually)
    with pytest.raises(QueueError, match="Stop it"):
        queue.delete(run.id)
    queue.cancel(run.id)
    queue.delete(run.id)
    assert store.list() == []
    assert store.events(run.id) == []
    assert not local.run_folder(settings, run.id).exists()


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("fail", "It did not work, <script>alert(1)</script>."),
        ("crash", "ValueError: a detail"),
        ("memory", "Out of memory: lower"),
        ("torch_memory", "Out of memory: lower"),
        ("enospc", "disk is full"),
        ("sigkill", "killed by the system or by hand, possibly out of memory"),
        ("exit", "with code 3 without a result. Last words: the library gave up"),
    ],
)
def test_a_failure_says_why(queue, settings, ended, way, words):
    run = ended(submit(queue, way=way).id)
    assert run.status == "failed"
    assert words in run.error
    assert "Traceback" not in run.error
    log = (local.run_folder(settings, run.id) / local.LOG).read_text()
    assert ("Traceback" in log) == (way in {"crash", "memory", "torch_memory", "enospc"})


def test_kill_9_of_the_worker_leaves_a_failed_run_and_a_working_queue(queue, store, ended, eventually):
    run = running(store, submit(queue, **LONG).id, eventually)
    os.kill(run.process, signal.SIGKILL)
    assert "killed by the system" in ended(run.id).error
    assert ended(submit(queue).id).status == "done"


def test_a_worker_that_the_kernel_killed_for_memory_is_told_so(queue, ended, monkeypatch):
    counts = iter([4, 5])  # at its start, at its end
    monkeypatch.setattr(processes, "memory_kills", lambda: next(counts))
    run = ended(submit(queue, way="sigkill").id)
    assert run.status == "failed"
    assert run.error.startswith("Out of memory: the system killed the run's process.")
    assert "Lower the batch size" in run.error


def test_a_worker_killed_by_hand_is_not_called_out_of_memory(queue, ended, monkeypatch):
    monkeypatch.setattr(processes, "memory_kills", lambda: 4)
    error = ended(submit(queue, way="sigkill").id).error
    assert "possibly out of memory" in error
    assert "Resume it to go on from its last checkpoint" in error


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("memory.events", "low 0\nhigh 0\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 7),
        ("other", "nr_free_pages 1\n", None),
    ],
)
def test_the_systems_count_of_kills_is_read(tmp_path, name, text, count):
    (tmp_path / name).write_text(text)
    assert processes._counted(tmp_path / name, "oom_kill") == count
    assert processes._counted(tmp_path / "missing", "oom_kill") is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says how often it killed for memory")
def test_this_system_counts_its_kills():
    assert processes.memory_kills() >= 0


_PAGE = """
import time
from playground.jobs.queue import Queue
from playground.results.runs import RunStore
from playground.settings import Settings
settings = Settings.from_environment()
queue = Queue(settings, RunStore(settings.database))
queue.start()
print(queue.submit("patient", {params}, "tiny", "fake", seed=7).id, flush=True)
queue.submit("patient", {{}}, "tiny", "fake", seed=8)
time.sleep(60)
"""


def test_kill_9_of_the_page_leaves_an_interrupted_run_that_goes_on(settings, store, world, ended, eventually):
    page = _python(settings, _PAGE.format(params={"steps": 150, "pause": 0.02}), stdout=subprocess.PIPE)
    run_id = int(page.stdout.readline())
    run = running(store, run_id, eventually)
    eventually(lambda: store.get(run_id).progress["done"] >= 10)
    page.kill()
    page.communicate()
    eventually(lambda: processes.started(run.process) is None, 3)
    assert store.get(run_id).status == "interrupted"
    assert "Resume" in store.get(run_id).error
    queue = Queue(settings, store)
    queue.start()
    try:
        waiting = next(run for run in store.list() if run.seed == 8)
        assert ended(waiting.id).status == "done"  # adopted
        queue.resume(run_id)
        assert ended(run_id).error is None
        assert "from step 0" not in store.events(run_id, kinds=["log"])[-1].data["text"]
    finally:
        queue.close()


def test_page_and_worker_killed_at_once_are_found_at_the_next_start(settings, store, world, eventually):
    page = _python(settings, _PAGE.format(params=LONG), stdout=subprocess.PIPE)
    run_id = int(page.stdout.readline())
    run = running(store, run_id, eventually)
    os.kill(page.pid, signal.SIGSTOP)  # so that it cannot reap
    os.kill(run.process, signal.SIGKILL)
    page.kill()
    page.communicate()
    eventually(lambda: processes.started(run.process) is None, 3)
    assert store.get(run_id).status == "running"
    queue = Queue(settings, store)
    assert queue.recover() == [run_id]
    assert store.get(run_id).status == "interrupted"


def test_a_clean_end_leaves_runs_that_go_on(settings, store, world, eventually):
    queue = Queue(settings, store)
    queue.start()
    first, second = submit(queue, **LONG), submit(queue, seed=1)
    run = running(store, first.id, eventually)
    queue.close()
    assert store.get(first.id).status == "interrupted"
    assert processes.started(run.process) is None
    assert (store.get(second.id).status, store.get(second.id).owner) == ("queued", None)


def test_a_queue_may_leave_the_runs_of_others_alone(settings, store, world, ended):
    left = submit(Queue(settings, store))
    queue = Queue(settings, store)
    queue.start(adopt=False)
    try:
        assert ended(submit(queue, seed=3).id).status == "done"
        assert store.get(left.id).status == "queued"
    finally:
        queue.close()


def test_a_suspended_process_does_not_hold_up_the_others(queue, store, ended, monkeypatch):
    monkeypatch.setattr(queue_module, "COURTESY", 1.0)
    other = f"{os.getppid()}:{processes.started(os.getppid())}:x"  # lives, but starts nothing
    first = store.submit(queue.prepare("patient", {}, "tiny", "fake", seed=1), owner=other)
    start = time.monotonic()
    assert ended(submit(queue, seed=2).id).status == "done"
    assert time.monotonic() - start > 1
    assert store.get(first.id).status == "queued"


def test_memory_is_released_before_a_job_starts(settings, store, world, ended):
    seen = []
    queue = Queue(settings, store, release=lambda: seen.append(store.list(status="running")[0].process))
    queue.start()
    try:
        ended(submit(queue).id)
        assert seen == [None]
    finally:
        queue.close()


def _python(settings, code, **more):
    environment = local.environment(settings)
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, **more)


def test_a_model_that_cannot_be_had_now_is_refused_before_filing(settings, store, world):
    def refuse(entry, settings):
        raise ModelUnavailable(f"{entry.id} cannot be had.")

    queue = Queue(settings, store, check_model=refuse)
    with pytest.raises(ModelUnavailable, match="fake cannot be had"):
        submit(queue)
    assert store.list() == []


def test_a_limit_of_any_length_is_understood(queue):
    assert submit(queue, limit=10**23).limit is None


def test_a_seed_too_large_is_told_its_range(queue):
    with pytest.raises(InvalidInput, match="from 0 to 4,294,967,295"):
        submit(queue, seed=2**32)


@pytest.mark.parametrize(
    ("place", "methods"), [("first", ["zero_shot", "patient"]), ("last", ["patient", "zero_shot"])]
)
def test_the_run_that_it_is_compared_with_is_filed_once_in_front_or_behind(queue, store, place, methods):
    run = queue.submit("patient", {}, "tiny", "fake", reference=place)
    assert [filed.method for filed in sorted(store.list(), key=lambda filed: filed.id)] == methods
    assert run.method == "patient"
    again = queue.submit("patient", {"steps": 2}, "tiny", "fake", reference=place)
    assert again.method == "patient"
    assert [filed.method for filed in store.list()].count("zero_shot") == 1


def test_what_does_not_fit_the_model_is_refused_before_filing(settings, store, world):
    def refuse(technique, params, entry, settings):
        raise InvalidInput(f"{technique.title} with {params.steps} steps does not fit {entry.id}.")

    queue = Queue(settings, store, check_fit=refuse)
    with pytest.raises(InvalidInput, match="3 steps does not fit fake"):
        submit(queue, steps=3)
    assert store.list() == []
