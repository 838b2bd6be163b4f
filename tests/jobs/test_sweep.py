"""Sweeps: what is refused before anything is queued, how the best is chosen, how one is stopped."""

import pytest

from playground.errors import InvalidInput, QueueError
from playground.events import Event
from playground.jobs import sweep
from playground.jobs.queue import Queue
from playground.results.runs import Filing, RunStore
from playground.settings import Settings

TASK, MODEL = "support-desk", "smollm2-135m"


@pytest.fixture
def idle(tmp_path):
    """A queue with the real methods and tasks that starts nothing."""
    settings = Settings(home=tmp_path, offline=True, device="cpu")
    store = RunStore(settings.database)
    yield Queue(settings, store)
    store.close()


def filed(queue, texts, limit=5):
    grid = sweep.axes("lora", texts)
    return queue.file(sweep.prepare(queue, "lora", {"epochs": 1}, grid, TASK, MODEL, limit=limit))


def finish(store, run, dev_loss, quality=0.5):
    store.transition(run.id, "running", expect={"queued"})
    store.append(run.id, [Event.metric("dev_loss", dev_loss), Event.metric("quality", quality)])
    store.finish(run.id, "done")


def test_values_are_read_as_their_parameter_wants_them():
    found = sweep.axes("lora", {"rank": "4, 8,16", "learning_rate": "5e-4,1e-3"})
    assert found == {"rank": [4, 8, 16], "learning_rate": [0.0005, 0.001]}
    assert sweep.axes("lora", {"layers": "attention, mlp"}) == {"layers": ["attention", "mlp"]}
    assert sweep.axes("lora", {"rank": [4, 8]}) == {"rank": [4, 8]}
    assert sweep.axes("lora", {"modules": "q_proj,v_proj; down_proj"}) == {
        "modules": ["q_proj,v_proj", "down_proj"]
    }


def test_a_method_without_dev_loss_has_no_axes():
    for id, words in (("zero_shot", "does not train"), ("dreambooth", "does not have")):
        with pytest.raises(InvalidInput, match=words):
            sweep.axes(id, {})


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "one or two"),
        ({"rank": "1,2", "alpha": "1,2", "epochs": "1,2"}, "one or two"),
        ({"colour": "red"}, "no parameter “colour”"),
        ({"rank": "4, four"}, "“four” is not a whole number"),
        ({"rank": "1.5, 2"}, "“1.5” is not a whole number"),
        ({"learning_rate": "fast"}, "“fast” is not a number"),
        ({"rank": " , "}, "Give values for Rank, with commas"),
        ({"modules": " ; "}, "Give values for .*, with semicolons"),
        ({"learning_rate": "0.001, 1e-3"}, "twice"),
    ],
)
def test_values_that_cannot_be_read_are_refused(texts, words):
    with pytest.raises(InvalidInput, match=words):
        sweep.axes("lora", texts)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"rank": "4, 8, 0"}, "Rank cannot be 0"),
        ({"learning_rate": "1e-3, nan"}, "Learning rate"),
        ({"layers": "attention, all"}, "Layers cannot be 'all'"),
        ({"rank": "8"}, "1 run;"),
        ({"rank": "1,2,3,4,5", "epochs": "1,2,3,4"}, "20 runs"),
    ],
)
def test_nothing_is_filed_when_one_run_would_be_refused(idle, texts, words):
    with pytest.raises(InvalidInput, match=words):
        filed(idle, texts)
    assert idle.store.list() == []


def test_a_method_without_training_and_a_task_without_dev_split_are_refused(idle, monkeypatch):
    with pytest.raises(InvalidInput, match="does not train"):
        sweep.prepare(idle, "few_shot", {}, {"k": [1, 2]}, TASK, MODEL)
    from dataclasses import replace

    from playground.data import tasks

    without = replace(tasks.task(TASK, idle.settings), dev=())
    monkeypatch.setattr(tasks, "task", lambda *_: without)
    with pytest.raises(InvalidInput, match="no dev split"):
        sweep.prepare(idle, "lora", {}, {"rank": [1, 2]}, TASK, MODEL)


def test_a_grid_becomes_a_group_of_runs_with_what_stays_the_same(idle):
    runs = filed(idle, {"learning_rate": "5e-4,1e-3,2e-3", "rank": "4,8"})
    assert len(runs) == 6
    assert len({run.group for run in runs}) == 1
    assert sweep.is_sweep(runs[0].group)
    assert {(run.params["learning_rate"], run.params["rank"]) for run in runs} == {
        (rate, rank) for rate in (0.0005, 0.001, 0.002) for rank in (4, 8)
    }
    assert {(run.params["epochs"], run.limit, run.task) for run in runs} == {(1, 5, TASK)}


def test_a_race_is_no_sweep(idle):
    race = idle.race(TASK, MODEL, ["zero_shot", "lora"], limit=5)
    assert not sweep.is_sweep(race[0].group)
    assert not sweep.is_sweep(None)
    assert sweep.newest(idle.store, "lora") is None


def test_the_best_is_chosen_by_dev_loss_and_not_by_the_test(idle):
    runs = filed(idle, {"learning_rate": "5e-4,1e-3,2e-3"})
    finish(idle.store, runs[0], 0.9, quality=0.95)
    finish(idle.store, runs[1], 0.4, quality=0.60)
    found = sweep.newest(idle.store, "lora")
    assert found.names == ("learning_rate",)
    assert found.best.id == runs[1].id
    assert found.active
    finish(idle.store, runs[2], None)
    found = sweep.newest(idle.store, "lora")
    assert found.best.id == runs[1].id
    assert not found.active


def test_a_sweep_survives_a_restart(idle):
    runs = filed(idle, {"rank": "4,8"})
    again = RunStore(idle.settings.database)
    found = sweep.newest(again, "lora")
    again.close()
    assert [run.id for run in found.runs] == [run.id for run in runs]
    assert found.names == ("rank",)


def test_stopping_takes_all_the_rest(idle):
    runs = filed(idle, {"rank": "4,8,16"})
    other = idle.submit("lora", {}, TASK, MODEL, limit=5)
    finish(idle.store, runs[0], 0.5)
    idle.store.transition(runs[1].id, "running", expect={"queued"})
    assert sweep.stop(idle, runs[0].group) == 2
    assert [idle.store.get(run.id).status for run in runs] == ["done", "cancelled", "cancelled"]
    assert idle.store.get(other.id).status == "queued"
    with pytest.raises(QueueError, match="nothing to stop"):
        sweep.stop(idle, runs[0].group)


def test_a_run_that_ends_by_itself_meanwhile_keeps_the_others_from_nothing(idle, monkeypatch):
    runs = filed(idle, {"rank": "4,8,16"})
    listed = idle.store.list(group=runs[0].group)
    monkeypatch.setattr(idle.store, "list", lambda **_: listed)
    idle.store.transition(runs[1].id, "running", expect={"queued"})
    idle.store.finish(runs[1].id, "failed", "It did not work.")
    assert sweep.stop(idle, runs[0].group) == 2
    assert [idle.store.get(run.id).status for run in runs] == ["cancelled", "failed", "cancelled"]
    with pytest.raises(QueueError, match="No run of this sweep"):
        sweep.stop(idle, runs[0].group)


def test_the_newest_sweep_of_a_method_counts(idle):
    filed(idle, {"rank": "4,8"})
    second = filed(idle, {"rank": "2,3"})
    assert sweep.newest(idle.store, "lora").group == second[0].group
    assert sweep.newest(idle.store, "zero_shot") is None


def test_a_sweep_with_some_other_runs_key_waiting_is_refused_whole(idle):
    idle.submit("lora", {"epochs": 1, "rank": 8}, TASK, MODEL, limit=5)
    with pytest.raises(QueueError, match="already queued"):
        filed(idle, {"rank": "4,8"})
    assert len(idle.store.list()) == 1


def test_deleted_runs_leave_the_others(idle):
    runs = filed(idle, {"rank": "4,8"})
    sweep.stop(idle, runs[0].group)
    idle.delete(runs[0].id)
    assert [run.id for run in sweep.sweep(idle.store, runs[0].group).runs] == [runs[1].id]
    idle.delete(runs[1].id)
    gone = sweep.sweep(idle.store, runs[0].group)
    assert (gone.runs, gone.best, gone.active) == ((), None, False)


def test_a_filing_without_group_is_no_sweep(idle):
    idle.store.submit(Filing("k", "lora", {}, MODEL, TASK))
    assert sweep.newest(idle.store, "lora") is None
