"""A run as a card: what it is, how far it is, what came out."""

import time
from collections.abc import Mapping
from typing import Any

from playground.data import tasks
from playground.results.comparison import text
from playground.results.runs import ACTIVE, Run
from playground.ui.components.markup import bar, facts, safe
from playground.ui.session import Session

PHASES = {
    "fetch": "Fetching the model",
    "load": "Loading the model",
    "reference": "Asking the base model general questions",
    "adapt": "Adapting",
    "train": "Training",
    "index": "Building the index",
    "prompts": "Building the prompts",
    "class": "Drawing pictures of the class",
    "encode": "Encoding the pictures",
    "look": "Drawing samples",
    "evaluate": "Answering the test items",
    "probe": "Timing single questions",
    "retention": "Measuring what was forgotten",
}
STEPS = (
    ("Load", ("fetch", "load", "reference")),
    ("Adapt", ("adapt", "class", "encode", "train", "look", "index")),
    ("Test", ("prompts", "evaluate", "probe", "retention")),
)
STATUS = {
    "queued": "Waiting",
    "running": "Running",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Stopped",
    "interrupted": "Interrupted",
}


def pill(run: Run, place: int | None = None) -> str:
    """The status as a small label; a waiting run says its place in the queue."""
    words = STATUS[run.status]
    if run.status == "queued" and place:
        words = "Next in line" if place == 1 else f"Waiting, place {place}"
    return f'<span class="pg-pill pg-{run.status}">{safe(words)}</span>'


def doing(run: Run) -> str:
    """What a run is doing now, in words: "Answering the test items: 34 of 200 · 12 s left"."""
    now = run.progress or {}
    if run.status != "running":
        return ""
    words = PHASES.get(now.get("phase", ""), "Starting")
    total, done = now.get("total"), now.get("done") or 0
    if now.get("unit") == "byte":
        words += f": {text(done, 'B')}" + (f" of {text(total, 'B')}" if total else "")
    elif total and total > 1:
        words += f": {done:g} of {total:g}"
    if now.get("left_seconds"):
        words += f" · about {text(now['left_seconds'], 's')} left"
    return words


def share(run: Run) -> float | None:
    """How far the present phase is, 0..1; None = unknown."""
    now = run.progress or {}
    return None if not now.get("total") else (now.get("done") or 0) / now["total"]


def steps(run: Run) -> str:
    """Load, Adapt, Test: which is done, which is under way and how far."""
    phase = (run.progress or {}).get("phase", "")
    current = next((i for i, (_, phases) in enumerate(STEPS) if phase in phases), 0)
    parts = []
    for i, (name, _) in enumerate(STEPS):
        if run.status == "done" or (run.status != "queued" and i < current):
            amount: float | None = 1.0
        elif run.status == "running" and i == current:
            amount = share(run)
        else:
            amount = 0.0
        parts.append(f"<li><span>{name}</span>{bar(amount, label=f'{name}')}</li>")
    return f'<ol class="pg-steps pg-{run.status}">{"".join(parts)}</ol>'


def variant(title: str, params: Mapping[str, Any]) -> str:
    """A method's title with what tells apart runs of it on one subject: with or without prior preservation."""
    prior = params.get("prior_preservation")
    words = "" if prior is None else "with prior" if prior else "without prior"
    return " ".join(part for part in (title, words) if part)


def result(run: Run) -> str:
    """Quality with its interval and number of items, or fidelity of pictures; empty before there is one."""
    quality, fidelity = run.metrics.get("quality"), run.metrics.get("subject_fidelity")
    if quality is None and fidelity is not None:
        drift = run.metrics.get("class_drift")
        below = "fidelity" + ("" if drift is None else f", drift {drift:.3f}")
        return f'<div class="pg-result"><strong>{fidelity:.3f}</strong><span>{safe(below)}</span></div>'
    if quality is None:
        return ""
    low, high = run.metrics.get("quality_low"), run.metrics.get("quality_high")
    interval = f"{text(low, '')} to {text(high, '')}" if low is not None and high is not None else ""
    items = run.metrics.get("n")
    below = " · ".join(part for part in (interval, f"{items:.0f} items" if items else "") if part)
    return f'<div class="pg-result"><strong>{text(quality, "")}</strong><span>{safe(below)}</span></div>'


def kept(run: Run) -> str:
    """Which step's weights are the result where it is not the last one; empty otherwise."""
    steps, step = run.metrics.get("steps"), run.metrics.get("kept_step")
    if steps is None or step is None or step == steps:
        return ""
    if "subject_fidelity" in run.metrics:
        return f"The weights of step {step:,.0f} are kept, of {steps:,.0f}: they balance fidelity, prompt and drift best."
    return f"The weights of step {step:,.0f} are kept: no dev loss was lower up to step {steps:,.0f}, the last one."


def elapsed(run: Run) -> str:
    """How long the run took, or has been running; of a resumed one the last attempt alone, and so it says."""
    if run.started is None:
        return ""
    words = text((run.finished or time.time()) - run.started, "s")
    return f"{words} since it was resumed" if run.resume else words


def when(seconds: float | None) -> str:
    """A time as "23 Nov, 20:15"; in UTC on most servers."""
    return time.strftime("%d %b, %H:%M", time.localtime(seconds)) if seconds else ""


def lane(session: Session, run: Run) -> str:
    """One method's lane in a race."""
    family = session.family(run.method)
    error = reason(run)
    return (
        f'<article class="pg-lane pg-{run.status}" data-family="{safe(family)}" data-run="{run.id}">'
        f'<div class="pg-lane-name"><i class="pg-dot"></i><b>{safe(variant(session.title(run.method), run.params))}</b>'
        f"{pill(run, session.store.position(run.id))}</div>"
        f'<div class="pg-lane-steps">{steps(run)}<small>{safe(doing(run) or _after(run))}</small>{error}</div>'
        f'<div class="pg-lane-result">{result(run)}</div></article>'
    )


def reason(run: Run) -> str:
    """Why a run ended without a result; the one that a person stopped is no alarm."""
    if not run.error or run.status == "done":
        return ""
    return f'<p class="pg-reason pg-{run.status}">{safe(run.error)}</p>'


def _after(run: Run) -> str:
    return f"{STATUS[run.status]} after {elapsed(run)}" if run.finished and run.started else ""


def card(session: Session, run: Run, actions: bool = True, asked: bool = False) -> str:
    """A run in the list of runs, with its buttons; ``asked`` once it was asked to be deleted."""
    family = session.family(run.method)
    error = reason(run)
    progress = (
        bar(share(run), label=doing(run)) + f"<small>{safe(doing(run))}</small>"
        if run.status == "running"
        else ""
    )
    return (
        f'<article class="pg-run pg-{run.status}" data-family="{safe(family)}">'
        f'<div class="pg-run-head"><i class="pg-dot"></i><b>{safe(variant(session.title(run.method), run.params))}</b>'
        f'<span class="pg-muted">#{run.id}</span>{pill(run, session.store.position(run.id))}{result(run)}</div>'
        f'<p class="pg-muted">{safe(session.task_title(run.task))} · {safe(session.model_title(run.model))} · '
        f"{safe(items(session, run))} · seed {run.seed} · <span>{safe(when(run.created))}</span>"
        f"{f' · <span>{safe(elapsed(run))}</span>' if run.started else ''}</p>"
        f"{progress}{error}{_kept(run)}{buttons(run, asked) if actions else ''}</article>"
    )


def _kept(run: Run) -> str:
    return f'<p class="pg-muted">{safe(words)}</p>' if (words := kept(run)) else ""


def items(session: Session, run: Run) -> str:
    """How many of the task's test items the run answers: "40 of 200 test items"; of a subject its photos."""
    if session.modality(run.method) == "image":
        subject = session.subjects().get(run.task)
        return f"{subject.train} photos" if subject else "a deleted subject"
    known = tasks.tasks(session.settings).get(run.task)
    if not run.limit:
        return "all test items"
    return f"{run.limit} of {known.test} test items" if known else f"{run.limit} test items"


def buttons(run: Run, asked: bool = False) -> str:
    """What can be done with the run now; before it is deleted one is asked whether it is meant."""
    if asked and run.status not in ACTIVE:
        words = (
            '<p class="pg-muted">The run, its figures and what it trained are removed for everyone here.</p>'
        )
        return words + _buttons(run, [("delete-yes", "Delete it"), ("keep", "Keep it")])
    if run.status in ACTIVE:
        offered = [("stop", "Stop")]
    elif run.status == "done":
        offered = [("delete", "Delete")]
    else:
        offered = [("resume", "Resume"), ("delete", "Delete")]
    return _buttons(run, [("open", "Details"), *offered])


def _buttons(run: Run, offered: list[tuple[str, str]]) -> str:
    parts = [
        f'<button type="button" data-action="{action}" data-run="{run.id}">{label}</button>'
        for action, label in offered
    ]
    return f'<div class="pg-actions">{"".join(parts)}</div>'


def settings_of(run: Run) -> str:
    """The parameters of a run."""
    return facts((name.replace("_", " "), value) for name, value in run.params.items())
