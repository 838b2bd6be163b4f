import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from playground.errors import QueueError, RunNotFound, StoreError
from playground.events import Event
from playground.results.runs import Filing, RunStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path / "store.sqlite3")
    yield store
    store.close()


def file(store, key="k", **more):
    filing = Filing(**({"key": key, "method": "lora", "params": {}, "model": "m", "task": "t"} | more))
    return store.submit(filing)


def started(store, key="k"):
    run = file(store, key)
    assert store.transition(run.id, "running", expect={"queued"})
    return run


def test_what_is_filed_is_read_back(store):
    params = {"rank": 8, "text": "Größe “x” <b>", "ratio": 0.5, "on": True, "none": None}
    run = file(store, params=params, seed=3, limit=10, group="race")
    assert run == store.get(run.id)
    assert (run.params, run.seed, run.limit, run.group, run.status) == (params, 3, 10, "race", "queued")
    assert run.created == pytest.approx(time.time(), abs=5)
    assert (run.started, run.finished, run.process, run.progress) == (None, None, None, None)
    with pytest.raises(RunNotFound, match="77"):
        store.get(77)


def test_runs_that_are_filed_or_deleted_change_the_extent(store):
    seen = [store.extent()]
    runs = [file(store, key) for key in "abc"]
    seen.append(store.extent())
    store.transition(runs[0].id, "cancelled", expect={"queued"})
    store.delete(runs[0].id)
    seen.append(store.extent())
    assert seen == [(0, 0), (3, runs[-1].id), (2, runs[-1].id)]


@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_threads_that_have_ended_leave_no_files_open(store):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    def ask():
        thread = threading.Thread(target=store.last_event)
        thread.start()
        thread.join()

    ask()
    before = open_files()
    for _ in range(30):
        ask()
    assert open_files() <= before + 2


def test_events_come_back_in_order_from_any_id_on(store):
    first, second = started(store), started(store, "other")
    store.append(first.id, [Event.log("one"), Event.progress("adapt", 1, 4)])
    store.append(second.id, [Event.log("of another")])
    last = store.append(first.id, [Event.sample("test", "i", "<i>", "a"), Event.metric("loss", 0.5, 3)])
    events = store.events(first.id)
    assert [event.kind for event in events] == ["log", "progress", "sample", "metric"]
    assert [event.id for event in events] == sorted(event.id for event in events)
    assert events[-1].id == last == store.last_event()
    assert [event.kind for event in store.events(first.id, after=events[1].id)] == ["sample", "metric"]
    assert [event.kind for event in store.events(first.id, kinds=["metric", "log"])] == ["log", "metric"]
    assert len(store.events(first.id, limit=2)) == 2
    assert events[2].data["input"] == "<i>"
    assert store.append(first.id, []) == 0


def test_metrics_progress_and_provenance_follow_from_events(store):
    run = started(store)
    store.append(run.id, [Event.metric("quality", 0.1), Event.metric("dev_loss", 9.0, step=1)])
    store.append(run.id, [Event.metric("quality", 0.9), Event.metric("odd", float("nan"))])
    store.append(run.id, [Event.progress("adapt", 1, 2), Event.progress("adapt", 2, 2)])
    store.append(run.id, [Event.provenance(device="cpu", threads=1), Event.provenance(threads=2)])
    run = store.get(run.id)
    assert run.metrics == {"quality": 0.9, "odd": None}
    assert run.progress["done"] == 2
    assert run.provenance == {"device": "cpu", "threads": 2}


def test_a_late_worker_cannot_overwrite_a_cancel(store):
    run = started(store)
    assert store.transition(run.id, "cancelled", expect={"queued", "running"}, error="Stopped.")
    assert not store.finish(run.id, "done")
    assert not store.finish(run.id, "failed", "too late")
    assert not store.set_process(run.id, 1, "1")
    with pytest.raises(QueueError, match="takes no more events"):
        store.append(run.id, [Event.metric("quality", 1.0)])
    assert store.list()[0].metrics == {}
    assert (store.get(run.id).status, store.get(run.id).error) == ("cancelled", "Stopped.")


def test_a_worker_of_an_earlier_attempt_cannot_end_a_later_one(store):
    run = started(store)
    store.set_process(run.id, 100, "a")
    store.finish(run.id, "interrupted")
    store.refile(run.id)
    store.transition(run.id, "running", expect={"queued"})
    store.set_process(run.id, 200, "b")
    assert not store.finish(run.id, "done", process=100)
    assert store.finish(run.id, "done", process=200)


def test_one_key_is_active_once(store):
    run = file(store)
    with pytest.raises(QueueError, match=f"already queued as run {run.id}"):
        file(store)
    store.transition(run.id, "running", expect={"queued"})
    with pytest.raises(QueueError, match=f"already running as run {run.id}"):
        file(store)
    store.finish(run.id, "failed", "why")
    again = file(store)
    with pytest.raises(QueueError, match=f"run {again.id}"):
        store.refile(run.id)


def test_several_are_filed_whole_or_not_at_all(store):
    file(store, "b")
    filings = [Filing(key, "m", {}, "m", "t") for key in "abc"]
    with pytest.raises(QueueError):
        store.submit_all(filings)
    with pytest.raises(QueueError, match="full"):
        store.submit_all(filings[:1] + filings[2:], max_queued=2)
    assert [run.key for run in store.list()] == ["b"]


def test_the_place_in_the_queue_follows_the_filing(store):
    first, second, third = (file(store, key) for key in "abc")
    assert [store.position(run.id) for run in (first, second, third)] == [1, 2, 3]
    store.transition(first.id, "running", expect={"queued"})
    assert [store.position(run.id) for run in (first, second, third)] == [None, 1, 2]
    store.finish(first.id, "interrupted")
    store.refile(first.id)
    assert store.position(first.id) == 3
    assert [run.id for run in store.queued()] == [second.id, third.id, first.id]
    assert store.get(first.id).resume


def test_lists_can_be_narrowed(store):
    file(store, "a", task="x", group="g")
    file(store, "b", method="rag")
    done = started(store, "c")
    store.finish(done.id, "done")
    keys = lambda **filters: [run.key for run in store.list(**filters)]  # noqa: E731
    assert keys() == ["c", "b", "a"]
    assert keys(status="queued") == ["b", "a"]
    assert keys(status={"done", "failed"}) == ["c"]
    assert keys(task="x") == keys(group="g") == ["a"]
    assert keys(method="rag") == ["b"]
    assert keys(limit=1) == ["c"]


def test_a_list_shows_a_run_that_was_filed_again_as_it_is_now(store):
    run = started(store)
    store.finish(run.id, "failed", "why")
    assert store.list()[0].error == "why"
    store.refile(run.id)
    assert (store.list()[0].status, store.list()[0].error) == ("queued", None)
    store.transition(run.id, "running", expect={"queued"})
    store.append(run.id, [Event.metric("quality", 0.5)])
    store.finish(run.id, "done")
    assert store.list()[0] == store.get(run.id)
    store.delete(run.id)
    assert store.list() == []


def test_delete_takes_events_and_metrics_and_no_id_is_used_again(store):
    run = started(store)
    store.append(run.id, [Event.metric("quality", 1.0)])
    with pytest.raises(QueueError, match="running"):
        store.delete(run.id)
    store.finish(run.id, "done")
    store.delete(run.id)
    connection = sqlite3.connect(store.path)
    assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM metrics").fetchone() == (0,)
    connection.close()
    assert file(store).id > run.id
    with pytest.raises(RunNotFound):
        store.append(run.id, [Event.log("late")])


def test_many_threads_and_processes_write_at_once(store):
    run = started(store)

    def write(number):
        for i in range(20):
            store.append(run.id, [Event.log(f"{number} {i}")])

    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_write_from_a_process, args=(store.path, run.id)) for _ in range(2)]
    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for one in (*others, *threads):
        one.start()
    for one in (*others, *threads):
        one.join(60)
    assert len(store.events(run.id)) == 120
    reading = RunStore(store.path, read_only=True)
    assert len(reading.events(run.id)) == 120
    reading.close()


def _write_from_a_process(path, run_id):
    store = RunStore(path)
    for i in range(20):
        store.append(run_id, [Event.log(str(i))])


def test_a_reader_sees_what_another_process_writes_and_writes_nothing(store):
    run = started(store)
    reader = RunStore(store.path, read_only=True)
    store.append(run.id, [Event.metric("quality", 0.25)])
    assert reader.get(run.id).metrics == {"quality": 0.25}
    with pytest.raises(StoreError, match="may not be written"):
        reader.append(run.id, [Event.log("no")])
    reader.close()


def test_it_opens_after_kill_9(tmp_path):
    path = tmp_path / "store.sqlite3"
    code = (
        "import sys; from playground.results.runs import *; from playground.events import Event\n"
        f"store = RunStore({str(path)!r})\n"
        "run = store.submit(Filing('k', 'm', {}, 'm', 't'))\n"
        "while True: store.append(run.id, [Event.log('x' * 1000)]); print(flush=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    lines = [writer.stdout.readline() for _ in range(30)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    store = RunStore(path)
    assert len(store.events(1)) >= len(lines)
    assert store._connection().execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


def test_a_full_disk_is_said_and_loses_nothing_written(store):
    run = started(store)
    store.append(run.id, [Event.metric("quality", 0.5)])
    connection = store._connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="The disk is full"):
        for _ in range(100):
            store.append(run.id, [Event.metric("quality", 0.9), Event.log("x" * 100_000)])
    assert store.get(run.id).metrics == {"quality": 0.5}  # the batch was taken back whole
    connection.execute("PRAGMA max_page_count = 1000000")
    store.append(run.id, [Event.metric("quality", 0.9)])
    assert store.get(run.id).metrics == {"quality": 0.9}


def test_a_file_size_limit_is_met_with_a_sentence(tmp_path):
    code = (
        "import resource, signal, sys; from playground.results.runs import *; from playground.events import Event\n"
        "from playground.errors import StoreError\n"
        f"store = RunStore({str(tmp_path / 's.sqlite3')!r}); run = store.submit(Filing('k', 'm', {{}}, 'm', 't'))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n  for _ in range(50): store.append(run.id, [Event.log('x' * 20_000)])\n"
        "except StoreError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith("The "), said.stderr
    store = RunStore(tmp_path / "s.sqlite3")
    assert 0 < len(store.events(1)) < 50
    store.close()


def test_a_damaged_file_is_said(tmp_path):
    path = tmp_path / "store.sqlite3"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="damaged"):
        RunStore(path)


def test_a_file_that_may_not_be_written_is_said(tmp_path):
    with pytest.raises(StoreError, match="cannot be used"):
        RunStore(tmp_path / "missing.sqlite3", read_only=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        RunStore(tmp_path / "file" / "store.sqlite3")


def test_a_thousand_runs_and_new_events_are_quick(store):
    run = started(store)
    with store._transaction() as connection:
        for i in range(1000):
            connection.execute(
                "INSERT INTO runs (key, method, params, model, task, seed, status, created, filed, finished, provenance)"
                " VALUES (?, 'lora', '{\"rank\": 8}', 'm', 't', 0, 'done', 0, 0, 1, ?)",
                (str(i), '{"device": "cpu", "libraries": {"torch": "2"}, "data_hash": "' + "a" * 64 + '"}'),
            )
            connection.executemany(
                "INSERT INTO metrics VALUES (last_insert_rowid(), ?, ?)",
                [(f"m{j}", j / 7) for j in range(20)],
            )
    last = store.append(run.id, [Event.log("x")] * 20_000)
    assert len(store.list()) == 1001
    assert _best(lambda: store.events(run.id, after=last - 5)) < 0.005
    assert _best(store.list) < 0.1  # about 15 ms on a quiet core


def _best(call):
    found = []
    for _ in range(7):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)
