"""The samples of an image run, from the store and the run's folder, as the page shows them."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from playground.data import subjects
from playground.errors import PlaygroundError
from playground.events import Event
from playground.jobs.local import run_folder
from playground.results.runs import Run
from playground.ui.components import strip
from playground.ui.components.live import curves_of
from playground.ui.session import Session

if TYPE_CHECKING:
    from playground.evaluation.recommend import Advice


def strip_of(session: Session, run: Run, events: Sequence[Event], name: str) -> str:
    """The strip of one run; empty before its first sample.

    Args:
        events: the run's, at least its samples and metrics, oldest first.
        name: begins the ids; another one for each place on the page.
    """
    return strip.show(
        events,
        run_folder(session.settings, run.id),
        training_photos(session, run.task),
        kept_step(run, events),
        judge(run),
        name=f"{name}-{run.id}",
    )


def kept_step(run: Run | None, events: Sequence[Event]) -> int | None:
    """The step to keep: the one that the run kept, before its end the one to be advised by now."""
    if run is None:
        return None
    kept = run.metrics.get("kept_step")
    if kept is not None:
        return int(kept)
    advised = advice(run, events)
    return advised.step if advised else None


def advice(run: Run, events: Sequence[Event]) -> "Advice | None":
    """Which step to keep by what the looks of the run measured, and why; None before a look after step 0."""
    from playground.evaluation.recommend import Bounds, Point, advise

    names = tuple(field.name for field in fields(Point) if field.name != "step")
    points: dict[int, dict[str, float]] = {}
    for name, curve in curves_of(events, names).items():
        for step, value in curve:
            points.setdefault(step, {})[name] = value
    measured = [Point(step, **values) for step, values in points.items() if "subject_fidelity" in values]
    if not any(point.step for point in measured):
        return None
    bounds = run.provenance.get("look_bounds")
    return advise(measured, Bounds(**bounds) if bounds else None)


def judge(run: Run | None) -> str:
    """What measured the run's pictures, in words; empty where it does not say."""
    return str(run.provenance.get("judge") or "") if run else ""


def training_photos(session: Session, subject_id: str) -> dict[str, Path]:
    """The files of a subject's training photos by their id; none where it was deleted."""
    try:
        return {one.id: one.path for one in subjects.subject(subject_id, session.settings).train}
    except PlaygroundError:
        return {}
