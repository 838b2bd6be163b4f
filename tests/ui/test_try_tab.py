"""The tab where one question goes to several finished runs: what is offered, how they answer, what is shown."""

import finished
import gradio as gr
import pytest

from playground.data import tasks
from playground.data.tasks import Item
from playground.errors import AdapterError, InvalidInput
from playground.events import Event
from playground.results.runs import Filing
from playground.ui import build
from playground.ui.tabs import try_it
from playground.ui.tabs.try_it import Told

NASTY = '<img src=x onerror="alert(1)">{{value}}${1+1}`'


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Finished runs of three methods, and zero-shot, on a tiny model."""
    opened = finished.home(tmp_path_factory.mktemp("try"))
    for method, params in (("zero_shot", {}), ("few_shot", {"k": 2}), ("lora", {"epochs": 1})):
        setattr(opened, method, opened.run(method, **params))
    opened.store.close()
    return opened


@pytest.fixture
def session(home):
    opened = build.open_session(home.settings)
    yield opened
    opened.store.close()


def asked(session, home, runs, words="test word 0"):
    task = tasks.task(home.task, session.settings)
    return [
        [(told.state, told.text) for told in all_told]
        for all_told in try_it.ask_all(session, task, str(home.model), runs, words)
    ]


def test_finished_runs_of_one_task_and_model_are_offered(session, home):
    there = try_it.places(session)
    assert list(there) == [f"{home.task}\n{home.model}"]
    assert {run.method for run in there[f"{home.task}\n{home.model}"]} == {"few_shot", "lora"}


def test_a_run_whose_task_is_gone_is_not_offered(session, home):
    filed = session.store.submit(Filing("gone", "few_shot", {"k": 2}, str(home.model), "gone"))
    session.store.transition(filed.id, "running", expect={"queued"})
    session.store.finish(filed.id, "done")
    assert list(try_it.places(session)) == [f"{home.task}\n{home.model}"]


def test_runs_chosen_before_stay_and_else_the_first_of_each_method_are(session, home):
    runs = [home.few_shot, home.lora]
    assert try_it.choices(session, runs, [])["value"] == [home.few_shot.id, home.lora.id]
    assert try_it.choices(session, runs, [home.lora.id, 999])["value"] == [home.lora.id]
    assert try_it.choices(session, [home.lora, home.lora], [])["value"] == [home.lora.id]
    assert f"#{home.lora.id} · LoRA" in try_it.choices(session, runs, [])["choices"][1][0]


def test_runs_measured_on_most_items_come_first_then_the_best(session, home):
    def measured(key, n, quality):
        filed = session.store.submit(Filing(key, "lora", {"of": key}, "m", home.task, limit=n))
        session.store.transition(filed.id, "running", expect={"queued"})
        session.store.append(filed.id, [Event.metric("n", n), Event.metric("quality", quality)])
        session.store.finish(filed.id, "done")
        return filed.id

    old, new, few = measured("old", 200, 0.8), measured("new", 200, 0.9), measured("few", 20, 1.0)
    runs = try_it.places(session)[f"{home.task}\nm"]
    assert [run.id for run in runs] == [new, old, few]
    assert try_it.choices(session, runs, [])["value"] == [new]
    assert try_it.name(session, runs[-1]) == f"#{few} · LoRA · 100.0 % · 20 test items"
    for run in runs:
        session.queue.delete(run.id)


def test_each_answers_in_its_turn_and_what_was_said_stays(session, home):
    steps = asked(session, home, [home.few_shot, home.lora])
    assert [state for state, _ in steps[0]] == ["Loading …", *["Waits for its turn …"] * 2]
    assert [state for state, _ in steps[-1]] == [""] * 3
    last = [text for _, text in steps[-1]]
    for number, text in enumerate(last):
        grown = [step[number][1] for step in steps]
        assert all(later.startswith(earlier) for earlier, later in zip(grown, grown[1:], strict=False)), text


def test_an_answer_is_that_of_the_run_itself(session, home):
    """The same text as the run gave to the same test item."""
    for run in (home.few_shot, home.lora):
        sample = next(
            event.data
            for event in session.store.events(run.id, kinds={"sample"})
            if event.data["stage"] == "test"
        )
        steps = asked(session, home, [run], sample["input"])
        assert steps[-1][1][1].rstrip() == sample["answer"].rstrip()


def test_seconds_tokens_and_whether_it_is_right_are_told(session, home):
    task = tasks.task(home.task, session.settings)
    *_, all_told = try_it.ask_all(session, task, str(home.model), [home.few_shot], "test word 0")
    for told in all_told:
        assert told.seconds > 0
        assert told.right is not None
    assert all_told[1].prompt_tokens > all_told[0].prompt_tokens  # the examples
    *_, all_told = try_it.ask_all(session, task, str(home.model), [], "a question of my own")
    assert all_told[0].right is None


def test_one_that_cannot_answer_says_why_and_the_others_answer(session, home, monkeypatch):
    def gone(run_id):
        raise AdapterError("Its folder is gone.")

    monkeypatch.setattr(session.arbiter, "adapted", gone)
    task = tasks.task(home.task, session.settings)
    *_, (base, lora) = try_it.ask_all(session, task, str(home.model), [home.lora], "test word 0")
    assert (base.error, lora.error) == ("", "Its folder is gone.")
    assert lora.right is None
    assert "Its folder is gone." in try_it.view(session, [base, lora], None)


def test_too_many_runs_or_those_of_another_task_are_refused(session, home):
    task = tasks.task(home.task, session.settings)
    with pytest.raises(InvalidInput, match="5 runs are chosen; at most 4"):
        next(try_it.ask_all(session, task, str(home.model), [home.lora] * 5, "?"))
    with pytest.raises(InvalidInput, match="one task and model"):
        next(try_it.ask_all(session, task, "another", [home.lora], "?"))


def test_what_a_model_says_is_shown_as_text(session, home):
    told = Told(home.lora, state="", text=NASTY, passages=[{"text": NASTY}], right=False)
    shown = try_it.view(session, [told], Item("i", NASTY, NASTY))
    assert "<img" not in shown and "{{" not in shown
    assert "Expected" in shown and "Wrong" in shown


def test_a_question_of_a_task_that_is_gone_is_refused_on_the_page(session, home):
    with gr.Blocks() as page:
        try_it.build(session, gr.Textbox(""))
    other = next(fn.fn for fn in page.fns.values() if getattr(fn.fn, "__name__", "") == "draw")
    question, told = other(f"gone\n{home.model}")
    assert question == gr.skip()
    assert "There is no task “gone”" in told and "pg-bad" in told
    question, told = other(f"{home.task}\n{home.model}")
    assert question.startswith("test word") and told == ""


def test_without_a_finished_run_there_is_a_word_about_it(tmp_path):
    empty = build.open_session(finished.home(tmp_path).settings)
    assert try_it.places(empty) == {}
    with pytest.raises(InvalidInput, match="no finished run yet"):
        try_it.task_of(empty, None)
    empty.store.close()
