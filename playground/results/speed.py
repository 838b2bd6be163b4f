"""How fast a method trained here before, and how far the estimates of a run were off."""

from collections.abc import Iterable, Mapping
from typing import Any

from playground.results.runs import Run

# estimated metric → the one that was measured afterwards
PAIRS = {"estimated_peak_bytes": "adapt_peak_bytes", "estimated_adapt_seconds": "adapt_seconds"}


def training_speed(
    runs: Iterable[Run], method: str, model: str, params: Mapping[str, Any], device: str
) -> float | None:
    """Tokens per second of a finished training of this method and model on this kind of device.

    Of several runs the one that shares most parameters counts, and of those the newest; None = no run.

    Args:
        device: "cpu", "cuda", "cuda:1" …
    """
    found = [
        run
        for run in runs
        if (run.status, run.method, run.model) == ("done", method, model)
        and run.metrics.get("train_tokens_per_second")
        and str(run.provenance.get("device", "")).split(":")[0] == device.split(":")[0]
    ]
    if not found:
        return None
    best = max(found, key=lambda run: (_common(run.params, params), run.id))
    return best.metrics["train_tokens_per_second"]


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
