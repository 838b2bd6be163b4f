"""The tab of the methods that train: which run it shows, what can be gone on with, presets, sweeps, chat."""

import re
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from playground import settings as settings_module
from playground.errors import QueueError
from playground.events import Event
from playground.jobs import sweep
from playground.methods import presets
from playground.methods.registry import method
from playground.results.runs import Filing
from playground.settings import Settings
from playground.ui import build, form
from playground.ui.components import live, sweep_view
from playground.ui.components.markup import notice
from playground.ui.panels import chat
from playground.ui.tabs import finetune
from playground.ui.tabs.finetune import Look

NASTY = '<img src=x onerror="alert(1)">{{value}}${1+1}`'


@pytest.fixture
def session(tmp_path):
    opened = build.open_session(Settings(home=tmp_path, offline=True))
    yield opened
    opened.store.close()


def file(session, key, method="lora", group=None, **params):
    filing = Filing(key, method, params, "smollm2-135m", "support-desk", group=group)
    return session.store.submit(filing)


def run(session, key, curve=(), status="done", method="lora", group=None, metrics=(), **params):
    filed = file(session, key, method, group, **params)
    session.store.transition(filed.id, "running", expect={"queued"})
    losses = [Event.metric("train_loss", loss, step=step) for step, loss in enumerate(curve)]
    session.store.append(filed.id, [*losses, *(Event.metric(name, value) for name, value in metrics)])
    if status != "running":
        session.store.finish(filed.id, status)
    return session.store.get(filed.id)


def test_curves_of_the_newest_trained_run_stay_while_another_waits(session):
    trained = run(session, "a", curve=[1.5, 0.5])
    assert Look.at(session, "lora").curves.id == trained.id
    waiting = file(session, "b")
    look = Look.at(session, "lora")
    assert (look.run.id, look.curves.id) == (waiting.id, trained.id)
    assert f"Run #{waiting.id} has no curves" in look.lane(session)


def test_the_estimate_stands_beside_what_was_measured(session):
    told = [("estimated_peak_bytes", 1.1e9), ("estimated_adapt_seconds", 60.0)]
    now = run(session, "a", curve=[1.0], status="running", metrics=told)
    assert "estimated 1.1 GB; not measured yet" in Look.at(session, "lora").lane(session)
    measured = [Event.metric("adapt_peak_bytes", 1e9), Event.metric("adapt_seconds", 80.0)]
    session.store.append(now.id, measured)
    session.store.finish(now.id, "done")
    lane = Look.at(session, "lora").lane(session)
    assert "estimated 1.1 GB; measured 1 GB, error +10 %" in lane
    assert "estimated 60 s; measured 80 s, error -25 %" in lane


def test_the_running_run_is_shown_even_before_its_first_step(session):
    run(session, "a", curve=[1.5, 0.5])
    now = run(session, "b", status="running")
    file(session, "c")
    look = Look.at(session, "lora")
    assert (look.run.id, look.curves.id, look.events) == (now.id, now.id, [])


def test_the_next_waiting_run_comes_before_later_ones(session):
    first = file(session, "a")
    file(session, "b")
    assert Look.at(session, "lora").run.id == first.id


def test_runs_of_other_methods_are_not_looked_at(session):
    run(session, "a", curve=[1.0], method="full")
    look = Look.at(session, "lora")
    assert (look.run, look.curves) == (None, None)
    assert "No training yet" in look.lane(session)


def test_the_shown_runs_events_are_read_once(session, monkeypatch):
    run(session, "a", curve=[1.5, 0.5])
    read = []
    events = session.store.events
    monkeypatch.setattr(session.store, "events", lambda *a, **k: read.append(a) or events(*a, **k))
    look = Look.at(session, "lora")
    assert look.lane(session) and live.live(look.told)
    finetune.samples_of(look.events)
    assert len(read) == 1


def test_samples_are_text_and_keep_their_stages():
    events = [
        Event.sample(stage, "i", NASTY, answer, "Quartz", correct=False, score=0.0, valid=True, group=None)
        for stage, answer in (("before", "no"), ("during", "hm"), ("after", "Quartz"), ("test", "never"))
    ]
    shown = finetune.samples_of(events)
    assert "<img" not in shown and "{{" not in shown
    assert re.findall(r"<dt>(\w+)</dt><dd>(\w+)</dd>", shown) == [
        ("Before", "no"), ("During", "hm"), ("After", "Quartz"),
    ]  # fmt: skip


@pytest.mark.parametrize("status", ["cancelled", "interrupted", "failed"])
def test_a_run_that_did_not_end_well_can_go_on(session, status):
    assert finetune.resumable(session, "lora") is None
    stopped = run(session, "a", status=status)
    assert finetune.resumable(session, "lora").id == stopped.id
    assert finetune.resumable(session, "full") is None
    run(session, "b")
    assert finetune.resumable(session, "lora") is None


def test_stop_takes_the_running_one_first_and_says_when_there_is_none(session):
    with pytest.raises(QueueError, match="No LoRA run"):
        finetune.stoppable(session, "lora")
    now = run(session, "a", status="running")
    file(session, "b")
    assert finetune.stoppable(session, "lora").id == now.id


def test_the_chosen_finished_run_stays_chosen(session):
    first = run(session, "a", metrics=[("quality", 0.875)])
    second = run(session, "b")
    shown, words = finetune.finished(session, "lora", None)
    assert words == ""
    assert "None yet" in finetune.finished(session, "full", None)[1]
    assert [id for _, id in shown["choices"]] == [second.id, first.id]
    assert shown["choices"][1][0] == f"#{first.id} · Support desk · 87.5 %"
    assert shown["value"] == second.id
    assert finetune.finished(session, "lora", first.id)[0]["value"] == first.id
    assert finetune.finished(session, "lora", 99)[0]["value"] == second.id


def test_a_preset_fills_the_form_and_the_defaults_come_back():
    import gradio as gr

    technique = method("lora")
    with gr.Blocks():
        fields = form.build(technique)
    entry = next(one for one in presets.presets("lora") if one.values.get("rank") == 16)
    names = list(fields.fields)
    filled = dict(zip(names, fields.filled(finetune.values_of("lora", entry.name)), strict=True))
    assert filled["rank"]["value"] == 16
    assert filled["learning_rate"]["value"] == entry.values["learning_rate"]
    assert filled["schedule"]["value"] == "cosine"
    defaults = dict(zip(names, fields.filled(finetune.values_of("lora", "")), strict=True))
    assert defaults["rank"]["value"] == technique.Params.model_fields["rank"].default


def test_an_untried_preset_says_so():
    untried = next(one for one in presets.presets() if not one.tried)
    assert "untried" in finetune.why(untried.method, untried.name)
    tried = next(one for one in presets.presets() if one.tried)
    assert "untried" not in finetune.why(tried.method, tried.name)
    assert finetune.why("lora", "") == ""


def test_the_paper_is_a_link_and_its_words_stay_text():
    assert 'href="https://arxiv.org/abs/2106.09685"' in finetune.about(method("lora"))
    assert "<a" not in finetune._paper("A book, 1999")
    assert "<img" not in finetune._paper(NASTY)


# Sweeps


def swept(session, points, group="sweep-1"):
    for at, (params, loss, quality) in enumerate(points):
        metrics = [] if loss is None else [("dev_loss", loss), ("quality", quality)]
        run(
            session,
            f"s{at}",
            status="running" if loss is None else "done",
            group=group,
            metrics=metrics,
            **params,
        )
    return sweep.sweep(session.store, group)


def test_a_sweep_over_rates_is_drawn_on_a_logarithmic_axis(session):
    found = swept(
        session, [({"learning_rate": rate}, loss, 0.5) for rate, loss in ((1e-4, 2), (1e-3, 1), (1e-2, 3))]
    )
    shown = sweep_view.show(found)
    assert "<td>" not in shown  # on a narrow screen each number stands there with its name
    assert "Learning rate (logarithmic)" in shown
    dots = [float(x) for x in re.findall(r'cx="([\d.]+)"', sweep_view.curves(found))][:3]
    assert dots[1] - dots[0] == pytest.approx(dots[2] - dots[1], abs=0.2)
    assert "Lowest dev loss: Learning rate 0.001 (run #2, 1.000)" in shown
    assert "Dev loss" in shown and "Test quality" in shown


def test_a_second_parameter_gives_one_line_a_value(session):
    points = [
        ({"learning_rate": rate, "rank": rank}, rate * rank, 0.5)
        for rate in (0.1, 0.2)
        for rank in (4, 8, 16)
    ]
    found = swept(session, points)
    shown = sweep_view.curves(found)
    assert (
        shown.count("<polyline") == 6
    )  # three ranks or two rates in each of two charts, by the first that differs
    assert "Rank 4" in shown and "Rank 16" in shown


def test_words_are_placed_side_by_side(session):
    found = swept(session, [({"layers": kind}, loss, 0.5) for kind, loss in (("mlp", 1), ("attention", 2))])
    shown = sweep_view.curves(found)
    assert ">mlp</text>" in shown and ">attention</text>" in shown


def test_a_sweep_under_way_says_how_far_it_is(session):
    found = swept(session, [({"rank": 4}, 0.5, 0.4), ({"rank": 8}, None, None)])
    shown = sweep_view.show(found)
    assert "1 of 2 runs done" in shown
    assert "Lowest dev loss so far: Rank 4" in shown
    assert "Running" in shown


def test_the_best_values_are_filled_in_or_it_is_said_that_there_are_none(session):
    with gr.Blocks() as page:
        fields = form.build(method("lora"))
        finetune._sweep_fold(session, fields, fields.fields, finetune.Live.draw("LoRA", "lora"))
    use = next(fn.fn for fn in page.fns.values() if getattr(fn.fn, "__name__", "") == "best")
    said, *values = use()
    assert "No sweep of this method has a finished run yet." in said
    assert values == [gr.skip()] * len(fields.fields)
    swept(session, [({"learning_rate": 0.003}, 0.4, 0.5)])
    said, *values = use()
    assert said == ""
    assert values[list(fields.fields).index("learning_rate")]["value"] == 0.003


def test_a_sweep_of_which_nothing_is_left_shows_nothing(session):
    assert sweep_view.show(sweep.sweep(session.store, "sweep-gone")) == ""


# Chat


def test_each_side_of_a_chat_knows_its_own_answers():
    turns = [{"said": "Hello", "told": ["base", "adapted"]}]
    assert chat.messages(turns, "And?", 1) == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "adapted"},
        {"role": "user", "content": "And?"},
    ]
    assert chat.messages(turns, "And?", 0)[1]["content"] == "base"


def test_a_conversation_is_text():
    shown = chat.conversation([{"said": NASTY, "told": [NASTY, ""]}])
    assert "<img" not in shown and "{{" not in shown
    assert shown.count('class="pg-said"') == 2
    assert "…" in shown
    assert "(an empty answer)" in chat.conversation([{"said": "?", "told": ["", "x"], "done": True}])
    assert chat.conversation([]) == ""


@pytest.fixture
def trained(tmp_path):
    """A session whose arbiter hands out a tiny model with a trained LoRA, restored from its folder."""
    import tiny

    technique = method("lora")
    params = technique.Params(epochs=12, learning_rate=0.02)
    tiny.adapt(technique, params, tmp_path)
    adapted = technique.restore(params, tiny.context(tmp_path))

    @contextmanager
    def hand_out(run_id):
        yield adapted

    return SimpleNamespace(arbiter=SimpleNamespace(adapted=hand_out), settings=None), adapted


@pytest.mark.parametrize("how", [chat.TASK, chat.FREE])
def test_both_sides_answer_from_one_loaded_model(trained, monkeypatch, how):
    import tiny
    import torch

    session, adapted = trained
    monkeypatch.setattr(chat.tasks, "task", lambda *_: tiny.task())
    started = SimpleNamespace(id=1, method="lora", task="colours")
    words = "one red"
    prompt = adapted.prompts([words])[0].messages if how == chat.TASK else chat.messages([], words, 0)
    ids = adapted.model.encode(prompt)
    with torch.no_grad():
        adapted.model.model.disable_adapter_layers()
        base = "".join(adapted.model.stream(ids, 4))
        adapted.model.model.enable_adapter_layers()
        tuned = "".join(adapted.model.stream(ids, 4))
    *_, (told, about) = chat._answers(session, started, how, [], words)
    assert [text.split()[:1] for text in told] == [base.split()[:1], tuned.split()[:1]]
    if how == chat.TASK:
        assert told[1].split()[0] == "north"
        assert told[0] != told[1]
        assert "the same for both" in about


def test_after_a_chat_that_was_left_the_adapter_is_on_again(trained, monkeypatch):
    import tiny
    from peft.tuners.tuners_utils import BaseTunerLayer

    session, adapted = trained
    monkeypatch.setattr(chat.tasks, "task", lambda *_: tiny.task())
    told = chat._answers(
        session, SimpleNamespace(id=1, method="lora", task="colours"), chat.TASK, [], "one red"
    )
    next(told)
    told.close()
    layers = [layer for layer in adapted.model.model.modules() if isinstance(layer, BaseTunerLayer)]
    assert layers
    assert not any(layer.disable_adapters for layer in layers)


def chat_handler(session, name):
    """The handler of the chat panel with that name."""
    with gr.Blocks() as page:
        chat.build(session, gr.Number(None), "lora")
    return next(fn.fn for fn in page.fns.values() if getattr(fn.fn, "__name__", "") == name)


@pytest.mark.parametrize("how", [chat.TASK, chat.FREE])
def test_a_question_that_is_refused_comes_back_with_the_reason(session, monkeypatch, trained, how):
    import tiny

    monkeypatch.setattr(session, "arbiter", trained[0].arbiter)
    monkeypatch.setattr(chat.tasks, "task", lambda *_: tiny.task())
    long, before = "one red " * 2_000, [{"said": "?", "told": ["x", "y"], "done": True}]
    *_, (turns, talk, said, question) = chat_handler(session, "answer")(
        run(session, "a").id, how, long, before
    )
    assert (turns, talk, question) == (before, chat.conversation(before), long)
    assert "tokens, and" in said and "pg-bad" in said


def test_a_question_to_no_run_or_to_one_that_was_deleted_comes_back_too(session):
    ask = chat_handler(session, "answer")
    assert "no finished run yet" in list(ask(None, chat.TASK, "?", []))[-1][2]
    assert "no run" in list(ask(999.0, chat.TASK, "?", []))[-1][2]


def test_the_example_question_is_that_of_the_chosen_run(session):
    file(session, "a")
    session.store.submit(Filing("b", "lora", {}, "smollm2-135m", "handbook"))
    session.store.submit(Filing("c", "lora", {}, "smollm2-135m", "gone"))
    example = chat_handler(session, "example")
    desk, same = example(1, "", "")
    assert desk and desk == same
    book, same = example(2, desk, desk)
    assert book not in ("", desk) and book == same
    typed = example(1, "typed words", book)
    assert typed == (gr.skip(), gr.skip())
    assert example(None, book, book) == (gr.skip(), gr.skip())
    assert example(3, book, book) == example(999, book, book) == ("", "")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_form_begins_with_the_preset_for_the_device_that_is_here(session, monkeypatch, device):
    monkeypatch.setattr(settings_module, "_kind_here", lambda: device)
    assert session.settings.device == "auto"
    assert finetune.fitting(session, "lora", "smollm2-135m") == f"135m-{device}"


def told(step, loss, dev=None):
    return [
        Event.metric("train_loss", loss, step),
        *([Event.metric("dev_loss", dev, step)] if dev is not None else ()),
    ]


def test_after_a_resume_nothing_of_the_killed_attempt_is_shown_as_the_newest():
    events = [
        *told(10, 0.9),
        *told(20, 0.7, dev=0.8),
        *told(30, 0.5),
        *told(40, 0.016, dev=0.3),
        *told(21, 0.69),
    ]
    curves = live.curves_of(events)
    assert curves == {"train_loss": [(10, 0.9), (20, 0.7), (21, 0.69)], "dev_loss": [(20, 0.8)]}
    assert "0.690" in live.state(events, curves)
    assert live.curves_of([*told(10, 0.5, dev=0.5), *told(5, 0.9)]) == {"train_loss": [(5, 0.9)]}


@pytest.mark.parametrize("status", ["running", "cancelled", "failed", "interrupted"])
def test_time_is_left_to_a_run_that_runs_only(session, status):
    now = run(session, "a", curve=[1.5, 0.5], status="running")
    session.store.append(now.id, [Event.progress("adapt", 40, 100, unit="step", left_seconds=80.0)])
    if status != "running":
        session.store.finish(now.id, status)
    shown = live.live(Look.at(session, "lora").told)
    assert "40 of 100" in shown
    assert ("Time left" in shown) == (status == "running")


def test_a_training_that_is_filed_names_what_is_wrong_with_its_data(session, monkeypatch):
    import tiny

    now, task = file(session, "a"), tiny.task()
    monkeypatch.setattr(finetune.tasks, "task", lambda *_: task)
    assert finetune.filed(session, now) == notice(f"Run #{now.id} is in the queue.", "good")
    leaking = replace(task, test=(replace(task.train[0], id=NASTY),))
    monkeypatch.setattr(finetune.tasks, "task", lambda *_: leaking)
    said = finetune.filed(session, now)
    assert "is in the queue" in said
    assert "1 test item is also in the training data" in said
    assert "<img" not in said
