"""The panels that show a run's answers and its training, on the real store."""

import gradio as gr
import pytest

from playground.errors import InvalidInput
from playground.events import Event
from playground.results.runs import Filing
from playground.settings import Settings
from playground.ui import build
from playground.ui.components.live import curves_of, live
from playground.ui.panels import items as panel

NASTY = '<img src=x onerror="alert(1)">{{value}}${1+1}`'


@pytest.fixture
def session(tmp_path):
    opened = build.open_session(Settings(home=tmp_path, offline=True))
    yield opened
    opened.store.close()


def file_run(session, method, right, count=45, task="support-desk", end="done", **metrics):
    """A run whose item n is right where ``right(n)``."""
    filing = Filing(key=f"{method}{id(right)}", method=method, params={}, model="smollm2-135m", task=task)
    run = session.store.submit(filing)
    session.store.transition(run.id, "running", expect={"queued"})
    answers = [
        Event.sample(
            "test", f"i{n}", f"{NASTY} {n}", f"{method} {n}", "Quartz" if n % 2 else "Heron",
            correct=right(n), valid=True, prediction="Quartz" if right(n) == bool(n % 2) else "Heron",
            group="odd" if n % 2 else None,
        )
        for n in range(count)
    ]  # fmt: skip
    results = {"quality": 0.5} | metrics
    session.store.append(run.id, [*answers, *(Event.metric(*result) for result in results.items())])
    session.store.finish(run.id, end)
    return run.id


@pytest.fixture
def runs(session):
    return file_run(session, "zero_shot", lambda n: n < 10), file_run(session, "lora", lambda n: n >= 5)


def shown(session, run_id, kind="", group="", label="", at=0):
    names = ("told", "ask", "kind", "group", "label", "page", "listed", "back", "on", "picture")
    return dict(zip(names, panel.show(session, run_id, kind, group, label, at), strict=True))


def test_what_was_lost_and_gained_is_counted(session, runs):
    found = shown(session, runs[1])
    kinds = dict(found["kind"]["choices"])
    assert list(kinds) == [
        "All",
        "Was right, is wrong now (5)",
        "Was wrong, is right now (35)",
        "Right before and now (5)",
        "Wrong before and now (0)",
    ]
    assert "<b>35</b>" in found["told"]
    assert found["ask"]["visible"] is False


def test_a_filter_leaves_its_items_with_both_answers(session, runs):
    found = shown(session, runs[1], "was-right-is-wrong")
    assert found["listed"].count("<article") == 5
    assert "zero_shot 3" in found["listed"] and "lora 3" in found["listed"]
    assert f"Zero-shot, #{runs[0]}" in found["listed"] and f"LoRA, #{runs[1]}" in found["listed"]
    assert "1 to 5 of 5" in found["listed"]


def test_parts_and_labels_are_filters_too(session, runs):
    assert shown(session, runs[1], group="odd")["listed"].count("<article") == panel.PAGE
    found = shown(session, runs[1], "was-right-is-wrong", label="Quartz")
    assert found["listed"].count("<article") == 2
    assert [value for _, value in [found["label"]["choices"][0]]] == [""]
    assert found["label"]["choices"][1:] == ["Heron", "Quartz"]


def test_items_come_in_pages_and_no_page_is_past_the_end(session, runs):
    second, last = shown(session, runs[1], at=1), shown(session, runs[1], at=99)
    assert "11 to 20 of 45" in second["listed"]
    assert (second["back"]["interactive"], second["on"]["interactive"]) == (True, True)
    assert "41 to 45 of 45" in last["listed"] and last["page"] == 4
    assert last["on"]["interactive"] is False
    assert shown(session, runs[1], at=-1)["page"] == 0


def test_texts_are_shown_as_text(session, runs):
    assert "<img" not in shown(session, runs[1])["listed"]
    assert "{{" not in shown(session, runs[1])["listed"]


def test_without_a_before_it_says_so_and_offers_it(session):
    found = shown(session, file_run(session, "lora", lambda n: n > 2))
    assert found["ask"]["visible"] is True
    assert "no zero-shot run" in found["told"]
    assert list(dict(found["kind"]["choices"])) == ["All", "Right now (42)", "Wrong now (3)"]


def test_the_before_is_filed_with_the_same_items(session, monkeypatch):
    asked = []
    monkeypatch.setattr(session.queue, "submit", lambda *given, **more: asked.append((given, more)))
    run_id = file_run(session, "lora", lambda n: True)
    panel.file_baseline(session, float(run_id))
    assert asked == [(("zero_shot", {}, "support-desk", "smollm2-135m"), {"seed": 0, "limit": None})]
    with pytest.raises(InvalidInput):
        panel.file_baseline(session, None)


def test_zero_shot_itself_has_no_before(session, runs):
    found = shown(session, runs[0])
    assert found["ask"]["visible"] is False
    assert "no zero-shot run" not in found["told"]


def test_no_run_and_no_answers_are_said(session):
    assert "No run open" in shown(session, None)["told"]
    assert "No answers" in shown(session, file_run(session, "lora", bool, count=0, end="failed"))["told"]


def test_the_confusion_stands_for_label_tasks_only(session, runs):
    assert shown(session, runs[1])["picture"].count("<figure") == 2
    free = file_run(session, "lora", lambda n: True, task="handbook")
    assert shown(session, free)["picture"] == ""


def test_it_is_drawn_anew_only_when_the_run_or_its_baseline_is_another(session):
    mine = file_run(session, "lora", lambda n: n > 2)
    before = panel.state_of(session, mine)
    assert panel.state_of(session, mine) == before
    file_run(session, "zero_shot", lambda n: n < 9, task="handbook")
    assert panel.state_of(session, mine) == before
    file_run(session, "zero_shot", lambda n: n < 10)
    assert panel.state_of(session, mine) != before
    assert panel.state_of(session, None) is None


def test_the_panel_builds(session):
    with gr.Blocks() as page:
        panel.build(session, gr.Number(None), gr.Textbox(""))
    assert page.get_config_file()["components"]


def metric(name, value, step):
    return Event.metric(name, value, step)


def test_the_live_charts_are_one_a_measure():
    events = [
        metric("train_loss", 2.0, 1),
        metric("dev_loss", 2.5, 0),
        metric("learning_rate", 1e-3, 1),
        metric("train_tokens_per_second", 210.0, 1),
        metric("train_memory_bytes", 1.5e9, 1),
        Event.progress("adapt", 1, 40, unit="step", left_seconds=61.0),
        metric("quality", 0.5, None),
    ]
    drawn = live(events)
    assert drawn.count("<svg") == 4
    for words in ("1 of 40", "about 61 s", "1.5 GB", "210.0 tokens/s", "0.001", "held-out"):
        assert words in drawn
    assert live([event for event in events if event.kind == "progress"]) == ""


def test_a_step_taken_again_after_a_resume_counts_as_it_went_last():
    events = [
        metric("train_loss", value, step)
        for step, value in ((1, 3.0), (2, 2.0), (3, 9.0), (2, 2.5), (3, 1.0))
    ]
    assert curves_of([*events, metric("train_loss", None, 4)]) == {
        "train_loss": [(1, 3.0), (2, 2.5), (3, 1.0)]
    }


def test_forgetting_stands_in_the_table_and_the_kept_step_on_the_card(session, runs):
    from playground.results import comparison
    from playground.ui.components import run_card, table

    def measured(**values):
        right = lambda n: True  # noqa: E731 - a key of its own for each run
        return session.store.get(file_run(session, "lora", right, count=1, **values))

    stopped = measured(retention_divergence=0.4213, retention_accuracy_change=-0.0625, steps=80, kept_step=60)
    drawn = table.table(comparison.rows([stopped]), {stopped.id: stopped}, {})
    assert "Forgetting" in drawn and "0.421 nats" in drawn and "general knowledge -6.2 pp" in drawn
    assert "The weights of step 60 are kept" in run_card.card(session, stopped)
    assert run_card.kept(measured(steps=80, kept_step=80)) == ""
    assert run_card.kept(session.store.get(runs[0])) == ""


def test_a_run_that_somebody_deleted_is_no_run(session, runs):
    shown(session, runs[1])
    session.queue.delete(int(runs[1]))
    assert panel.state_of(session, float(runs[1])) is None
    assert "No run open" in shown(session, runs[1])["told"]
