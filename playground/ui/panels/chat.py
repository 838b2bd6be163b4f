"""A chat with the base model and the adapted one, side by side, from one loaded base."""

from typing import Any

import gradio as gr

from playground.data import tasks
from playground.errors import InvalidInput, PlaygroundError
from playground.methods.registry import method
from playground.ui.answers import checked, side_by_side
from playground.ui.components.echo import changed
from playground.ui.components.markup import facts, heading, notice, safe
from playground.ui.messages import sentence
from playground.ui.session import INFERENCE, Session

TASK, FREE = "As in the task", "Freely"
MOST_TOKENS = 256  # of an answer in a free chat
SIDES = ("Base model", "Adapted model")

Turns = list[dict[str, Any]]  # {"said": text, "told": [base's answer, adapted model's answer], "done": True}


def build(session: Session, run: gr.Number, name: str) -> None:
    """Draw the panel for the finished run in ``run``. ``name`` begins the ids of its fields."""
    gr.HTML(
        heading(
            "Base and adapted, side by side",
            "One loaded model answers twice: with what was trained switched off, then on.",
            3,
        )
    )
    manner = gr.Radio(
        [TASK, FREE],
        value=TASK,
        label="Ask",
        info="As in the task: with its instruction, each question for itself. Freely: a chat, without any instruction.",
    )
    turns = gr.State([])
    given = gr.State("")  # the example that was filled in: another run's may replace it
    talk = gr.HTML(elem_id=f"{name}-chat")
    status = gr.HTML()
    question = gr.Textbox(label="Question", lines=2, max_lines=12, elem_id=f"{name}-question")
    with gr.Row(elem_classes="pg-buttons"):
        ask = gr.Button("Ask both", variant="primary", size="md", elem_id=f"{name}-ask")
        halt = gr.Button("Stop", size="md", elem_id=f"{name}-chat-stop")
        clear = gr.Button("Clear", size="md", elem_id=f"{name}-chat-clear")

    def answers(run_id, how, words, before):
        if run_id is None:
            raise InvalidInput("There is no finished run yet. Train one first.")
        words = checked(words, session.settings)
        kept = list(before) if how == FREE else []
        turn = {"said": words, "told": ["", ""]}
        chosen = session.store.get(int(run_id))
        yield kept, conversation([*kept, turn]), notice(f"Loading {session.model_title(chosen.model)} …"), ""
        for told, prompt in _answers(session, chosen, how, kept, words):
            turn["told"] = told
            yield gr.skip(), conversation([*kept, turn]), prompt, gr.skip()
        turn["done"] = True
        yield [*kept, turn], conversation([*kept, turn]), gr.skip(), gr.skip()

    def answer(run_id, how, words, before):
        try:
            yield from answers(run_id, how, words, before)
        except Exception as error:
            yield before, conversation(before), notice(sentence(error), "bad"), words

    def example(run_id, words, last):
        if run_id is None or (words and words != last):
            return gr.skip(), gr.skip()
        found = _example(session, int(run_id))
        return found, found

    quick = {"api_visibility": "private", "show_progress": "hidden"}
    answering = gr.on(
        [ask.click, question.submit],
        answer,
        [run, manner, question, turns],
        [turns, talk, status, question],
        concurrency_id=INFERENCE,
        concurrency_limit=1,
        **quick,
    )
    # what is under way ends first: its last piece would be drawn over what follows
    ended = {"fn": lambda: None, "cancels": answering, "queue": False, **quick}
    gr.on([clear.click, changed(run), manner.change], **ended).then(
        lambda: ([], "", ""), None, [turns, talk, status], queue=False, **quick
    )
    halt.click(**ended).then(
        lambda kept: (conversation(kept), notice("Stopped. An answer that was under way is not kept.")),
        turns,
        [talk, status],
        queue=False,
        **quick,
    )
    changed(run)(example, [run, question, given], [question, given], queue=False, **quick)


def _example(session: Session, run_id: int) -> str:
    """A question that suits a run; none where its task, or the run itself, is gone."""
    try:
        chosen = tasks.task(session.store.get(run_id).task, session.settings)
    except PlaygroundError:
        return ""
    return chosen.dev[0].input if chosen.dev else ""


def _answers(session: Session, run: Any, how: str, before: Turns, words: str):
    """Yields both answers so far, and a line about the prompts."""
    from playground.evaluation.text import max_new_tokens

    technique = method(run.method)
    with session.arbiter.adapted(run.id) as adapted:
        loaded = adapted.model
        if how == TASK:
            ids = loaded.encode(adapted.prompts([words])[0].messages)
            prompts, most = [ids, ids], max_new_tokens(tasks.task(run.task, session.settings), loaded)
        else:
            prompts = [loaded.encode(messages(before, words, side)) for side in (0, 1)]
            most = MOST_TOKENS
        counts = [f"{len(ids):,} tokens" for ids in prompts]
        about = facts(
            [("Prompt", f"{counts[0]}, the same for both" if how == TASK else " and ".join(counts))]
        )
        try:
            switch = lambda number: technique.switch(loaded.model, number == 1)  # noqa: E731
            for texts in side_by_side(loaded, prompts, most, switch):
                yield texts, about
        finally:
            technique.switch(loaded.model, True)


def messages(before: Turns, words: str, side: int) -> list[dict[str, str]]:
    """The chat so far as one side knows it: its own answers (0 = base, 1 = adapted), then the new question."""
    found = []
    for turn in before:
        found.append({"role": "user", "content": turn["said"]})
        found.append({"role": "assistant", "content": turn["told"][side]})
    return [*found, {"role": "user", "content": words}]


def conversation(turns: Turns) -> str:
    """The turns, both answers beside each other."""
    parts = []
    for turn in turns:
        nothing = "(an empty answer)" if turn.get("done") else "…"
        told = "".join(
            f'<section class="pg-said"><h4>{name}</h4><p>{safe(text) or nothing}</p></section>'
            for name, text in zip(SIDES, turn["told"], strict=True)
        )
        parts.append(f'<p class="pg-asked">{safe(turn["said"])}</p><div class="pg-both">{told}</div>')
    return f'<div class="pg-chat">{"".join(parts)}</div>' if parts else ""
