"""The whole page: header, tabs, what keeps it live; and serving it."""

import logging
import re
import signal

import gradio as gr
from gradio import networking

from playground.data import tasks
from playground.jobs.arbiter import Arbiter
from playground.jobs.queue import Queue
from playground.models import sources
from playground.results.runs import ACTIVE, RunStore
from playground.settings import Settings
from playground.ui import api, theme
from playground.ui.components.markup import safe
from playground.ui.session import Session
from playground.ui.starter import Starter
from playground.ui.tabs import compare, few_shot, lora, rag, runs, start

log = logging.getLogger(__name__)

SECONDS = 1.0  # between two looks at the store
IDLE_LOOK = (
    0.05  # seconds between looks of Gradio's own queue: its value for Windows; elsewhere 0.001, 4 % of a core
)
TABS = ("Start", "Few-shot", "RAG", "LoRA", "Compare", "Runs")


def open_session(settings: Settings) -> Session:
    """Open the store and what works on it; nothing is started yet."""
    store = RunStore(settings.database)
    arbiter = Arbiter(settings, store)
    queue = Queue(settings, store, release=arbiter.release, check_model=sources.obtainable)
    return Session(settings, store, queue, arbiter, Starter(settings))


def page(session: Session) -> gr.Blocks:
    """Build the page. Everything that it shows is read from the store when a visitor comes."""
    with gr.Blocks(title="Adaptation Playground", analytics_enabled=False) as blocks:
        pulse = gr.Textbox("", visible="hidden")  # when these change in the browser, views follow
        group = gr.Textbox("", visible="hidden", elem_id="group")
        opened = gr.Number(None, visible="hidden")
        known = gr.Textbox("", visible="hidden")
        visitor = gr.Textbox("", visible="hidden")
        header = gr.HTML(status(session), elem_id="header")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Start", id="start"):
                start.build(session, pulse, group, known, tabs)
            with gr.Tab("Few-shot", id="few_shot"):
                few_shot.build(session, pulse, known)
            with gr.Tab("RAG", id="rag"):
                rag.build(session, known, visitor)
            with gr.Tab("LoRA", id="lora"):
                lora.build(session, pulse, known)
            with gr.Tab("Compare", id="compare"):
                compare.build(session, pulse, group, opened)
            with gr.Tab("Runs", id="runs"):
                runs.build(session, pulse, opened)
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
        group.change(None, group, js="group => window.playground.remember(group)", api_visibility="private")
        api.build(session)
    return blocks


def serve(settings: Settings) -> None:
    """Start the queue, fetch the starter model in the background, and serve the page until stopped."""
    session = open_session(settings)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # stopped by a service manager: end runs in order
    session.queue.start()
    session.starter.start()
    blocks = page(session)
    attend(blocks)
    log.info("The page is at http://%s:%d (stop it with Ctrl+C)", settings.host, settings.port)
    try:
        blocks.launch(**launch_options(settings))
    finally:
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
    """What a link asks for: ``?group=`` a race, ``?run=`` a run; else the newest race."""
    asked = dict(request.query_params) if request else {}
    run = _run_id(asked.get("run", ""))
    group = asked.get("group") or ""
    if not group or not session.runs(group=group, limit=1):
        group = session.newest_group() or ""
    tab = gr.Tabs(selected="runs") if run is not None else gr.skip()
    return session.pulse(), group, run, tab, status(session), ",".join(tasks.tasks(session.settings))


def _run_id(text: str) -> int | None:
    """The id in a link; None for what cannot be one. Up to 15 digits are exact in the browser."""
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None
