"""Runs and their events in one SQLite file: the only thing that the page and the CLI read."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
FINISHED = frozenset({"done", "failed", "cancelled", "interrupted"})


@dataclass(frozen=True)
class Run:
    """One try: a method with its parameters, on one model and one task.

    ``limit`` caps the test items (None = all). ``group`` is shared by the runs of one race.
    ``key`` is a hash of all that decides the result (method, every parameter, model revision, data
    hash, seed, limit). Times are Unix seconds. ``metrics`` holds the results by name,
    ``progress`` the last progress event's data, ``error`` the reason of a failed run.
    """

    id: int
    key: str
    method: str
    params: dict[str, Any]
    model: str
    task: str
    seed: int
    limit: int | None
    group: str | None
    status: Status
    error: str | None = None
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    process: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    progress: dict[str, Any] | None = None
