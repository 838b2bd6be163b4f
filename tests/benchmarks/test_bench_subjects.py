"""The benchmark of the ways to teach a subject, with a store whose runs nobody had to wait for."""

import json

import pytest
from benchmark_modules import load

from playground.data import subjects
from playground.events import Event
from playground.jobs.queue import Queue
from playground.results.runs import RunStore


@pytest.fixture
def bench(settings, monkeypatch, tmp_path):
    module = load("bench_subjects", monkeypatch)
    monkeypatch.setitem(module.record.__globals__, "RESULTS", tmp_path / "results")
    store = RunStore(settings.database)
    yield (
        module,
        module.Plan(Queue(settings, store), subjects.subject("mascot", settings), "starter-stickers"),
    )
    store.close()


def done(module, monkeypatch, broken=()):
    """Runs end at once, with a likeness that says which row and seed they are."""
    ran = []

    def finish(queue, filing, place):
        run = module.newest(queue.store, filing)
        if run is not None and run.status == "done":
            return run
        ran.append((filing.method, filing.params.get("prior_preservation"), filing.seed))
        run = queue.store.submit(filing)
        queue.store.transition(run.id, "running", expect={"queued"})
        if filing.method in broken:
            queue.store.finish(run.id, "failed", "It did not work.")
            return queue.store.get(run.id)
        likeness = 0.2 + 0.1 * (filing.method != module.BASE) + 0.01 * filing.seed
        numbers = {name: 1.0 for name in module.KEPT} | {"subject_fidelity": likeness}
        queue.store.append(run.id, [Event.metric(name, value) for name, value in numbers.items()])
        queue.store.finish(run.id, "done", None)
        return queue.store.get(run.id)

    monkeypatch.setattr(module, "finish", finish)
    return ran


def test_every_row_is_run_once_a_seed_and_held_against_the_base(bench, monkeypatch, tmp_path, capsys):
    module, plan = bench
    ran = done(module, monkeypatch)
    assert module.measure([plan], [0]) == []
    assert ran == [
        ("image_base", None, 0), ("dreambooth", True, 0), ("dreambooth", False, 0),
        ("dreambooth_lora", True, 0), ("dreambooth_lora", False, 0),
    ]  # fmt: skip
    assert module.measure([plan], [0, 2]) == []
    assert len(ran) == 10
    (subject,) = json.loads((tmp_path / "results" / "subjects.json").read_text())["subjects"]
    assert [row["title"] for row in subject["rows"]] == [
        "Base image model", "DreamBooth with prior", "DreamBooth without prior",
        "DreamBooth-LoRA with prior", "DreamBooth-LoRA without prior",
    ]  # fmt: skip
    row = subject["rows"][1]
    assert [run["seed"] for run in row["runs"]] == [0, 2]
    assert row["spread"]["subject_fidelity"]["mean"] == pytest.approx(0.31)
    assert row["above_base"]["low"] == pytest.approx(0.1)
    assert "mascot, dreambooth with prior, seed 2: likeness 0.32" in capsys.readouterr().out


def test_a_run_that_failed_is_told_and_has_no_numbers(bench, monkeypatch, tmp_path, capsys):
    module, plan = bench
    done(module, monkeypatch, broken={"dreambooth_lora"})
    assert [run.method for run in module.measure([plan], [0])] == ["dreambooth_lora"] * 2
    assert "It did not work" in capsys.readouterr().err
    (subject,) = json.loads((tmp_path / "results" / "subjects.json").read_text())["subjects"]
    assert [row["method"] for row in subject["rows"]] == ["image_base", "dreambooth", "dreambooth"]


def test_an_unknown_subject_is_refused(bench, monkeypatch, settings, capsys):
    module, _ = bench
    monkeypatch.setattr(module, "fetch", lambda model, settings: None)
    monkeypatch.setattr(module, "link_models", lambda usual, home: settings)
    assert module.main(["--subjects", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
