"""What a run that was stopped and resumed tells of its cost."""

from dataclasses import replace

import pytest
import torch

from playground.events import Event
from playground.jobs.pipeline import pipeline
from playground.jobs.stages import adapting, carried, earlier_peak, earlier_seconds
from playground.methods.base import Adapted
from playground.results.runs import Run

RUN = Run(1, "k", "m", {}, "m", "t", 0, None, None, "running")


def metrics(events):
    return {e.data["name"]: e.data["value"] for e in events if e.kind == "metric" and e.data["step"] is None}


def told(restored, measured, earlier=10.0, peak=None):
    def steps():
        yield Event.progress("adapt", 1)
        return Adapted(None, None, 42, 5, 10, restored=restored)

    return metrics(adapting(steps(), "cpu", lambda: earlier, measured, peak))


@pytest.mark.parametrize(
    ("resume", "progress", "metrics", "provenance", "expected"),
    [
        (False, {"adapt_seconds": 5.0}, {}, {}, 0.0),
        (True, {"adapt_seconds": 5.0}, {}, {}, 5.0),
        (True, {"adapt_seconds": 5.0}, {}, {"earlier_adapt_seconds": 3.0}, 5.0),
        (True, {"phase": "evaluate"}, {"adapt_seconds": 7.0}, {}, 7.0),
        (True, {"phase": "load"}, {}, {"earlier_adapt_seconds": 3.0}, 3.0),
        (True, None, {}, {}, 0.0),
    ],
)
def test_seconds_of_earlier_attempts_count(resume, progress, metrics, provenance, expected):
    run = replace(RUN, resume=resume, progress=progress, metrics=metrics, provenance=provenance)
    assert earlier_seconds(run) == expected


def test_an_attempt_that_never_adapts_loses_no_seconds():
    run = replace(RUN, resume=True, progress={"phase": "adapt", "adapt_seconds": 5.0}, provenance={})
    (event,) = carried(run)
    again = replace(run, progress={"phase": "load"}, provenance=event.data)
    assert earlier_seconds(again) == 5.0
    assert not list(carried(RUN))


def test_work_that_is_done_now_is_measured():
    found = told(restored=False, measured=False)
    assert found["adapt_seconds"] >= 10.0 and found["adapt_peak_bytes"] > 0
    assert (found["trainable_parameters"], found["trainable_share"], found["stored_bytes"]) == (5, 0.5, 42)


def test_a_finished_result_keeps_the_figures_of_the_attempt_that_finished_it():
    assert told(restored=True, measured=True) == {"stored_bytes": 42}
    whole = {"adapt_seconds": 10.0, "stored_bytes": 42, "trainable_parameters": 5, "trainable_share": 0.5}
    assert told(restored=True, measured=False) == whole | {"adapt_peak_bytes": None}
    assert told(restored=True, measured=False, peak=7) == whole | {"adapt_peak_bytes": 7}


def test_the_highest_memory_of_all_attempts_counts():
    now = told(restored=False, measured=False)["adapt_peak_bytes"]
    assert told(restored=False, measured=False, peak=1)["adapt_peak_bytes"] > 1
    assert told(restored=False, measured=False, peak=1000 * now)["adapt_peak_bytes"] == 1000 * now
    stopped = replace(RUN, resume=True, progress={"phase": "adapt", "adapt_peak_bytes": 9})
    (event,) = carried(stopped)
    assert earlier_peak(stopped) == earlier_peak(replace(stopped, progress=None, provenance=event.data)) == 9
    assert earlier_peak(replace(stopped, resume=False)) is None


def test_progress_carries_what_was_spent():
    def steps():
        yield Event.progress("adapt", 1)
        return Adapted(None, None, 42)

    events = [event for event in adapting(steps(), "cpu", lambda: 10.0) if event.kind == "progress"]
    assert events[-1].data["adapt_seconds"] > 10 and events[-1].data["adapt_peak_bytes"] > 0


def test_the_threads_that_a_training_chose_are_not_those_of_the_test():
    before = torch.get_num_threads()

    def steps():
        torch.set_num_threads(before + 1)
        yield Event.progress("adapt", 1)
        return Adapted(None, None, 42)

    events = list(adapting(steps(), "cpu", lambda: 0.0))
    assert torch.get_num_threads() == before
    assert [event.data for event in events if event.kind == "provenance"] == [{"train_threads": before + 1}]


@pytest.mark.parametrize("method", ["lora", "rag"])
def test_stopped_in_the_test_and_resumed(method, settings, words, model, tmp_path):
    params = {"epochs": 1} if method == "lora" else {"examples": 2}
    run = replace(RUN, method=method, model=model, task=words, params=params, limit=2)
    first, progress = [], None
    for event in pipeline(run, settings, tmp_path):
        first.append(event)
        if event.kind == "progress":
            progress = event.data
            if event.data["phase"] == "evaluate":
                break
    before = metrics(first)
    progress |= {"adapt_seconds": 1e6}
    resumed = replace(run, resume=True, progress=progress, metrics=before, provenance={})
    after = before | metrics(pipeline(resumed, settings, tmp_path))
    assert after["quality"] is not None
    assert after["adapt_seconds"] < 1e6  # an index is built anew
    names = ("trainable_parameters", "trainable_share", "stored_bytes")
    if method == "lora":
        names += ("adapt_seconds", "adapt_peak_bytes")
        assert before["trainable_parameters"] > 0
    assert {name: after[name] for name in names} == {name: before[name] for name in names}


def test_stopped_while_the_model_loads_and_resumed(settings, words, model, tmp_path):
    params, stopped = {"epochs": 1}, {"phase": "adapt", "adapt_seconds": 5.0}
    run = replace(RUN, method="lora", model=model, task=words, params=params, resume=True, progress=stopped)
    facts = {}
    for event in pipeline(run, settings, tmp_path):
        if event.kind == "progress":
            break
        if event.kind == "provenance":
            facts |= event.data
    assert event.data["phase"] != "adapt"
    assert earlier_seconds(replace(run, progress=event.data, provenance=facts)) == 5.0
