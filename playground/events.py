"""What a running job says: a stream of small events, in the order they happened."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Kind = Literal["progress", "metric", "sample", "log", "artifact", "provenance"]


@dataclass(frozen=True)
class Event:
    """One thing that happened in a run.

    ``data`` holds plain JSON values; which keys, each constructor below says.
    ``id`` is given by the store and increases over all runs; ``at`` is Unix time in seconds.
    """

    kind: Kind
    data: dict[str, Any]
    at: float = field(default_factory=time.time)
    id: int | None = None
    run_id: int | None = None

    @classmethod
    def progress(cls, phase: str, done: float, total: float | None = None, **more: Any) -> "Event":
        """How far a phase is: ``phase`` (load, adapt, evaluate …), ``done``, ``total`` (None = unknown).

        ``more`` may hold ``unit`` ("step", "item", "chunk"), ``left_seconds``, ``note``.
        """
        return cls("progress", {"phase": phase, "done": done, "total": total, **more})

    @classmethod
    def metric(cls, name: str, value: float | None, step: int | None = None) -> "Event":
        """A number. With ``step`` a point of a curve, without it a result of the run."""
        return cls("metric", {"name": name, "value": value, "step": step})

    @classmethod
    def sample(
        cls,
        stage: str,
        item: str,
        input: str,
        answer: str,
        target: str | None = None,
        **more: Any,
    ) -> "Event":
        """One answer. ``stage`` is "before", "during", "after" or "test"; ``item`` is the item's id.

        Test samples carry in ``more``: ``correct`` (bool), ``score`` (0..1), ``valid`` (bool),
        ``group`` (str or None), ``prediction`` (what was read from the answer); RAG adds ``passages``.
        Samples during training carry ``step``.
        """
        return cls(
            "sample",
            {"stage": stage, "item": item, "input": input, "answer": answer, "target": target, **more},
        )

    @classmethod
    def log(cls, text: str, level: str = "info") -> "Event":
        """A line for the run's log. ``level`` is "info", "warning" or "error"."""
        return cls("log", {"text": text, "level": level})

    @classmethod
    def artifact(cls, name: str, path: str, bytes: int) -> "Event":
        """A finished file or folder, ``path`` relative to the run's folder, ``bytes`` on disk."""
        return cls("artifact", {"name": name, "path": path, "bytes": bytes})

    @classmethod
    def provenance(cls, **facts: Any) -> "Event":
        """How the run came about: versions, device, hashes. Facts add up; the store keeps them with the run."""
        return cls("provenance", facts)


def result_of(steps: Generator[Event, None, T], note: Callable[[Event], object] | None = None) -> T:
    """Run something to its end, and give what it returns; ``note`` gets each event on the way."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return end.value
        if note:
            note(event)
