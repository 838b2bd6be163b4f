"""The samples of an image run, from the store and the run's folder, as the page shows them."""

from collections.abc import Sequence
from pathlib import Path

from playground.data import subjects
from playground.errors import PlaygroundError
from playground.events import Event
from playground.jobs.local import run_folder
from playground.results.runs import Run
from playground.ui.components import strip
from playground.ui.session import Session


def strip_of(session: Session, run: Run, events: Sequence[Event], name: str) -> str:
    """The strip of one run; empty before its first sample.

    Args:
        events: the run's, at least its samples, oldest first.
        name: begins the ids; another one for each place on the page.
    """
    return strip.show(
        events,
        run_folder(session.settings, run.id),
        training_photos(session, run.task),
        kept_step(run),
        judge(run),
        name=f"{name}-{run.id}",
    )


def kept_step(run: Run | None) -> int | None:
    """The step to keep, as far as the run knows one by now."""
    step = run.metrics.get("kept_step") if run else None
    return None if step is None else int(step)


def judge(run: Run | None) -> str:
    """What measured the run's pictures, in words; empty where it does not say."""
    return str(run.provenance.get("judge") or "") if run else ""


def training_photos(session: Session, subject_id: str) -> dict[str, Path]:
    """The files of a subject's training photos by their id; none where it was deleted."""
    try:
        return {one.id: one.path for one in subjects.subject(subject_id, session.settings).train}
    except PlaygroundError:
        return {}
