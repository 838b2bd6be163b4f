"""The retrieval test bench: how often a search in the visitor's index finds the passage with the answer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gradio as gr

from playground.data import tasks
from playground.data.tasks import Item, Task
from playground.errors import InvalidInput
from playground.results.comparison import text as shown_value
from playground.ui.components import charts
from playground.ui.components.markup import heading, safe
from playground.ui.indexes import Indexes
from playground.ui.messages import placed
from playground.ui.session import INFERENCE, Session

if TYPE_CHECKING:
    from playground.evaluation.retrieval import RetrievalScores
    from playground.retrieval.store import Index

FEEDBACK = " + feedback"  # the search with query expansion
MODES = {"hybrid": "two", "dense": "one", "lexical": "three", f"hybrid{FEEDBACK}": "four"}  # with their tones
MOST_K = 10
HEADS = {
    "Search": "By meaning and words, by meaning alone, by words alone; feedback: with query expansion.",
    "Recall@1": "Share of the marked answers that the first passage holds.",
    "Recall@3": "Share of them that one of the first three holds.",
    f"Recall@{MOST_K}": f"Share of them that one of the first {MOST_K} holds.",
    "MRR": "Mean reciprocal rank: 1 where the first passage holds the answer, 1/2 where the second does, …",
    "nDCG": "Normalised discounted cumulative gain: 1 where what answers always comes first.",
    "A question": "Seconds to find passages for one question, embedding included.",
}


@dataclass(frozen=True)
class Trial:
    """One way to search: its scores for the first 1, 2, … ``MOST_K`` passages, and its seconds a question."""

    mode: str
    scores: "Sequence[RetrievalScores]"
    seconds: float


def build(
    session: Session, indexes: Indexes, source: gr.Dropdown, visitor: gr.Textbox, diversity: gr.Slider
) -> None:
    """Draw the bench for the visitor's index and the questions of the task in ``source``."""
    gr.HTML(
        heading(
            "Test the search",
            "No model answers here: is the passage with the answer among the first k? Asked are the task's train and "
            "dev questions whose answer is marked in a document; the test questions never choose.",
            3,
        )
    )
    with gr.Row(elem_classes="pg-buttons"):
        begin = gr.Button("Test my index", variant="primary", size="md", elem_id="bench-start")
    told = gr.HTML(elem_id="bench")

    def test(task_id, visitor_id, different):
        if not task_id:
            raise InvalidInput("Choose a task with documents above: its questions test the search.")
        task = tasks.task(task_id, session.settings)
        items = questions(task)
        with session.arbiter.embedder() as embedder:
            index = indexes.get(visitor_id, embedder)
            check(index, task, items)
            trials = [measure(index, items, mode, different) for mode in MODES]
        return show(trials)

    begin.click(
        placed(test, 1), [source, visitor, diversity], told, api_visibility="private",
        show_progress="minimal", concurrency_id=INFERENCE, concurrency_limit=1,
    )  # fmt: skip


def questions(task: Task) -> list[Item]:
    """The train and dev questions whose answer is marked in a document."""
    return [item for item in (*task.train, *task.dev) if item.evidence]


def check(index: "Index | None", task: Task, items: Sequence[Item]) -> None:
    """Refuse what would measure nothing.

    Raises:
        InvalidInput: no index, no question with a marked answer, or none of their documents in the index.
    """
    if index is None:
        raise InvalidInput("Build the index first: there is nothing to search yet.")
    if not items:
        raise InvalidInput(f"No question of “{task.title}” has its answer marked in a document.")
    there = {document.id for document in index.documents()}
    if not there & {piece.document for item in items for piece in item.evidence}:
        raise InvalidInput(
            f"Your index has none of the documents of “{task.title}”. Build it with them first."
        )


def measure(index: "Index", items: Sequence[Item], mode: str, diversity: float = 0.0) -> Trial:
    """Search for all questions at once, and score the first k passages for every k."""
    from playground.evaluation.retrieval import score

    start = time.perf_counter()
    plain = mode.removesuffix(FEEDBACK)
    found = index.search_many([item.input for item in items], MOST_K, plain, diversity, plain != mode)
    seconds = (time.perf_counter() - start) / len(items)
    return Trial(mode, [score(items, found, k) for k in range(1, MOST_K + 1)], seconds)


def show(trials: Sequence[Trial]) -> str:
    """Recall against k as curves, and the figures as a table."""
    curves = [
        charts.Line(trial.mode, [(one.k, one.recall) for one in trial.scores], MODES[trial.mode])
        for trial in trials
    ]
    heads = "".join(f'<th scope="col" title="{safe(help)}">{safe(name)}</th>' for name, help in HEADS.items())
    rows = "".join(f"<tr>{_cells(trial)}</tr>" for trial in trials)
    return (
        f'<p class="pg-muted">{trials[0].scores[0].n} questions.</p>'
        + charts.lines(curves, "Passages (k)", "Recall", per_cent=True)
        + f'<div class="pg-table-scroll"><table class="pg-table"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(trial: Trial) -> str:
    last = trial.scores[-1]
    recalls = [shown_value(trial.scores[k - 1].recall, "") for k in (1, 3, MOST_K)]
    figures = [*recalls, f"{last.mrr:.3f}", f"{last.ndcg:.3f}", shown_value(trial.seconds, "s")]
    labels = list(HEADS)[1:]
    cells = "".join(
        f'<td data-label="{safe(label)}">{safe(value)}</td>'
        for label, value in zip(labels, figures, strict=True)
    )
    return f'<th scope="row" data-label="Search">{safe(trial.mode)}</th>{cells}'
