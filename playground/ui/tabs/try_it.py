"""Try: one question, answered by the base model and by finished runs of it, side by side."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.data import tasks
from playground.data.tasks import Item, Task
from playground.errors import InvalidInput, PlaygroundError
from playground.methods.base import Prompt
from playground.results import comparison
from playground.results.comparison import text as shown_value
from playground.results.runs import Run
from playground.ui.answers import checked, side_by_side
from playground.ui.components.markup import empty, heading, safe
from playground.ui.messages import placed, shown
from playground.ui.session import INFERENCE, Session

if TYPE_CHECKING:
    from playground.models.text import LanguageModel

MOST = 4  # runs beside the base model: they answer one after the other
FIRST = 3  # of them are chosen for a visitor who has not chosen yet
BASE = "Base model"
NONE_YET = empty(
    "No finished run yet",
    "Race the methods on the Start tab, or measure one on its own tab. Whatever is done can be tried here.",
)
QUICK = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass
class Told:
    """What one of them says, as it comes. ``run`` is None for the base model."""

    run: Run | None
    state: str = "Waits for its turn …"  # "" when it writes, and afterwards
    text: str = ""
    error: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    right: bool | None = None  # None = not done, or nobody knows
    passages: Sequence[dict[str, Any]] = ()


def build(session: Session, pulse: gr.Textbox) -> None:
    """Draw the tab. ``pulse`` changes while the tab is in sight and the store changed."""
    gr.HTML(heading("Try", "One question to the base model and to finished runs of it, side by side."))
    known = gr.Textbox("", visible="hidden")  # the finished runs that the lists have
    none_yet = gr.HTML(NONE_YET, elem_id="try-none-yet")
    with gr.Column(elem_classes="pg-panel", visible=False) as panel:
        with gr.Row(elem_classes="pg-form"):
            place = gr.Dropdown(
                [], label="Task and model", info="What the runs have in common.", min_width=220,
                interactive=True, filterable=False, elem_id="try-place",
            )  # fmt: skip
            chosen = gr.Dropdown(
                [], label="Finished runs", info=f"Up to {MOST}. The base model is always asked, and first.",
                multiselect=True, max_choices=MOST, min_width=280, interactive=True, elem_id="try-runs",
            )  # fmt: skip
        question = gr.Textbox(label="Question", lines=2, max_lines=12, elem_id="try-question")
        with gr.Row(elem_classes="pg-buttons"):
            ask = gr.Button("Ask them all", variant="primary", size="md", elem_id="try-ask")
            other = gr.Button("A question of the test", size="md", elem_id="try-other")
        answers = gr.HTML(elem_id="try-answers")

    def follow(seen, at, run_ids):
        there = places(session)
        now = ",".join(str(run.id) for runs in there.values() for run in runs)
        if now == seen:
            return [gr.skip()] * 5
        at = at if at in there else next(iter(there), None)
        options = [(words_of(session, runs[0]), key) for key, runs in there.items()]
        return (
            now, gr.update(visible=not there), gr.update(visible=bool(there)),
            gr.update(choices=options, value=at), choices(session, there.get(at, []), run_ids or []),
        )  # fmt: skip

    def draw(at):
        return random.choice(task_of(session, at).test).input, ""

    def answer(at, run_ids, words):
        task, words = task_of(session, at), checked(words, session.settings)
        runs = [session.store.get(int(id)) for id in run_ids or []]
        item = known_item(task, words)
        for told in ask_all(session, task, at.split("\n")[1], runs, words):
            yield view(session, told, item)

    gr.on([pulse.change], shown(follow), [known, place, chosen], [known, none_yet, panel, place, chosen],
          queue=False, **QUICK)  # fmt: skip
    place.input(
        lambda at: choices(session, places(session).get(at, []), []), place, chosen, queue=False, **QUICK
    )
    gr.on(
        [place.change, other.click], placed(draw, 2, at=1), place, [question, answers], queue=False, **QUICK
    )
    gr.on(
        [ask.click, question.submit], placed(answer, 1), [place, chosen, question], answers,
        concurrency_id=INFERENCE, concurrency_limit=1, **QUICK,
    )  # fmt: skip


# What can be tried


def places(session: Session) -> dict[str, list[Run]]:
    """Finished text runs by task and model (a line each), the newest first.

    Within, those measured on the most test items stand first, of those the best. Zero-shot is left out: it is the
    base model. Of runs that are alike the newest stands for all. A run whose task is gone cannot be asked.
    """
    known = tasks.tasks(session.settings)
    done = [
        run
        for run in comparison.newest(session.runs(status="done"))
        if session.modality(run.method) == "text" and run.method != comparison.REFERENCE and run.task in known
    ]
    there: dict[str, list[Run]] = {}
    for run in reversed(done):
        there.setdefault(f"{run.task}\n{run.model}", []).append(run)
    for runs in there.values():
        runs.sort(key=_rank)
    return there


def _rank(run: Run) -> tuple[float, float]:
    return -(run.metrics.get("n") or 0), -(run.metrics.get("quality") or 0.0)


def choices(session: Session, runs: Sequence[Run], before: Sequence[int]) -> dict[str, Any]:
    """An update of the list of runs: those chosen before stay; else the first of each method, a few."""
    kept = [run.id for run in runs if run.id in before]
    first: dict[str, int] = {}
    for run in runs:
        first.setdefault(run.method, run.id)
    return gr.update(
        choices=[(name(session, run), run.id) for run in runs], value=kept or list(first.values())[:FIRST]
    )


def name(session: Session, run: Run) -> str:
    """A run in the list: "#12 · LoRA · 87.5 %", and behind it on how many test items where not on all."""
    quality = shown_value(run.metrics.get("quality"), "")
    parts = (f"#{run.id}", session.title(run.method), quality, comparison.cap(run) if run.limit else "")
    return " · ".join(part for part in parts if part)


def words_of(session: Session, run: Run) -> str:
    return f"{session.task_title(run.task)} · {session.model_title(run.model)}"


def task_of(session: Session, place: str | None) -> Task:
    """The task of a task and model.

    Raises:
        InvalidInput: none is chosen, or the task is gone.
    """
    if not place:
        raise InvalidInput("There is no finished run yet. Start one first.")
    return tasks.task(place.split("\n")[0], session.settings)


def known_item(task: Task, words: str) -> Item | None:
    """The item of the task that asks exactly this; None for a question of one's own."""
    items = (item for split in (task.test, task.dev, task.train) for item in split)
    return next((item for item in items if item.input.strip() == words), None)


# Asking


def ask_all(
    session: Session, task: Task, model: str, runs: Sequence[Run], words: str
) -> Iterator[list[Told]]:
    """Ask the base model, then each run, with the task's instruction; one that cannot answer says why.

    One after the other: so that only one adapted model needs memory, and none takes another's seconds.

    Yields: what all of them have said so far.

    Raises:
        InvalidInput: a run is of another task or model, or there are too many.
    """
    if len(runs) > MOST:
        raise InvalidInput(f"{len(runs)} runs are chosen; at most {MOST} can be asked at once.", "runs")
    if any((run.task, run.model) != (task.id, model) for run in runs):
        raise InvalidInput("Choose runs of one task and model.", "runs")
    all_told = [Told(None), *(Told(run) for run in runs)]
    for told in all_told:
        told.state = "Loading …"
        yield all_told
        try:
            with _opened(session, task, model, told.run, words) as (loaded, prompt):
                for _ in _written(told, task, loaded, prompt):
                    yield all_told
        except PlaygroundError as error:
            told.error = str(error)
        told.state = ""
        told.right = _right(task, known_item(task, words), told)
    yield all_told


@contextmanager
def _opened(
    session: Session, task: Task, model: str, run: Run | None, words: str
) -> "Iterator[tuple[LanguageModel, Prompt]]":
    """The loaded model of a run, or the base model, and what it is asked."""
    if run is None:
        with session.arbiter.model(model) as loaded:
            yield loaded, Prompt(task.messages(words))
    else:
        with session.arbiter.adapted(run.id) as adapted:
            yield adapted.model, adapted.prompts([words])[0]


def _written(told: Told, task: Task, model: "LanguageModel", prompt: Prompt) -> Iterator[None]:
    """Let the model write into ``told``, a piece at a time."""
    from playground.evaluation.text import Clock, max_new_tokens

    ids = model.encode(prompt.messages)
    told.prompt_tokens, told.passages = len(ids), prompt.passages
    clock = Clock()
    for (told.text,) in clock.timed(side_by_side(model, [ids], max_new_tokens(task, model))):
        told.state, told.seconds = "", clock.seconds
        told.tokens = len(model.tokenizer.encode(told.text, add_special_tokens=False))
        yield
    told.seconds = clock.seconds


def _right(task: Task, item: Item | None, told: Told) -> bool | None:
    from playground.evaluation.scoring import score

    return None if item is None or told.error else score(task, item, told.text).correct


# Showing


def view(session: Session, all_told: Sequence[Told], item: Item | None) -> str:
    """The right answer where it is known, and the answers beside each other."""
    expected = f'<p class="pg-muted">Expected: <b>{safe(item.target)}</b></p>' if item else ""
    return f'{expected}<div class="pg-both">{"".join(_section(session, told) for told in all_told)}</div>'


def _section(session: Session, told: Told) -> str:
    run = told.run
    title = f"{safe(session.title(run.method))} <small>#{run.id}</small>" if run else BASE
    family = session.family(run.method) if run else ""
    mark = "" if told.right is None else _pill(told.right)
    said = safe(told.error or told.state or told.text) or "(an empty answer)"
    tone = ' class="pg-reason"' if told.error else ' class="pg-muted"' if told.state else ""
    return (
        f'<section class="pg-said" data-family="{safe(family)}"><h4><i class="pg-dot"></i>{title} {mark}</h4>'
        f"<p{tone}>{said}</p><small>{safe(_cost(told))}</small>{_found(told.passages)}</section>"
    )


def _pill(right: bool) -> str:
    return f'<span class="pg-pill pg-{"done" if right else "failed"}">{"Right" if right else "Wrong"}</span>'


def _cost(told: Told) -> str:
    if not told.tokens and not told.seconds:
        return ""
    return f"{shown_value(told.seconds, 's')} · {told.tokens} tokens · prompt {told.prompt_tokens:,} tokens"


def _found(passages: Sequence[dict[str, Any]]) -> str:
    items = "".join(f"<li>{safe(passage.get('text'))}</li>" for passage in passages)
    return f"<details><summary>What it looked up</summary><ul>{items}</ul></details>" if items else ""
