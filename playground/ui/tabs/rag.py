"""RAG: bring documents, build the index, ask with and without them."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from playground.data import tasks
from playground.data.tasks import Document
from playground.errors import InvalidInput, PlaygroundError, StoreError
from playground.methods.registry import method
from playground.results.comparison import text as shown_value
from playground.ui import form, uploads
from playground.ui.answers import checked, side_by_side
from playground.ui.components import passages as shown_passages
from playground.ui.components.echo import changed
from playground.ui.components.markup import bar, empty, facts, heading, notice, safe
from playground.ui.indexes import Indexes
from playground.ui.messages import placed
from playground.ui.panels import bench
from playground.ui.session import INFERENCE, Session
from playground.ui.tabs.start import first_question, items_field, limit_of

if TYPE_CHECKING:
    from playground.retrieval.store import Contents

NO_TASK = ""
INSTRUCTION = (
    "Answer the question briefly, from the passages where there are any. "
    "If you do not know the answer, say that you do not know."
)
MOST_TOKENS = 64
NO_INDEX = empty("No index yet", "Choose documents and build it.")


def build(session: Session, known: gr.Textbox, visitor: gr.Textbox) -> None:
    """Draw the tab. ``visitor`` holds the browser's own random id, under which its index is kept."""
    technique = method("rag")
    indexes = Indexes(session.settings)
    indexes.sweep()
    gr.HTML(heading("RAG", technique.summary))
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=2, min_width=300, elem_classes="pg-panel"):
            gr.HTML(
                heading(
                    "Documents", "Text and Markdown. They stay on this server, for this browser alone.", 3
                )
            )
            source = gr.Dropdown(
                sources(session),
                value=first_source(session),
                label="Documents of a task",
                elem_id="rag-source",
            )
            files = gr.File(
                label="Your own files", file_count="multiple", type="filepath", height=150, elem_id="rag-files",
                file_types=[".md", ".markdown", ".txt", ".text"],
            )  # fmt: skip
            fields = form.build(technique)
            with gr.Row(elem_classes="pg-buttons"):
                make = gr.Button(
                    "Build or update the index", variant="primary", size="md", elem_id="build-index"
                )
                drop = gr.Button("Delete my index", size="md", elem_id="delete-index")
            with gr.Row(
                visible=False, elem_classes="pg-buttons pg-confirm", elem_id="confirm-delete"
            ) as confirm:
                gr.HTML(
                    '<p class="pg-muted">Your index and the texts in it are removed from this server.</p>'
                )
                sure = gr.Button("Delete it", variant="stop", size="md", elem_id="delete-index-yes")
                keep = gr.Button("Keep it", size="md", elem_id="delete-index-no")
            index_status = gr.HTML(NO_INDEX, elem_id="index-status")
        with gr.Column(scale=3, min_width=300, elem_classes="pg-panel"):
            gr.HTML(heading("Ask", "With the passages found, and closed-book beside it.", 3))
            model = gr.Dropdown(
                session.model_choices(),
                value=session.model_choices()[0][1],
                label="Model",
                allow_custom_value=True,
            )
            question = gr.Textbox(
                first_question(session, first_source(session)), label="Question", lines=2, max_lines=8,
                elem_id="rag-question",
            )  # fmt: skip
            with gr.Row(elem_classes="pg-buttons"):
                ask = gr.Button("Ask both", variant="primary", size="md", elem_id="rag-ask")
                other = gr.Button("A question of the task", size="md")
            status = gr.HTML()
            with gr.Row():
                with gr.Column(min_width=240):
                    grounded = gr.HTML(shown_passages.answer("With passages", ""), elem_id="grounded")
                with gr.Column(min_width=240):
                    closed = gr.HTML(shown_passages.answer("Closed-book", ""), elem_id="closed")
            found = gr.HTML(elem_id="passages")
    with gr.Column(elem_classes="pg-panel"):
        bench.build(session, indexes, source, visitor, fields.fields["diversity"])
    with gr.Column(elem_classes="pg-panel"):
        gr.HTML(
            heading("Measure on a task", "A run builds its own index and answers the task's test items.", 3)
        )
        with gr.Row(elem_classes="pg-form"):
            task = gr.Dropdown(
                session.task_choices(), value=first_source(session), label="Task", min_width=200
            )
            limit = items_field()
        problem = gr.HTML()
        with gr.Row(elem_classes="pg-buttons"):
            measure = gr.Button("Measure", variant="primary", size="md", elem_id="rag-measure")

    def construct(**values):
        yield from build_index(session, indexes, fields, values)

    def doubt(visitor_id):
        there = indexes.contents(visitor_id) is not None
        return gr.update(visible=there), gr.skip() if there else NO_INDEX

    def remove(visitor_id, paths):
        gone = indexes.delete(visitor_id)
        uploads.forget(paths or [])
        words = notice("Your index is deleted.", "good") if gone else ""
        return gr.update(visible=False), words + NO_INDEX, None

    def draw(task_id):
        if not task_id:
            raise InvalidInput("Choose a task with documents first, or write a question of your own.")
        import random

        return random.choice(tasks.task(task_id, session.settings).dev).input, ""

    def answer(**values):
        yield from ask_both(session, indexes, fields, values)

    def submit(**values):
        try:
            run = session.queue.submit(
                "rag", fields.params(values), values["task"], (values["model"] or "").strip(),
                limit=limit_of(values["limit"]), reference="first",
            )  # fmt: skip
        except Exception as error:
            return fields.refused(error)
        return notice(f"Run #{run.id} is in the queue; follow it on Compare or Runs.", "good")

    quick = {"api_visibility": "private", "show_progress": "hidden"}
    visitor.change(lambda id: standing(indexes, id), visitor, index_status, queue=False, **quick)
    building = {**fields.fields, "files": files, "source": source, "visitor": visitor}
    told, verdict = fields.guard(make, building, index_status, session.settings)
    told.then(
        placed(construct, 1), inputs_kwargs=building, outputs=index_status,
        validator=verdict,
        concurrency_id=INFERENCE, concurrency_limit=1, **quick,
    )  # fmt: skip
    drop.click(placed(doubt, 2, at=1), visitor, [confirm, index_status], concurrency_limit=None, **quick)
    sure.click(
        placed(remove, 3, at=1), [visitor, files], [confirm, index_status, files],
        concurrency_id=INFERENCE, concurrency_limit=1, **quick,
    )  # fmt: skip
    keep.click(lambda: gr.update(visible=False), None, confirm, queue=False, **quick)
    asking = {**fields.fields, "source": source, "model": model, "question": question, "visitor": visitor}
    told, verdict = fields.guard(ask, asking, status, session.settings)
    told.then(
        placed(answer, 4), inputs_kwargs=asking, outputs=[status, grounded, closed, found],
        validator=verdict,
        concurrency_id=INFERENCE, concurrency_limit=1, **quick,
    )  # fmt: skip
    other.click(placed(draw, 2, at=1), source, [question, status], queue=False, **quick)
    measuring = {**fields.fields, "task": task, "model": model, "limit": limit}
    measure.click(submit, inputs_kwargs=measuring, outputs=problem, queue=False, **quick)
    changed(known)(
        lambda: (gr.update(choices=session.task_choices()), gr.update(choices=sources(session))),
        None, [task, source], queue=False, **quick,
    )  # fmt: skip


def sources(session: Session) -> list[tuple[str, str]]:
    """Tasks that have documents, and none."""
    known = tasks.tasks(session.settings).values()
    found = [(f"{task.title} ({task.documents} documents)", task.id) for task in known if task.documents]
    return [*found, ("None, only my files", NO_TASK)]


def first_source(session: Session) -> str:
    """The first task with documents."""
    return sources(session)[0][1]


def build_index(session: Session, indexes: Indexes, fields: form.Form, values: dict):
    """Build a visitor's index, or bring it up to date, telling progress as HTML.

    Raises:
        DocumentError: a file cannot be read.
        InvalidInput: there is no document.
    """
    from playground.retrieval.store import Index, IndexParams

    params = fields.method.Params.parse({name: values[name] for name in fields.fields})
    documents = read(session, values["source"], values["files"])
    wanted = IndexParams(params.chunk_tokens, params.overlap_tokens)
    visitor = values["visitor"]
    folder = indexes.folder(visitor)
    yield told("Loading the embedding model", None)
    with session.arbiter.embedder() as embedder:
        try:
            index = indexes.get(visitor, embedder)
        except (InvalidInput, StoreError):  # damaged, or of another embedding model: made anew
            index = None
        if index is not None and index.params == wanted:
            present = {document.id for document in index.documents()}
            work = index.update(documents, remove=present - {document.id for document in documents})
        else:
            indexes.close(visitor)
            work = Index.build(folder, documents, embedder, wanted, url=session.settings.chroma_url or None)
        while True:
            try:
                event = next(work)
            except StopIteration as stop:
                outcome = stop.value
                break
            if event.kind == "progress":
                total = event.data["total"]
                share = event.data["done"] / total if total else None
                yield told(f"Embedding: {event.data['done']:g} of {total or 0:g} chunks", share)
        if isinstance(outcome, Index):
            index = outcome
            indexes.keep(visitor, index)
            changes = ""
        else:
            counts = asdict(outcome)
            changes = ", ".join(
                f"{len(counts[name])} {name}" for name in ("added", "changed", "removed", "unchanged")
            )
    indexes.built_from(visitor, values["files"] or [])
    indexes.sweep()
    yield notice(f"The index is ready. {changes}".strip(), "good") + described(indexes.contents(visitor))


def described(index: "Contents") -> str:
    """What an index holds."""
    names = "".join(
        f"<li><span>{safe(document.id)}</span><small>{document.chunks} chunks, {document.characters:,} characters</small></li>"
        for document in index.documents
    )
    return (
        facts(
            (
                ("Documents", len(index.documents)),
                ("Chunks", sum(document.chunks for document in index.documents)),
                ("On disk", shown_value(index.bytes, "B")),
            )
        )
        + f'<details class="pg-documents"><summary>Documents in it</summary><ul>{names}</ul></details>'
    )


def standing(indexes: Indexes, visitor: str) -> str:
    """The index that the visitor built before, if there is one."""
    try:
        index = indexes.contents(visitor)
    except PlaygroundError as error:
        return notice(str(error), "warn")
    return notice("Your index from before is still here.", "good") + described(index) if index else NO_INDEX


def read(session: Session, source: str, files: list[str] | None) -> list[Document]:
    """The documents of a task and of uploaded files, with names that differ.

    Raises:
        DocumentError: a file cannot be read.
        InvalidInput: there is none.
    """
    from playground.data import documents

    own = [documents.read(Path(path), session.settings) for path in files or []]
    given = list(tasks.task(source, session.settings).documents) if source else []
    if not own and not given:
        raise InvalidInput("There is nothing to index: choose a task's documents or upload a file.")
    return documents.distinct([*given, *own])


def ask_both(session: Session, indexes: Indexes, fields: form.Form, values: dict):
    """Search, then stream the grounded and the closed-book answer; citations come at the end."""
    from playground.methods.rag import question as with_passages
    from playground.methods.rag import search, with_worked, worked_examples
    from playground.retrieval.citations import cite

    words = checked(values["question"], session.settings)
    params = fields.method.Params.parse({name: values[name] for name in fields.fields})
    visitor = values["visitor"]
    if indexes.contents(visitor) is None:
        raise InvalidInput("Build the index first: there is nothing to search yet.")
    task = tasks.task(values["source"], session.settings) if values["source"] else None
    system = {"role": "system", "content": task.instruction if task else INSTRUCTION}
    model_id = session.model_id(values["model"])
    waiting = notice(f"Loading {session.model_title(model_id)} …")
    yield waiting, shown_passages.answer("With passages", ""), shown_passages.answer("Closed-book", ""), ""
    with session.arbiter.embedder() as embedder:
        index = indexes.get(visitor, embedder)
        if index is None:
            raise InvalidInput("Build the index first: there is nothing to search yet.")
        (found,) = search(index, [words], params.k, params)
        added = index.expansions([words], params.mode)[0] if params.expansion == "feedback" else []
        worked = worked_examples(task, index, params.worked, params.mode) if task and params.worked else []
    with session.arbiter.model(model_id) as loaded:
        name = task.input_name if task else "Question"
        prompts = [
            loaded.encode(
                with_worked([system, {"role": "user", "content": with_passages(found, words, name)}], worked)
            ),
            loaded.encode([system, {"role": "user", "content": words}]),
        ]
        counts = facts(
            (
                ("Prompt with passages", f"{len(prompts[0]):,} tokens"),
                ("Closed-book", f"{len(prompts[1]):,} tokens"),
                ("Searched for, too", ", ".join(added)),
            )
        )
        yield counts, gr.skip(), gr.skip(), shown_passages.listed(found)
        texts = ["", ""]
        for texts in side_by_side(loaded, prompts, MOST_TOKENS):
            yield (
                gr.skip(), shown_passages.answer("With passages", texts[0]),
                shown_passages.answer("Closed-book", texts[1]), gr.skip(),
            )  # fmt: skip
        citations = cite(texts[0], found)
    yield (
        counts, shown_passages.answer("With passages", texts[0], citations),
        shown_passages.answer("Closed-book", texts[1]), shown_passages.listed(found, citations),
    )  # fmt: skip


def told(words: str, share: float | None) -> str:
    """Progress of the index."""
    return (
        f'<div class="pg-notice pg-info pg-fetch"><span>{safe(words)}</span>{bar(share, label=words)}</div>'
    )
