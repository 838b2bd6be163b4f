"""Runs: the queue and the history, with logs, stop, resume, delete and download."""

import os
import tempfile
import zipfile
from pathlib import Path

import gradio as gr

from playground.errors import InvalidInput, RunNotFound
from playground.jobs import export_work
from playground.jobs.local import run_folder
from playground.results.comparison import text
from playground.results.metrics import BY_NAME
from playground.results.runs import ACTIVE
from playground.results.speed import PAIRS
from playground.ui import uploads
from playground.ui.components import estimate, run_card
from playground.ui.components.echo import changed
from playground.ui.components.markup import empty, facts, heading, notice, safe
from playground.ui.messages import shown
from playground.ui.session import Session
from playground.ui.tabs.compare import CLICKS, FOLDS

SHOWN = 40
LOG_LINES = 200
LEFT_OUT = {export_work.FOLDER, "checkpoints"}  # downloads of their own; of use to a resume here alone


def build(session: Session, pulse: gr.Textbox, opened: gr.Number) -> None:
    """Draw the tab. ``opened`` is the run whose details are shown."""
    gr.HTML(
        heading(
            "Runs", "One device does one run at a time; the others wait. Runs go on when this page is closed."
        )
    )
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=3, min_width=300):
            listing = gr.HTML(js_on_load=CLICKS, elem_id="runs")
        with gr.Column(scale=2, min_width=300, elem_classes="pg-panel"):
            detail = gr.HTML(js_on_load=FOLDS, elem_id="run-detail")
            download = gr.Button("Download the run's folder", size="sm", visible=False, elem_id="get-run")
            packed = gr.DownloadButton(visible="hidden", elem_id="file-run")

    asked = gr.State(None)  # the run that is to be deleted, if one means it

    def refresh(run_id, doubted):
        known = run_id is not None and any(run.id == run_id for run in session.runs())
        return listed(session, doubted), details(session, run_id), gr.update(visible=bool(known))

    def act(run_id, event: gr.EventData):
        target = int(event.run)
        doubted = target if event.action == "delete" else None
        if event.action == "open":
            run_id = target
        elif event.action == "stop":
            session.queue.cancel(target)
        elif event.action == "resume":
            session.queue.resume(target)
        elif event.action == "delete-yes":
            session.queue.delete(target)
            run_id = None if run_id == target else run_id
        return run_id, doubted, *refresh(run_id, doubted)

    def pack(run_id):
        if run_id is None:
            raise InvalidInput("Open a run first.")
        return str(archive(session, int(run_id)))

    quick = {"api_visibility": "private", "show_progress": "hidden"}
    gr.on(
        [pulse.change, changed(opened)],
        shown(refresh),
        [opened, asked],
        [listing, detail, download],
        queue=False,
        **quick,
    )
    listing.click(
        shown(act), opened, [opened, asked, listing, detail, download],
        concurrency_limit=None, trigger_mode="multiple", **quick,
    )  # fmt: skip
    download.click(shown(pack), opened, packed, api_visibility="private", show_progress="minimal").success(
        None, js="() => window.playground.download('file-run')", api_visibility="private"
    )


def listed(session: Session, asked: int | None = None) -> str:
    """Active runs in the order of the queue, then the history; ``asked`` is the run that is to be deleted."""
    active = session.runs(status=ACTIVE)
    running = [run for run in active if run.status == "running"]
    past = [run for run in session.runs(limit=SHOWN + len(active)) if run.status not in ACTIVE][:SHOWN]
    if not active and not past:
        return empty("No runs yet", "Start a race, or run a method on its own tab.")
    parts = []
    if active:
        cards = "".join(run_card.card(session, run) for run in [*running, *session.store.queued()])
        parts.append(f'<section class="pg-runs"><h3>Queue</h3>{cards}</section>')
    if past:
        cards = "".join(run_card.card(session, run, asked=run.id == asked) for run in past)
        parts.append(f'<section class="pg-runs"><h3>History</h3>{cards}</section>')
    return "".join(parts)


def details(session: Session, run_id: int | None) -> str:
    """Parameters, figures, provenance and log of one run."""
    if run_id is None:
        return empty("No run open", "Press “Details” on a run to see its figures and its log.")
    try:
        run = session.store.get(int(run_id))
    except RunNotFound as error:
        return notice(str(error), "warn")
    figures = facts(
        (spec.label, text(run.metrics.get(name), spec.unit))
        for name, spec in BY_NAME.items()
        if name in run.metrics and name not in PAIRS
    )
    foretold = estimate.beside(run.metrics)
    origin = facts((name.replace("_", " "), _plain(value)) for name, value in sorted(run.provenance.items()))
    entries = session.store.events(run.id, kinds={"log"})[-LOG_LINES:]
    log = "\n".join(f"{run_card.when(event.at)}  {event.data.get('text', '')}" for event in entries)
    tone = "warn" if run.status in ("cancelled", "interrupted") else "bad"
    error = notice(run.error, tone) if run.error and run.status != "done" else ""
    return (
        f"{heading(f'Run #{run.id}: {session.title(run.method)}', '', 3)}{run_card.pill(run)}{error}"
        f"<h4>Figures</h4>{figures or '<p class=pg-muted>None yet.</p>'}"
        f"{'<h4>Estimated before the start</h4>' + foretold if foretold else ''}"
        f"<h4>Settings</h4>{run_card.settings_of(run) or '<p class=pg-muted>This method has none.</p>'}"
        f"<details><summary>Provenance</summary>{origin}</details>"
        f'<details open><summary>Log</summary><pre class="pg-log">{safe(log) or "Nothing was logged."}</pre></details>'
    )


def _plain(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)


def archive(session: Session, run_id: int) -> Path:
    """The run's folder as a zip file, without ``LEFT_OUT``; one a run, where it is swept.

    Raises:
        RunNotFound: there is no such run.
        InvalidInput: it kept no files.
    """
    run = session.store.get(run_id)
    folder = run_folder(session.settings, run.id)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise InvalidInput(f"Run {run_id} kept no files.")
    if run.status in ACTIVE:
        raise InvalidInput(f"Run {run_id} is {run.status}; its folder can be downloaded when it has ended.")
    target = uploads.folder() / f"run-{run_id}" / f"run-{run_id}-{run.method}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        _pack(folder, whole := Path(beside) / target.name)
        os.replace(whole, target)
    return target


def _pack(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and not path.is_symlink() and name.parts[0] not in LEFT_OUT:
                packed.write(path, name)
