"""Whole runs with the real methods, training and evaluation, on a tiny random model."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from playground.events import Event
from playground.jobs import local
from playground.jobs.arbiter import Arbiter
from playground.jobs.pipeline import LazyEmbedder, items_to_answer
from playground.jobs.queue import Queue
from playground.jobs.stages import adapting
from playground.methods.base import Adapted
from playground.results import comparison
from playground.results.runs import RunStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def queue(settings, store):
    queue = Queue(replace(settings, threads=1), store)
    queue.start()
    yield queue
    queue.close()


def test_a_race_fills_the_table(queue, store, model, words, ended):
    params = {"few_shot": {"k": 2, "selector": "first"}, "lora": {"epochs": 1, "batch_size": 4}}
    runs = queue.race(words, model, ["zero_shot", "few_shot", "lora"], params, limit=4)
    runs = [ended(run.id, 120) for run in runs]
    assert [run.error for run in runs] == [None] * 3
    zero, few, lora = comparison.rows(runs)
    for row in (zero, few, lora):
        assert row["n"] == row["limit"] == 4
        assert row["metric"] == "accuracy"
        for name in ("quality", "valid_rate", "load_seconds", "adapt_seconds", "adapt_peak_bytes"):
            assert row[name] is not None, name
        for name in ("prompt_tokens", "query_seconds_p50", "query_seconds_p95", "tokens_per_second"):
            assert row[name] > 0, name
        assert row["provenance"]["device"] == "cpu"
        assert row["provenance"]["threads"] == 1
        assert len(row["provenance"]["data_hash"]) == 64
    assert few["difference"] is not None
    assert zero["difference"] is None
    assert few["prompt_tokens"] > zero["prompt_tokens"]
    assert zero["trainable_parameters"] is None
    assert lora["trainable_parameters"] > 0
    assert lora["stored_bytes"] > 1000
    for name in ("estimated_peak_bytes", "estimated_adapt_seconds"):
        assert lora[name] > 0 and lora[f"{name}_error"] is not None
        assert zero[name] is None and zero[f"{name}_error"] is None
    assert lora["retention_divergence"] > 0
    assert -1 <= lora["retention_accuracy_change"] <= 1
    assert lora["kept_step"] == lora["steps"] == 10
    assert zero["retention_divergence"] is few["retention_divergence"] is None
    first = [event.data["phase"] for event in store.events(runs[2].id, kinds=["progress"])]
    assert (
        first.index("reference") < first.index("adapt") < first.index("evaluate") < first.index("retention")
    )
    answers = [
        [
            event.data["item"]
            for event in store.events(run.id, kinds=["sample"])
            if event.data["stage"] == "test"
        ]
        for run in runs
    ]
    assert answers[0] == answers[1] == answers[2]
    assert any(event.data["step"] for event in store.events(lora["run"], kinds=["metric"]))
    assert json.dumps(lora)


def test_a_training_logs_what_of_its_data_stands_in_the_test(queue, settings, store, model, words, ended):
    train = settings.tasks / "words" / "train.jsonl"
    leaked = {"id": "leaked", "input": "test 1", "target": "b"}
    train.write_text(train.read_text() + json.dumps(leaked) + "\n")
    runs = [queue.submit(id, {}, words, model, limit=2) for id in ("zero_shot", "ln_tuning")]
    told = []
    for run in runs:
        assert ended(run.id, 120).error is None
        events = store.events(run.id, kinds=["log"])
        told.append([event.data["text"] for event in events if event.data["level"] == "warning"])
    assert told[0] == []
    assert any(
        "1 test item is also in the training data, 1 of them word for word" in text for text in told[1]
    )


def test_kill_9_while_training_then_on_from_the_checkpoint_then_tried(
    queue, settings, store, model, words, ended, eventually
):
    run = queue.submit("lora", {"epochs": 30}, words, model, limit=2)

    def trained():
        run_now = store.get(run.id)
        return run_now.status == "running" and _steps(store, run.id) >= 40 and run_now

    os.kill(eventually(trained, 120).process, signal.SIGKILL)
    killed = ended(run.id)
    assert killed.status == "failed"
    assert "killed by the system" in killed.error and "It last held" in killed.error
    told = killed.progress["adapt_seconds"]
    foretold = {name: killed.metrics[name] for name in ("estimated_peak_bytes", "estimated_adapt_seconds")}
    assert all(foretold.values())
    before = store.last_event()
    queue.resume(run.id)
    done = ended(run.id, 120)
    assert (done.status, done.error) == ("done", None)
    assert done.metrics["adapt_seconds"] > told
    assert foretold.items() <= done.metrics.items()  # those of the start, not of what was left
    told_again = {event.data["name"] for event in store.events(run.id, before, ["metric"])}
    assert not foretold.keys() & told_again
    first = next(event for event in store.events(run.id, before, ["metric"]) if event.data["step"])
    assert first.data["step"] > 1
    arbiter = Arbiter(settings, store)
    with arbiter.adapted(run.id) as adapted:
        (prompt,) = adapted.prompts(["Where is my parcel?"])
        ids = adapted.model.encode(prompt.messages)
        assert [index for index, _ in adapted.model.generate([ids], 4)] == [0]


def test_qlora_runs_on_a_packed_base_and_is_tried_on_one(queue, settings, store, model, words, ended):
    params = {"epochs": 1, "quantization": "int8"}
    packed, plain = (
        ended(run.id, 120)
        for run in (
            queue.submit("qlora", params, words, model, limit=2),
            queue.submit("lora", {"epochs": 1}, words, model, limit=2),
        )
    )
    assert (packed.status, packed.error) == ("done", None)
    assert packed.metrics["base_bytes"] < plain.metrics["base_bytes"]
    assert packed.metrics["trainable_share"] == plain.metrics["trainable_share"]
    assert packed.provenance["quantization"] == "int8" and plain.provenance["quantization"] is None
    with Arbiter(settings, store).adapted(packed.id) as adapted:
        assert adapted.model.quantization == "int8"
        ids = adapted.model.encode(adapted.prompts(["Where is my parcel?"])[0].messages)
        assert [index for index, _ in adapted.model.generate([ids], 4)] == [0]


def _steps(store, run_id):
    return max((event.data["step"] or 0 for event in store.events(run_id, kinds=["metric"])), default=0)


def test_a_full_disk_fails_the_run_and_the_store_still_opens(settings, store, world, monkeypatch, ended):
    monkeypatch.setenv("FAKE_FILE_LIMIT", "400000")
    queue = Queue(settings, store)
    queue.start()
    try:
        run = ended(queue.submit("patient", {"way": "flood"}, "tiny", "fake").id)
        assert run.status == "failed"
        assert "results store" in run.error
        monkeypatch.delenv("FAKE_FILE_LIMIT")
        assert ended(queue.submit("patient", {}, "tiny", "fake").id).status == "done"
    finally:
        queue.close()
    again = RunStore(settings.database)
    assert again.get(run.id).error == run.error
    again.close()


def test_a_choice_of_items_is_the_same_for_every_method_and_part_of_a_larger_one(world):
    few, more = items_to_answer(world.TASK, 5), items_to_answer(world.TASK, 12)
    assert few == items_to_answer(world.TASK, 5)
    assert {item.id for item in few} <= {item.id for item in more}
    assert [item.id for item in more] != [item.id for item in world.TASK.test[:12]]
    assert items_to_answer(world.TASK, None) == items_to_answer(world.TASK, 99) == world.TASK.test


def test_loading_the_embedder_is_no_part_of_adapting(monkeypatch, settings):
    from playground.models import embedding

    loads = []

    def load_embedder(settings):
        loads.append(time.sleep(0.3))
        return "embedder"

    monkeypatch.setattr(embedding, "load_embedder", load_embedder)
    embedder = LazyEmbedder(settings)
    assert embedder.load_seconds is None

    def steps():
        yield Event.progress("adapt", 1)
        assert embedder() == embedder() == "embedder"
        yield Event.progress("adapt", 2)
        return Adapted(None, None, 0)

    found = {}
    for event in adapting(steps(), "cpu", lambda: 10.0 - (embedder.load_seconds or 0.0)):
        if event.kind == "metric":
            found[event.data["name"]] = event.data["value"]
    assert len(loads) == 1
    assert embedder.load_seconds >= 0.3
    assert 10.0 <= found["adapt_seconds"] < 10.2


@pytest.mark.starter
def test_the_command_line_with_the_starter_model(settings, starter_home):
    settings = replace(settings, home=starter_home)
    environment = local.environment(settings) | {"PLAYGROUND_HOME": str(starter_home)}
    command = [sys.executable, "-m", "playground", "run", "zero_shot", "--task", "support-desk"]
    command += ["--model", "smollm2-135m", "--limit", "2", "--json"]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    row = json.loads(said.stdout)
    assert said.returncode == 0, said.stderr
    assert (row["status"], row["n"], row["model"]) == ("done", 2, "smollm2-135m")
    assert row["provenance"]["model_revision"]
