"""The card before a start: what will run, what it takes, whether it fits. And the errors afterwards."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from playground.results.comparison import text
from playground.results.metrics import BY_NAME
from playground.results.speed import PAIRS, estimate_errors
from playground.ui.components.markup import facts, notice, safe

if TYPE_CHECKING:
    from playground.training.estimate import Estimate

PARTS = (
    ("weights", "Weights"),
    ("adapter", "Adapter"),
    ("optimizer", "Optimiser"),
    ("gradients", "Gradients"),
    ("activations", "Activations"),
    ("runtime", "Program"),
)
SPEEDS = {
    "earlier run": "Time from an earlier run of this method and model here, at {}.",
    "another method's run": "Time from another method's run with this model here: about {}.",
    "probe": "Time from a short probe of this machine, as busy as it is now: about {}. The first run will tell better.",
}
TONES = {"fits": "good", "tight": "warn", "does not fit": "bad", None: "info"}


def card(told: "Estimate", model: str, task: str) -> str:
    """What a training will take; counts are exact, memory and time are estimated and say so.

    Args:
        model: the model's title.
        task: the task's title.
    """
    share = told.trainable_parameters / told.total_parameters
    batch = f"{told.batch_size} × {told.effective_batch // told.batch_size} = {told.effective_batch} examples a step"
    pairs = facts(
        (
            ("Model", model),
            (
                "Data",
                f"{task}: {told.examples:,} examples"
                + (f", {told.left_out:,} too long" if told.left_out else ""),
            ),
            (
                "Batch",
                f"{told.effective_batch} examples a step"
                if told.effective_batch == told.batch_size
                else batch,
            ),
            ("Steps", f"{told.steps:,}"),
            ("Trainable", f"{told.trainable_parameters:,} ({text(share, '')})"),
            ("Memory, estimated", text(told.memory.total, "B")),
            ("Time, estimated", text(told.seconds, "s") if told.steps else ""),
        )
    )
    return (
        f'<section class="pg-estimate"><h4>What will run</h4>{notice(verdict(told), TONES[told.verdict])}{pairs}'
        f"{memory(told)}{_sources(told)}</section>"
    )


def verdict(told: "Estimate") -> str:
    """Whether it fits, in a sentence, and what to lower where it does not."""
    if not told.steps:
        return "Nothing can be trained: no example fits into the maximum length."
    needed, device = text(told.memory.total, "B"), safe(told.device).upper()
    if told.free is None:
        return f"It needs about {needed}; how much memory is free here is not known."
    free = f"{text(told.free, 'B')} are free ({device})"
    words = {
        "fits": f"Fits: about {needed} needed, {free}.",
        "tight": f"Tight: about {needed} needed, {free}. {told.advice}",
        "does not fit": f"Will not fit: about {needed} needed, {free}. {told.advice}",
    }
    return words[told.verdict]


def memory(told: "Estimate") -> str:
    """The parts of the memory as one bar with its legend."""
    total = told.memory.total
    parts = [(name, label, getattr(told.memory, name)) for name, label in PARTS]
    parts = [part for part in parts if part[2] > 0]
    if not parts or not total:
        return ""
    bar = "".join(
        f'<span class="pg-part-{name}" style="width:{size / total * 100:.2f}%" title="{label}"></span>'
        for name, label, size in parts
    )
    keys = "".join(
        f'<li class="pg-part-{name}"><i></i>{label} <b>{safe(text(size, "B"))}</b></li>'
        for name, label, size in parts
    )
    return f'<div class="pg-parts" role="img" aria-label="Parts of the memory">{bar}</div><ul class="pg-parts-keys">{keys}</ul>'


def _sources(told: "Estimate") -> str:
    words = SPEEDS[told.speed].format(text(told.tokens_per_second, "tokens/s"))
    words += (
        " Memory from one step run without weights."
        if told.dry
        else " This model does not run without weights: activations are from a formula, and rougher."
    )
    return f'<p class="pg-muted">{safe(words)}</p>'


def beside(metrics: Mapping[str, float | None]) -> str:
    """Estimated against measured with the error, for a run that kept its estimate; else empty."""
    errors = estimate_errors(metrics)
    rows = []
    for estimated, measured in PAIRS.items():
        if metrics.get(estimated) is None:
            continue
        spec = BY_NAME[measured]
        found = text(metrics.get(measured), spec.unit)
        error = text(errors.get(estimated), "error")
        told = text(metrics[estimated], spec.unit)
        after = f"measured {found}, error {error}" if error else "not measured yet"
        rows.append((spec.label, f"estimated {told}; {after}"))
    return facts(rows)
