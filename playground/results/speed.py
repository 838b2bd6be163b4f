"""How fast a method trained here before, and how far the estimates of a run were off."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from playground.results.runs import Run

# estimated metric → the one that was measured afterwards
PAIRS = {"estimated_peak_bytes": "adapt_peak_bytes", "estimated_adapt_seconds": "adapt_seconds"}


@dataclass(frozen=True)
class Speed:
    """How fast a training was; ``flops_per_token``, forward and backward, is None where nobody counted."""

    tokens_per_second: float
    flops_per_token: float | None = None


def training_speed(
    runs: Iterable[Run], method: str, model: str, params: Mapping[str, Any], device: str
) -> Speed | None:
    """How fast a finished training of this method and model on this kind of device was.

    Of several runs the one that shares most parameters counts, and of those the newest; None = no run.

    Args:
        device: "cpu", "cuda", "cuda:1" …
    """
    found = [run for run in _trained(runs, model, device) if run.method == method]
    if not found:
        return None
    best = max(found, key=lambda run: (_common(run.params, params), run.id))
    return Speed(best.metrics["train_tokens_per_second"], best.provenance.get("flops_per_token"))


def training_rate(runs: Iterable[Run], model: str, device: str, quantization: str | None) -> float | None:
    """FLOPs per second of the newest finished training of this model on this kind of device, whatever the method.

    Args:
        quantization: of the base model's weights: unpacking them takes time, so only runs with the same count.
    """
    found = [
        run
        for run in _trained(runs, model, device)
        if run.provenance.get("flops_per_token") and run.provenance.get("quantization") == quantization
    ]
    if not found:
        return None
    newest = max(found, key=lambda run: run.id)
    return newest.metrics["train_tokens_per_second"] * newest.provenance["flops_per_token"]


def _trained(runs: Iterable[Run], model: str, device: str) -> list[Run]:
    """Finished trainings of the model on this kind of device whose speed is known."""
    return [
        run
        for run in runs
        if (run.status, run.model) == ("done", model)
        and run.metrics.get("train_tokens_per_second")
        and str(run.provenance.get("device", "")).split(":")[0] == device.split(":")[0]
    ]


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    return sum(name in other and other[name] == value for name, value in one.items())


def estimate_errors(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """By estimated metric, how far it was above (+) or below (−) the measured value, as a share of that.

    Only where both are known; empty before the run has ended.
    """
    errors = {}
    for estimated, measured in PAIRS.items():
        told, found = metrics.get(estimated), metrics.get(measured)
        if told is not None and found:
            errors[estimated] = told / found - 1
    return errors
