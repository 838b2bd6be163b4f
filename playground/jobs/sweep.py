"""A small grid over one or two parameters, filed as a group of runs; the best is chosen on the dev split."""

import itertools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from playground.data import tasks
from playground.errors import InvalidInput, QueueError
from playground.jobs.queue import Queue
from playground.methods.base import FieldSpec, Method
from playground.methods.registry import method
from playground.results.comparison import REFERENCE
from playground.results.runs import ACTIVE, Filing, Run, RunStore

PREFIX = "sweep-"  # how a sweep's group begins; any other group is a race
MOST_RUNS = 16
MOST_AXES = 2
YES = {"true", "yes", "on", "1"}
NO = {"false", "no", "off", "0"}

Value = float | int | str | bool


def axes(method_id: str, texts: Mapping[str, str | Sequence[Any]]) -> dict[str, list[Value]]:
    """The values of each swept parameter, from a list or from words like "5e-4, 1e-3".

    Those of a text, which may hold commas itself (names of layers), are separated by semicolons.

    Raises:
        InvalidInput: the method cannot be swept, no or too many parameters, one that the method does not
            have, or a value that cannot be read or stands there twice.
    """
    specs = {spec.name: spec for spec in _sweepable(method_id).Params.fields()}
    if not 1 <= len(texts) <= MOST_AXES:
        raise InvalidInput(f"A sweep goes over one or two parameters, not {len(texts)}.", field="sweep")
    found = {}
    for name, text in texts.items():
        if name not in specs:
            raise InvalidInput(
                f"There is no parameter “{name}”. Parameters: {', '.join(specs)}.", field="sweep"
            )
        between = separator(specs[name])
        parts = [part.strip() for part in text.split(between)] if isinstance(text, str) else list(text)
        values = [_value(specs[name], part) for part in parts if part != ""]
        if not values:
            mark = {",": "commas", ";": "semicolons"}[between]
            raise InvalidInput(f"Give values for {specs[name].label}, with {mark} between.", field="sweep")
        if len(set(values)) < len(values):
            raise InvalidInput(f"A value of {specs[name].label} stands there twice.", field="sweep")
        found[name] = values
    return found


def _sweepable(method_id: str) -> Method:
    """The method, if it has a dev loss to choose by."""
    technique = method(method_id)
    if technique.family != "parametric":
        raise InvalidInput(
            f"{technique.title} does not train, so it has no dev loss to choose by.", field="method"
        )
    if technique.modality != "text":
        raise InvalidInput(
            f"A sweep chooses by dev loss, which {technique.title} does not have. Start single runs and compare them.",
            field="method",
        )
    return technique


def separator(spec: FieldSpec) -> str:
    """What stands between two values of a parameter."""
    return ";" if spec.kind == "text" else ","


def _value(spec: FieldSpec, text: Any) -> Value:
    if not isinstance(text, str):
        return text
    try:
        if spec.kind == "integer":
            return int(text)
        if spec.kind == "number":
            return float(text)
        if spec.kind == "boolean":
            return {**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}[text.lower()]
    except (ValueError, KeyError):
        kind = {"integer": "a whole number", "number": "a number", "boolean": "yes or no"}[spec.kind]
        raise InvalidInput(f"{spec.label}: “{text}” is not {kind}.", field="sweep") from None
    return text


def prepare(
    queue: Queue,
    method_id: str,
    params: Mapping[str, Any],
    grid: Mapping[str, Sequence[Value]],
    task_id: str,
    model_id: str,
    seed: int = 0,
    limit: int | None = None,
) -> list[Filing]:
    """Check every run of a sweep without filing any; they share a group. File them with ``Queue.file``.

    Args:
        params: the parameters that stay the same.
        grid: what ``axes`` returns.

    Raises:
        InvalidInput: one of the runs would be refused, there are too few or too many, the method does
            not train, or the task has no dev split to choose by.
        ModelUnavailable: the model cannot be had.
    """
    _sweepable(method_id)
    if not tasks.task(task_id, queue.settings).dev:
        raise InvalidInput(
            "The task has no dev split, and the best of a sweep is chosen by dev loss. The test items must not "
            "choose. Bring a task with a dev split.",
            field="task",
        )
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not 2 <= len(points) <= MOST_RUNS:
        raise InvalidInput(
            f"This sweep has {len(points)} run{'s' * (len(points) != 1)}; give values for 2 to {MOST_RUNS}.",
            field="sweep",
        )
    group = f"{PREFIX}{uuid.uuid4().hex[:8]}"
    return [
        queue.prepare(method_id, {**params, **point}, task_id, model_id, seed, limit, group)
        for point in points
    ]


def stop(queue: Queue, group: str) -> int:
    """Stop all runs of a sweep that wait or run. Returns how many.

    Raises:
        QueueError: none waits or runs.
    """
    stopped = queue.cancel_all(queue.store.list(group=group, status=ACTIVE))
    if not stopped:
        raise QueueError("No run of this sweep is waiting or running; there is nothing to stop.")
    return stopped


@dataclass(frozen=True)
class Sweep:
    """What a sweep has found so far. ``names`` are the parameters that differ among its ``runs``."""

    group: str
    names: tuple[str, ...]
    runs: tuple[Run, ...] = field(default=())

    @property
    def best(self) -> Run | None:
        """The finished run with the lowest dev loss."""
        measured = [run for run in self.runs if run.status == "done" and _loss(run) is not None]
        return min(measured, key=lambda run: (_loss(run), run.id), default=None)

    @property
    def active(self) -> bool:
        """Whether a run of it waits or runs."""
        return any(run.status in ACTIVE for run in self.runs)


def _loss(run: Run) -> float | None:
    return run.metrics.get("dev_loss")


def sweep(store: RunStore, group: str) -> Sweep:
    """The sweep of that group, its runs in the order of their filing; the run they are compared with is none of them."""
    runs = sorted((run for run in store.list(group=group) if run.method != REFERENCE), key=lambda run: run.id)
    names = [
        name
        for name in (runs[0].params if runs else ())
        if len({repr(run.params.get(name)) for run in runs}) > 1
    ]
    return Sweep(group, tuple(names), tuple(runs))


def newest(store: RunStore, method_id: str, among: int = 200) -> Sweep | None:
    """The newest sweep of a method, looked for among its newest runs; None where there is none."""
    runs = store.list(method=method_id, limit=among)
    group = next((run.group for run in runs if is_sweep(run.group)), None)
    return sweep(store, group) if group else None


def is_sweep(group: str | None) -> bool:
    """Whether a group of runs is a sweep, not a race."""
    return bool(group) and group.startswith(PREFIX)
