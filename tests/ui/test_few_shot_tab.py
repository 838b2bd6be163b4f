"""The Few-shot tab's curve: which runs stand on it."""

import gradio as gr
import pytest

from playground.events import Event
from playground.results.runs import Filing
from playground.ui import build
from playground.ui.components import charts
from playground.ui.tabs import few_shot


@pytest.fixture
def session(settings):
    opened = build.open_session(settings)
    yield opened
    opened.store.close()


def measured(session, method, quality, data="d", limit=None, **params):
    """A finished run on all 200 test items, or on as many as ``limit`` says."""
    key = f"{method}-{data}-{limit}-{params}"
    run = session.store.submit(Filing(key, method, params, "m", "desk", limit=limit))
    session.store.transition(run.id, "running", expect={"queued"})
    results = Event.metric("quality", quality), Event.metric("n", limit or 200)
    session.store.append(run.id, [Event.provenance(data_hash=data), *results])
    session.store.finish(run.id, "done")


def test_the_curve_has_only_runs_on_the_same_items_and_data(session, monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "lines", lambda lines, *labels, **options: drawn.extend(lines) or "")
    measured(session, "zero_shot", 0.1, data="earlier")
    measured(session, "few_shot", 0.2, data="earlier", k=2, selector="random")
    measured(session, "few_shot", 0.3, k=4, selector="random")
    measured(session, "few_shot", 0.9, limit=20, k=8, selector="random")
    few_shot.accuracy(session, "desk", "m")
    assert [line.points for line in drawn] == [[(4, 0.3)]]
    drawn.clear()
    measured(session, "zero_shot", 0.15)
    few_shot.accuracy(session, "desk", "m")
    assert [line.points for line in drawn] == [[(0, 0.15), (4, 0.3)]]


def test_a_question_of_a_task_that_is_gone_is_refused_on_the_page(session):
    with gr.Blocks() as page:
        few_shot.build(session, gr.Textbox(""), gr.Textbox(""))
    other = next(fn.fn for fn in page.fns.values() if getattr(fn.fn, "__name__", "") == "draw")
    question, told = other("gone")
    assert question == gr.skip()
    assert "There is no task “gone”" in told and "pg-bad" in told
    question, told = other("support-desk")
    assert question and told == gr.skip()
