"""The race of all ways to teach an image model one subject or style: which runs, with which settings."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from playground.jobs.queue import Queue
from playground.methods import presets, registry
from playground.models import catalogue
from playground.results.runs import Filing
from playground.settings import Settings


@dataclass(frozen=True)
class Racer:
    """One run of a race: a method, and what makes it this row of the comparison."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)


PRIOR, NO_PRIOR = {"prior_preservation": True}, {"prior_preservation": False}
RACERS = {
    "subject": (
        Racer("image_base"),
        Racer("dreambooth", PRIOR),
        Racer("dreambooth", NO_PRIOR),
        Racer("dreambooth_lora", PRIOR),
        Racer("dreambooth_lora", NO_PRIOR),
    ),
    "style": (Racer("image_base"), Racer("style_lora")),
}


def racers(kind: str) -> list[Racer]:
    """The runs of a race on a subject of that kind, as far as their methods are there."""
    return [one for one in RACERS[kind] if one.method in registry.methods()]


def params_of(racer: Racer, model: catalogue.Model, settings: Settings) -> dict[str, Any]:
    """A racer's parameters: the preset for this size of model where one was tried, and what makes it this row."""
    fitting = presets.fitting(racer.method, model.parameters, settings.device_kind, only_tried=True)
    return {**(fitting.values if fitting else {}), **racer.params}


def prepare(
    queue: Queue, kind: str, subject_id: str, model_id: str, seed: int = 0, limit: int | None = None
) -> list[Filing]:
    """Check the runs of a race without filing them; they share a group.

    Raises:
        InvalidInput, ModelUnavailable: as ``Queue.prepare``.
    """
    model, shared = catalogue.model(model_id, queue.settings, "image"), uuid.uuid4().hex[:8]
    return [
        queue.prepare(
            one.method, params_of(one, model, queue.settings), subject_id, model_id, seed, limit, shared
        )
        for one in racers(kind)
    ]
