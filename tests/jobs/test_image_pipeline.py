"""A whole run of an image method on a tiny random pipeline, in this process."""

import json
from dataclasses import replace

import image_world
import pytest

from playground.jobs import requests
from playground.jobs.image_pipeline import halves, image_pipeline
from playground.jobs.local import run_folder
from playground.jobs.queue import Queue
from playground.jobs.stages import earlier_seconds
from playground.results.runs import RunStore


@pytest.fixture
def filed(settings, tmp_path, monkeypatch):
    """File a run of a method without starting it: run, settings, its folder."""
    from playground.evaluation import image

    settings = replace(settings, threads=1)
    folder = image_world.model_folder(tmp_path / "model")
    judge = image_world.judge(tmp_path)
    monkeypatch.setattr(image, "load_judge", lambda settings, model: judge)
    found = image_world.subject(settings)
    store = RunStore(settings.database)

    def file(method, **params):
        run = Queue(settings, store).submit(method, params, found.id, str(folder))
        place = run_folder(settings, run.id)
        place.mkdir(parents=True)
        return run, settings, place

    yield file
    store.close()


def metrics(events):
    """The last value of each result, and the points of each curve."""
    told = [event.data for event in events if event.kind == "metric"]
    results = {data["name"]: data["value"] for data in told if data["step"] is None}
    curves = {}
    for data in told:
        if data["step"] is not None:
            curves.setdefault(data["name"], []).append(data["step"])
    return results, curves


def told_facts(events):
    """The provenance as the store keeps it."""
    facts = {}
    for event in events:
        if event.kind == "provenance":
            facts |= event.data
    return facts


def test_a_run_looks_trains_and_is_tested(filed):
    run, settings, folder = filed(
        "dreambooth_lora", steps=4, batch_size=2, sample_every=2, rank=2, learning_rate=1e-2
    )
    events = list(image_pipeline(run, settings, folder))
    results, curves = metrics(events)
    for name in ("subject_fidelity", "prompt_fidelity", "class_drift", "diversity", "memorisation"):
        assert results[name] is not None and curves[name] == [0, 2, 4]
    assert results["seconds_per_image"] > 0 and results["adapt_seconds"] > 0 and results["stored_bytes"] > 0
    assert results["kept_step"] in (2, 4)
    samples = [event.data for event in events if event.kind == "sample"]
    assert {(one["stage"], one["step"]) for one in samples} >= {("before", 0), ("during", 2), ("during", 4)}
    assert all((folder / one["file"]).is_file() for one in samples)
    tested = [one for one in samples if one["stage"] == "after"]
    looked = [one for one in samples if one["stage"] == "before"]
    for name in ("input", "item"):
        assert {one[name] for one in tested}.isdisjoint({one[name] for one in looked})
    facts = told_facts(events)
    assert facts["judge"] == "random CLIP" and facts["data_hash"]
    assert json.dumps(facts)


def test_the_base_model_is_asked_in_words_that_it_knows_and_drifts_nowhere(filed):
    run, settings, folder = filed("image_base")
    events = list(image_pipeline(run, settings, folder))
    results, curves = metrics(events)
    assert curves == {}
    assert results["class_drift"] == pytest.approx(0, abs=1e-6)
    assert results["stored_bytes"] == 0 and results["trainable_parameters"] is None
    asked = [event.data["input"] for event in events if event.kind == "sample"]
    assert asked and not any("zwx" in words for words in asked)
    assert told_facts(events)["judge"] == "random CLIP"


def test_what_is_asked_while_it_runs_is_done(filed):
    run, settings, folder = filed("dreambooth_lora", steps=6, batch_size=1, sample_every=100, rank=2)
    events = []
    for event in image_pipeline(run, settings, folder):
        if event.kind == "metric" and event.data["name"] == "train_loss" and event.data["step"] == 2:
            requests.ask(settings, run.id, "sample")
        events.append(event)
    _, curves = metrics(events)
    assert len(curves["subject_fidelity"]) == 3


def test_stopped_in_the_test_and_resumed(filed):
    run, settings, folder = filed("dreambooth_lora", steps=2, batch_size=1, sample_every=2, rank=2)
    first = []
    for event in image_pipeline(run, settings, folder):
        first.append(event)
        if event.kind == "metric" and event.data["name"] == "stored_bytes":  # then the test begins
            break
    before, _ = metrics(first)
    assert before["trainable_parameters"] > 0
    resumed = replace(run, resume=True, progress={"phase": "look"}, metrics=before)
    after, _ = metrics(image_pipeline(resumed, settings, folder))
    assert after["subject_fidelity"] is not None and after["stored_bytes"] == before["stored_bytes"]
    kept = {"adapt_seconds", "adapt_peak_bytes", "trainable_parameters", "trainable_share"}
    assert kept <= before.keys() and kept.isdisjoint(after)


def test_stopped_while_the_model_loads_and_resumed(filed):
    run, settings, folder = filed("dreambooth_lora", steps=2, batch_size=1, sample_every=2, rank=2)
    run = replace(run, resume=True, progress={"phase": "adapt", "adapt_seconds": 5.0})
    events = []
    for event in image_pipeline(run, settings, folder):
        events.append(event)
        if event.kind == "progress":
            break
    assert event.data["phase"] != "adapt"
    assert earlier_seconds(replace(run, progress=event.data, provenance=told_facts(events))) == 5.0


def test_looks_and_test_see_different_halves(settings):
    found = image_world.subject(settings)
    dev, test = halves(found)
    for name in ("held_out", "prompts", "class_prompts"):
        assert set(getattr(dev, name)) | set(getattr(test, name)) == set(getattr(found, name))
        assert not set(getattr(dev, name)) & set(getattr(test, name))
    lone = replace(found, held_out=found.held_out[:1])
    assert [half.held_out for half in halves(lone)] == [found.held_out[:1]] * 2
