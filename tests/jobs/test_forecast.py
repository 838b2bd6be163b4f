"""A forecast takes the speed of an earlier run, and a run survives one that cannot be made."""

from dataclasses import replace

import pytest
import tiny

from playground.errors import InvalidInput, InvalidParams, ModelUnavailable
from playground.events import Event
from playground.jobs import pipeline
from playground.jobs.forecast import fits, forecast, look, worries
from playground.methods.lora import LoRA, LoRAParams
from playground.methods.zero_shot import ZeroShot
from playground.models import catalogue
from playground.results.runs import Filing


@pytest.fixture
def model(tmp_path):
    made = tiny.language_model()
    made.model.save_pretrained(tmp_path / "model")
    made.tokenizer.save_pretrained(tmp_path / "model")
    return catalogue.model(str(tmp_path / "model"))


def finished(store, model, speed, method="lora", **facts):
    filing = Filing(method, method, LoRAParams().model_dump(mode="json"), model.id, "colours")
    run = store.submit(filing)
    store.transition(run.id, "running", expect={"queued"})
    store.append(
        run.id, [Event.provenance(device="cpu", **facts), Event.metric("train_tokens_per_second", speed)]
    )
    store.finish(run.id, "done")


def test_an_earlier_run_gives_the_speed(settings, store, model):
    settings = replace(settings, threads=1)
    first = forecast(LoRA(), LoRAParams(), tiny.task(), model, settings, store)
    assert first.speed == "probe"
    finished(store, model, 123.0)
    second = forecast(LoRA(), LoRAParams(), tiny.task(), model, settings, store)
    assert second.speed == "earlier run" and second.tokens_per_second == pytest.approx(123)
    assert second.memory == first.memory
    finished(store, model, 100.0, flops_per_token=2 * second.flops_per_token)
    third = forecast(LoRA(), LoRAParams(), tiny.task(), model, settings, store)
    assert third.tokens_per_second == pytest.approx(200)  # that run had twice the work for each token


def test_another_methods_run_gives_the_speed_of_a_first_one(settings, store, model):
    settings = replace(settings, threads=1)
    finished(store, model, 1000.0, "full", flops_per_token=5e3)
    told = forecast(LoRA(), LoRAParams(), tiny.task(), model, settings, store)
    assert told.speed == "another method's run"
    assert 0 < told.tokens_per_second < 5e6 / told.flops_per_token


def test_what_trains_nothing_has_no_forecast(settings, store, model):
    with pytest.raises(InvalidInput, match="trains nothing"):
        forecast(ZeroShot(), ZeroShot.Params(), tiny.task(), model, settings, store)


def test_a_model_that_is_not_here_is_said_to_be(settings, store):
    entry = replace(tiny.language_model().entry, sources=("path:/nowhere",))
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        forecast(LoRA(), LoRAParams(), tiny.task(), entry, settings, store)
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        look(LoRAParams(), tiny.task(), entry, settings)


def test_files_that_are_no_model_are_said_to_be(settings, store, model, tmp_path):
    (tmp_path / "model" / "config.json").write_text('{"model_type": "no_such_type"}')
    with pytest.raises(ModelUnavailable, match="cannot be read as a language model"):
        forecast(LoRA(), LoRAParams(), tiny.task(), model, settings, store)


def test_a_run_goes_on_without_an_estimate(settings, store, model, monkeypatch):
    def broken(*_):
        raise RuntimeError("no luck")

    monkeypatch.setattr(pipeline, "forecast", broken)
    (event,) = pipeline._estimate(LoRA(), LoRAParams(), tiny.task(), model, settings)
    assert event.kind == "log" and event.data["level"] == "warning" and "no luck" in event.data["text"]
    assert list(pipeline._estimate(ZeroShot(), ZeroShot.Params(), tiny.task(), model, settings)) == []


@pytest.mark.parametrize(
    ("params", "words"),
    [({"layers": "by name", "modules": "nonsense"}, "nonsense"), ({"top_layers": 500}, "2 blocks")],
)
def test_parameters_that_the_model_has_no_place_for_are_refused(settings, model, params, words):
    with pytest.raises(InvalidParams, match=words):
        fits(LoRA(), LoRAParams(**params), model, settings)
    fits(LoRA(), LoRAParams(), model, settings)


def test_what_trains_nothing_or_is_not_here_is_not_asked(settings, model):
    fits(ZeroShot(), ZeroShot.Params(), model, settings)
    fits(LoRA(), LoRAParams(top_layers=500), replace(model, sources=("hub:no/such",)), settings)


def test_what_is_wrong_with_the_data_is_told_the_worst_first():
    task = tiny.task()
    assert worries(LoRA(), task) == []
    again = replace(task.train[0], id="again", target="elsewhere")
    copied = replace(task, train=(*task.train, again), test=task.train[1:2])
    told = worries(LoRA(), copied)
    assert [one.tone for one in told] == ["bad", "warn"]
    assert "1 test item is also in the training data" in told[0].text
    assert "contradiction" in told[1].text
    assert worries(ZeroShot(), copied) == []
