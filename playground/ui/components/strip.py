"""The strip: the same prompts with the same noise, drawn again and again while an image model learns.

One row a prompt, one column a look. The step to keep is marked; beside each sample stands the training
photo that it is most like, and an alarm where it is so like that it may be a copy.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground.events import Event
from playground.ui.components import pictures
from playground.ui.components.markup import safe

ALARM = 0.95  # similarity to a training photo above which a sample may be a copy, where the run does not say
MOST_LOOKS = 14  # columns; of more, the first, the last, the marked one and an even choice are shown
MOST_ROWS = 24
KINDS = {
    "context": ("In new contexts", "What it learns: the subject in places where no photo shows it."),
    "class": ("The class alone", "What should stay as it was: the same words without the rare one."),
}
_HINT = '<p class="pg-scroll-hint" aria-hidden="true">Scroll sideways for more steps</p>'


@dataclass(frozen=True)
class Row:
    """One prompt with its seed; ``cells`` are its sample events' data by step."""

    kind: str
    prompt: str
    seed: int | None
    cells: dict[int, Mapping[str, Any]] = field(default_factory=dict)


def rows(events: Iterable[Event]) -> list[Row]:
    """The rows of a run's samples, contexts first, each kind in the order of its first look.

    Of a step that was sampled twice (resumed, or asked for by hand) the later one counts.
    """
    found: dict[str, Row] = {}
    for event in events:
        data = event.data
        if event.kind != "sample" or not data.get("file") or data.get("kind") not in KINDS:
            continue
        row = found.setdefault(data["item"], Row(data["kind"], data["input"], data.get("seed")))
        row.cells[int(data.get("step") or 0)] = data
    order = list(KINDS)
    return sorted(found.values(), key=lambda row: order.index(row.kind))


def looks(found: Sequence[Row], kept: int | None = None) -> list[int]:
    """The steps that become columns: all, or at most about ``MOST_LOOKS`` of them."""
    steps = sorted({step for row in found for step in row.cells})
    if len(steps) <= MOST_LOOKS:
        return steps
    chosen = {steps[round(i * (len(steps) - 1) / (MOST_LOOKS - 1))] for i in range(MOST_LOOKS)}
    return sorted(chosen | ({kept} & set(steps)))


def show(
    events: Iterable[Event],
    folder: Path,
    photos: Mapping[str, Path],
    kept: int | None = None,
    judge: str = "",
    name: str = "strip",
) -> str:
    """The whole strip; empty before the first sample.

    Args:
        events: the run's, at least its samples, oldest first.
        folder: the run's own; the samples' files are read from inside it alone.
        photos: the training photos by their id.
        kept: the step to keep, as far as one is known.
        judge: what measured the similarities, in words.
        name: begins the ids; another one for each strip of a page.
    """
    found = rows(events)[:MOST_ROWS]
    if not found:
        return ""
    steps = looks(found, kept)
    seen = {nearest["picture"] for row in found for cell in row.cells.values() if (nearest := _nearest(cell))}
    marks = {id: f"{name}-photo-{number}" for number, id in enumerate(sorted(seen & set(photos)))}
    parts = []
    for kind, (title, words) in KINDS.items():
        own = [row for row in found if row.kind == kind]
        if own:
            lines = "".join(_row(row, steps, kept, folder, marks) for row in own)
            parts.append(_head(title, words, steps, kept) + lines)
    total = len({step for row in found for step in row.cells})
    left_out = f"{len(steps)} of {total} looks are shown. " if len(steps) < total else ""
    return (
        f"{_definitions(photos, marks)}{_alarm(found)}"
        '<div class="pg-table-frame"><div class="pg-table-scroll pg-strip" tabindex="0" role="region" '
        f'aria-label="Samples over steps"><div role="table" class="pg-strip-grid" style="--looks:{len(steps)};--edge:{_edge(len(steps))}px">'
        f'{"".join(parts)}</div></div>{_HINT}</div><p class="pg-muted">{safe(left_out + _legend(marks, judge))}</p>'
    )


def _edge(columns: int) -> int:
    """How wide a column is, in pixels of the page: as all fit where they are few, and large enough to be seen."""
    return max(92, min(124, 960 // columns))


def _head(title: str, words: str, steps: Sequence[int], kept: int | None) -> str:
    cells = "".join(
        f'<span role="columnheader" class="pg-look{" pg-kept" if step == kept else ""}">'
        f"{'Before' if step == 0 else f'Step {step:,}'}{'<small>recommended</small>' if step == kept else ''}</span>"
        for step in steps
    )
    return (
        f'<div role="row" class="pg-strip-head"><span role="columnheader" class="pg-strip-words"><b>{safe(title)}</b>'
        f"<small>{safe(words)}</small></span>{cells}</div>"
    )


def _row(row: Row, steps: Sequence[int], kept: int | None, folder: Path, marks: Mapping[str, str]) -> str:
    seed = "" if row.seed is None else f"<small>seed {row.seed}</small>"
    cells = "".join(_cell(row, step, step == kept, folder, marks) for step in steps)
    return (
        f'<div role="row" class="pg-strip-row"><span role="rowheader" class="pg-strip-words">{safe(row.prompt)}{seed}'
        f"</span>{cells}</div>"
    )


def _cell(row: Row, step: int, kept: bool, folder: Path, marks: Mapping[str, str]) -> str:
    data = row.cells.get(step)
    if data is None:
        return f'<span role="cell" class="pg-cell{" pg-kept" if kept else ""}"></span>'
    drawn = pictures.button(pictures.source(folder, data["file"]), f"Step {step}: {row.prompt}")
    near = _near(data, marks) if row.kind == "context" else ""
    tones = f"{' pg-kept' if kept else ''}{' pg-alarm' if row.kind == 'context' and alarming(data) else ''}"
    return f'<span role="cell" class="pg-cell{tones}">{drawn}{near}</span>'


def _near(data: Mapping[str, Any], marks: Mapping[str, str]) -> str:
    nearest = _nearest(data)
    if nearest is None:
        return ""
    share = f"{nearest['similarity']:.2f}"
    drawn = ""
    if mark := marks.get(nearest["picture"]):
        drawn = f'<svg viewBox="0 0 24 24" aria-hidden="true"><use href="#{safe(mark)}"/></svg>'
    words = f"Nearest training photo: {nearest['picture']}, similarity {share}"
    return f'<span class="pg-near" title="{safe(words)}">{drawn}{safe(share)}</span>'


def _nearest(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    nearest = data.get("nearest")
    return nearest if nearest and nearest.get("similarity") is not None else None


def alarming(data: Mapping[str, Any]) -> bool:
    """Whether a sample is so like a training photo that it may be a copy: as the run says, else by ``ALARM``."""
    nearest = _nearest(data)
    return nearest is not None and bool(nearest.get("alarm", nearest["similarity"] > ALARM))


def _alarm(found: Sequence[Row]) -> str:
    """What to do where samples of the newest look may be copies of photos; empty where none is."""
    own = [row for row in found if row.kind == "context"]
    last = max((step for row in own for step in row.cells), default=0)
    now = [row.cells[last] for row in own if last in row.cells]
    alarmed = sum(map(alarming, now))
    if not alarmed or not last:
        return ""
    return (
        f'<div class="pg-notice pg-warn" role="status">{alarmed} of {len(now)} samples of the newest look are as '
        "like a training photo as photos are like one another: the model may be reciting photos instead of "
        "knowing the subject. An earlier step, fewer steps or more different photos help.</div>"
    )


def _definitions(photos: Mapping[str, Path], marks: Mapping[str, str]) -> str:
    """The photos once, to be referred to from every sample."""
    drawn = []
    for id, mark in marks.items():
        src = pictures.source(photos[id].parent, photos[id].name, edge=48)
        if src:
            drawn.append(
                f'<image id="{safe(mark)}" href="{safe(src)}" width="24" height="24" '
                'preserveAspectRatio="xMidYMid slice"/>'
            )
    return (
        f'<svg class="pg-definitions" aria-hidden="true"><defs>{"".join(drawn)}</defs></svg>' if drawn else ""
    )


def _legend(marks: Mapping[str, str], judge: str) -> str:
    parts = ["Each row keeps its prompt and its noise, so what changes is the model."]
    if marks:
        by = f", measured by {judge}" if judge else ""
        parts.append(
            "Below a sample: the training photo that it is most like, with the similarity of the two (cosine, 1 = the "
            f"same{by})."
        )
    return " ".join(parts)
