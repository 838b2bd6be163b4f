"""Taking a finished run away: download the adapter, merge, GGUF, push to the Hub, the model card."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import HubError, InvalidInput, PlaygroundError, QueueError, RunFailed
from playground.jobs import export_work, hub
from playground.jobs.export_work import PRECISIONS, Order
from playground.jobs.exports import Export
from playground.results.card import Form
from playground.results.comparison import text
from playground.ui.components.echo import changed
from playground.ui.components.markup import bar, heading, notice, safe
from playground.ui.messages import shown
from playground.ui.session import Session

LOOK = 0.3  # seconds between two looks at an export
NAMES: dict[Form, str] = {"adapter": "Adapter", "merged": "Merged model", "gguf": "GGUF file"}
PHASES = {
    "load": "Loading the model",
    "merge": "Merging",
    "check": "Checking the adapter",
    "write": "Writing",
    "pack": "Packing",
    "push": "Pushing to the Hub",
}
PRECISION_NAMES = {"float16": "float16", "q8_0": "8 bits (Q8_0)", "float32": "float32"}


def build(session: Session, run: gr.Number, pulse: gr.Textbox) -> None:
    """Draw the panel for the run whose number is in ``run`` (None = none)."""
    place = f"export-{run._id}"
    gr.HTML(heading("Take it with you", "Files of this run that work without the playground.", 3))
    status = gr.HTML(elem_id=place)
    with gr.Row(elem_classes="pg-buttons"):
        adapter = gr.Button("Download adapter", variant="primary", size="md", elem_id=f"{place}-adapter")
        merged = gr.Button("Merge and download", size="md", elem_id=f"{place}-merged")
        gguf = gr.Button("Make GGUF", size="md", elem_id=f"{place}-gguf")
        stop = gr.Button("Stop", size="md", visible=False, elem_id=f"{place}-stop")
    precision = gr.Dropdown(
        [(PRECISION_NAMES[name], name) for name in PRECISIONS],
        value=PRECISIONS[0],
        label="Precision of GGUF",
        info="8 bits is half the size of float16, and nearly as exact.",
    )
    ready = gr.File(
        label="Made before", file_count="multiple", interactive=False, visible=False, elem_classes="pg-made"
    )
    packed = gr.DownloadButton(visible="hidden", elem_id=f"{place}-file")
    with gr.Accordion("Push to the Hugging Face Hub", open=False):
        gr.HTML(f'<p class="pg-muted">{safe(_rule(session))}</p>')
        with gr.Row(elem_classes="pg-form"):
            repo = gr.Textbox(label="Repository", placeholder="owner/name", max_lines=1)
            form = gr.Dropdown([(name, id) for id, name in NAMES.items()], value="adapter", label="What")
            token = gr.Textbox(
                label="Token", type="password", info="Used for this push, then forgotten.", max_lines=1
            )
            public = gr.Checkbox(False, label="Public", info="Otherwise only its owner sees it.")
        push = gr.Button("Push", size="md", elem_id=f"{place}-push")
    with gr.Accordion("Model card", open=False):
        card = gr.HTML(elem_id=f"{place}-card")

    def view(run_id: float | None) -> tuple:
        return (*_state(session, run_id), _ready(session, run_id))

    def take(wanted: Form) -> Callable[..., Iterator[tuple]]:
        def act(run_id: float | None, chosen: str) -> Iterator[tuple]:
            made = session.exports.start(Order(_number(run_id), wanted, chosen))
            made = yield from _until_done(session, made)
            _serve([made.file])
            size = text(made.file.stat().st_size, "B")
            yield notice(f"{made.file.name} is ready ({size}).", "good"), gr.skip(), str(made.file)

        return shown(act)

    def upload(run_id: float | None, wanted: Form, chosen: str, name: str, typed: str, open_to_all: bool):
        order = Order(_number(run_id), wanted, chosen)
        to = hub.prepare(name, typed, session.settings, private=not open_to_all)
        made = session.exports.start(order, to)
        del to, typed
        yield _progress(made), gr.update(visible=True), ""
        for status_now, stop_now, _ in _watch(session, made):
            yield status_now, stop_now, gr.skip()
        made = _ended(session, made)
        yield notice(f"It is on the Hub: {made.address}", "good"), gr.update(visible=False), gr.skip()

    def halt(run_id: float | None) -> tuple:
        session.exports.stop(_number(run_id))
        return _state(session, run_id)

    def show_card(run_id: float | None) -> str:
        return _card(session, run_id)

    quick = {"api_visibility": "private", "show_progress": "hidden"}
    for button, wanted in ((adapter, "adapter"), (merged, "merged"), (gguf, "gguf")):
        button.click(
            take(wanted), [run, precision], [status, stop, packed], concurrency_limit=None, **quick
        ).success(
            None, js=f"() => window.playground.download('{place}-file')", api_visibility="private"
        )  # fmt: skip
    push.click(
        shown(upload), [run, form, precision, repo, token, public], [status, stop, token],
        concurrency_limit=None, **quick,
    )  # fmt: skip
    stop.click(shown(halt), run, [status, stop], concurrency_limit=None, **quick)
    gr.on([changed(run), changed(pulse)], shown(view), run, [status, stop, ready], queue=False, **quick)
    changed(run)(shown(show_card), run, card, queue=False, **quick)


def _rule(session: Session) -> str:
    """Whose token a push takes here."""
    if session.settings.offline:
        return "This playground is set never to ask the Hub, so it cannot push."
    if session.settings.allow_push:
        return "Without a token of yours the server's own is used."
    return "It takes a token of yours that may write (huggingface.co, Settings, Access Tokens)."


def _number(run_id: float | None) -> int:
    if run_id is None:
        raise InvalidInput("Choose a finished run first.")
    return int(run_id)


def _until_done(session: Session, made: Export) -> Iterator[tuple]:
    """Tell how an export goes until it ends, and return it.

    Raises:
        RunFailed: it failed. QueueError: it was stopped.
    """
    yield from _watch(session, made)
    return _ended(session, made)


def _watch(session: Session, made: Export) -> Iterator[tuple]:
    while (now := session.exports.newest(made.order.run)) is not None and now.number == made.number:
        if now.status != "working":
            return
        yield _progress(now), gr.update(visible=True), gr.skip()
        time.sleep(LOOK)


def _ended(session: Session, made: Export) -> Export:
    now = session.exports.newest(made.order.run)
    if now is None or now.number != made.number:
        raise QueueError("Another export of this run was started meanwhile.")
    if now.status == "cancelled":
        raise QueueError("The export was stopped.")
    if now.status == "failed":
        raise (HubError if now.repo else RunFailed)(now.error)
    return now


def _state(session: Session, run_id: float | None) -> tuple:
    """How the newest export of the run goes, and whether it can be stopped."""
    made = None if run_id is None else session.exports.newest(int(run_id))
    if made is None:
        return "", gr.update(visible=False)
    if made.status == "working":
        return _progress(made), gr.update(visible=True)
    if made.status == "done":
        done = f"It is on the Hub: {made.address}" if made.repo else f"{made.file.name} is ready."
        return notice(done, "good"), gr.update(visible=False)
    return notice(made.error or "", "warn" if made.status == "cancelled" else "bad"), gr.update(visible=False)


def _progress(made: Export) -> str:
    now = made.progress or {}
    total, done = now.get("total"), now.get("done") or 0
    words = PHASES.get(now.get("phase", ""), "Starting")
    if now.get("unit") == "byte" and total:
        words += f": {text(done, 'B')} of {text(total, 'B')}"
    share = done / total if total and now.get("phase") != "push" else None
    what = NAMES[made.order.form] + (f" to {made.repo}" if made.repo else "")
    return f"{bar(share, label=what)}<small>{safe(what)} · {safe(words)}</small>"


def _ready(session: Session, run_id: float | None) -> Any:
    files: list[Path] = [] if run_id is None else session.exports.ready(int(run_id))
    _serve(files)
    return gr.update(value=[str(path) for path in files] or None, visible=bool(files))


def _serve(files: list[Path]) -> None:
    """Let Gradio serve these files where they lie, instead of a copy of each."""
    gr.set_static_paths([path for path in files if not gr.utils.is_static_file(path)])


def _card(session: Session, run_id: float | None) -> str:
    if run_id is None:
        return ""
    try:
        shown_card = export_work.card_of(int(run_id), session.settings, session.store)
    except PlaygroundError as error:
        return notice(str(error))
    return f'<pre class="pg-log">{safe(shown_card)}</pre>'
