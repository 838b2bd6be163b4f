"""The whole page: header, tabs, what keeps it live; and serving it."""

import json
import logging
import re
import signal

import gradio as gr
from gradio import networking

from playground.data import tasks
from playground.jobs import forecast
from playground.jobs.arbiter import Arbiter
from playground.jobs.queue import Queue
from playground.methods.base import Method
from playground.methods.registry import methods
from playground.models import sources
from playground.results.runs import ACTIVE, RunStore
from playground.settings import Settings
from playground.ui import api, theme, uploads
from playground.ui.components.markup import safe
from playground.ui.session import IMAGE_TABS, OWN_TABS, Session
from playground.ui.starter import Starter
from playground.ui.tabs import compare, dreambooth, few_shot, finetune, rag, runs, start, try_it

log = logging.getLogger(__name__)

SECONDS = 1.0  # between two looks at the store
IDLE_LOOK = (
    0.05  # seconds between looks of Gradio's own queue: its value for Windows; elsewhere 0.001, 4 % of a core
)
IDS = ("start", "few_shot", "rag", *OWN_TABS, "more", *IMAGE_TABS, "compare", "try", "runs")

# The tab in sight follows the pulse; another one catches up when it is opened.
FOLLOW = """(pulse, shown, ...beats) => {
  const ids = IDS;
  return beats.map((beat, at) => ids[at] === shown ? pulse : beat);
}""".replace("IDS", json.dumps(IDS))


def open_session(settings: Settings) -> Session:
    """Open the store and what works on it; nothing is started yet."""
    store = RunStore(settings.database)
    arbiter = Arbiter(settings, store)
    queue = Queue(
        settings, store, release=arbiter.release, check_model=sources.obtainable, check_fit=forecast.fits
    )
    return Session(settings, store, queue, arbiter, Starter(settings))


def page(session: Session) -> gr.Blocks:
    """Build the page. Everything that it shows is read from the store when a visitor comes."""
    with gr.Blocks(
        title="Adaptation Playground", analytics_enabled=False, delete_cache=uploads.SWEEP
    ) as blocks:
        pulse = gr.Textbox("", visible="hidden")  # when these change in the browser, views follow
        group = gr.Textbox("", visible="hidden", elem_id="group")
        opened = gr.Number(None, visible="hidden")
        known = gr.Textbox("", visible="hidden")
        visitor = gr.Textbox("", visible="hidden")
        header = gr.HTML(status(session), elem_id="header")
        shown = gr.Textbox("start", visible="hidden")  # the tab in sight
        beats = {id: gr.Textbox("", visible="hidden") for id in IDS}
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Start", id="start") as first:
                start.build(session, beats["start"], group, known, tabs)
            with gr.Tab("Few-shot", id="few_shot") as second:
                few_shot.build(session, beats["few_shot"], known)
            with gr.Tab("RAG", id="rag") as third:
                rag.build(session, known, visitor)
            trained = _training_tabs(session, beats, known) + _image_tabs(session, beats, group)
            with gr.Tab("Compare", id="compare") as last:
                compare.build(session, beats["compare"], group, opened)
            with gr.Tab("Try", id="try") as trying:
                try_it.build(session, beats["try"])
            with gr.Tab("Runs", id="runs") as history:
                runs.build(session, beats["runs"], opened)
        for tab in (first, second, third, *trained, last, trying, history):
            tab.select(None, None, shown, js=f"() => {json.dumps(tab.id)}", api_visibility="private")
        gr.on(
            [pulse.change, shown.change], None, [pulse, shown, *beats.values()], list(beats.values()),
            js=FOLLOW, api_visibility="private",
        )  # fmt: skip
        timer = gr.Timer(SECONDS)
        quick = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        timer.tick(lambda seen: _look(session, seen), pulse, [pulse, header], **quick)

        def arrive(request: gr.Request):
            return _arrive(session, request)

        blocks.load(
            arrive,
            None,
            [pulse, group, opened, tabs, header, known],
            **quick,
        )
        blocks.load(
            None, None, visitor, js="() => window.playground.visitor()", api_visibility="private"
        )  # fmt: skip
        shown.change(None, shown, js="tab => window.playground.at(tab)", api_visibility="private")
        group.change(None, group, js="group => window.playground.remember(group)", api_visibility="private")
        api.build(session)
    return blocks


def _training_tabs(session: Session, beats: dict[str, gr.Textbox], known: gr.Textbox) -> list[gr.Tab]:
    """A tab for each method of ``OWN_TABS`` that there is, and one for all other methods that train."""
    trained = {id: each for id, each in methods().items() if _trains_text(each)}
    tabs = []
    for id, label in OWN_TABS.items():
        if id not in trained:
            continue
        with gr.Tab(label, id=id) as tab:
            finetune.build(session, trained[id], tab, beats[id], known)
        tabs.append(tab)
    others = [each for id, each in trained.items() if id not in OWN_TABS]
    if others:
        with gr.Tab("More PEFT", id="more") as tab:
            finetune.build_more(session, others, tab, beats["more"], known)
        tabs.append(tab)
    return tabs


def _image_tabs(session: Session, beats: dict[str, gr.Textbox], group: gr.Textbox) -> list[gr.Tab]:
    """A tab for each entry of ``IMAGE_TABS`` of which there is a method."""
    known = methods()
    tabs = []
    for id, (label, kind, members) in IMAGE_TABS.items():
        techniques = [known[member] for member in members if member in known]
        if techniques:
            with gr.Tab(label, id=id) as tab:
                dreambooth.build(session, techniques, kind, tab, beats[id], group)
            tabs.append(tab)
    return tabs


def _trains_text(technique: Method) -> bool:
    return technique.family == "parametric" and technique.modality == "text"


def serve(settings: Settings) -> None:
    """Start the queue, fetch the starter model in the background, and serve the page until stopped."""
    uploads.settle(settings)
    session = open_session(settings)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # stopped by a service manager: end runs in order
    session.queue.start()
    session.starter.start()
    blocks = page(session)
    uploads.adopt(blocks, settings)
    attend(blocks)
    log.info("The page is at http://%s:%d (stop it with Ctrl+C)", settings.host, settings.port)
    try:
        blocks.launch(**launch_options(settings))
    finally:
        session.exports.close()
        session.queue.close()
        session.store.close()


def attend(blocks: gr.Blocks) -> None:
    """Set up Gradio's own queue of handlers; idle, it takes next to nothing.

    ``launch`` asks its own page once and ends the process where no answer comes within 3 seconds: on a busy
    machine, or where a proxy is set. That is no reason not to serve, so it is not asked.
    """
    networking.url_ok = lambda url: True
    blocks.queue(default_concurrency_limit=4, max_size=64)
    blocks._queue.sleep_when_free = IDLE_LOOK
    blocks._queue.progress_update_sleep_when_free = 0.1


def launch_options(settings: Settings) -> dict:
    """What ``launch`` is told: address, look, and nothing that asks another host."""
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "theme": theme.theme(),
        "css": theme.css(),
        "head": theme.head(),
        "footer_links": [],
        "run_history": False,
        "show_error": True,
        "share": False,
        "ssr_mode": False,
        "max_file_size": f"{settings.max_upload_mb}mb",
        "quiet": True,
    }


def status(session: Session) -> str:
    """The header: name, and how busy the device is."""
    active = session.store.list(status=ACTIVE)
    running = next((run for run in active if run.status == "running"), None)
    waiting = sum(1 for run in active if run.status == "queued")
    if running:
        words = f"{session.title(running.method)} is running" + (f", {waiting} waiting" if waiting else "")
    else:
        words = f"{waiting} waiting" if waiting else "Idle"
    return (
        '<div class="pg-top"><div class="pg-brand"><svg viewBox="0 0 28 28" aria-hidden="true"><rect x="2" y="2" '
        'width="24" height="24" rx="6"/><path d="M8 20V8m0 6h6m6-6v12"/><circle cx="17" cy="14" r="3"/></svg>'
        "<b>Adaptation Playground</b></div>"
        f'<span class="pg-device {"pg-busy" if running else ""}"><i></i>{safe(words)}</span></div>'
    )


def _look(session: Session, seen: str):
    now = session.pulse()
    return (gr.skip(), gr.skip()) if now == seen else (now, status(session))


def _arrive(session: Session, request: gr.Request):
    """What a link asks for: ``?group=`` a race, ``?run=`` a run, ``?tab=`` a tab; else the newest race."""
    asked = dict(request.query_params) if request else {}
    run = _run_id(asked.get("run", ""))
    group = asked.get("group") or ""
    if not group or not session.runs(group=group, limit=1):
        group = session.newest_group() or ""
    tab = "runs" if run is not None else asked.get("tab")
    selected = gr.Tabs(selected=tab) if tab in IDS else gr.skip()
    return session.pulse(), group, run, selected, status(session), ",".join(tasks.tasks(session.settings))


def _run_id(text: str) -> int | None:
    """The id in a link; None for what cannot be one. Up to 15 digits are exact in the browser."""
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None
