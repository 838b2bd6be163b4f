"""The training of an image model as it goes: how far, and small charts of what it gains and what it loses."""

from collections.abc import Iterable

from playground.events import Event
from playground.results.comparison import text
from playground.ui.components import charts
from playground.ui.components.live import Curves, curves_of, how_far
from playground.ui.components.markup import facts, safe

# Title, what it says, and its curves as metric, name, tone, unit of the drawing.
CHARTS = (
    (
        "Loss",
        "Noisy by nature: judge by the pictures and the curves beside it.",
        (
            ("train_loss", "all", "one", 1.0),
            ("instance_loss", "photos", "two", 1.0),
            ("prior_loss", "class", "three", 1.0),
        ),
    ),
    (
        "Fidelity",
        "How like the held-out photos the samples are. Higher is better.",
        (("subject_fidelity", "to the held-out photos", "two", 1.0),),
    ),
    (
        "Prompt fidelity",
        "How well the samples show what the prompt says. Higher is better.",
        (("prompt_fidelity", "to the prompt", "one", 1.0),),
    ),
    (
        "Drift",
        "How far the class alone moved from the base model's. Lower is better.",
        (("class_drift", "of the class", "two", 1.0),),
    ),
    (
        "Diversity",
        "How different the samples are from each other. Near 0, all are alike.",
        (("diversity", "between samples", "three", 1.0),),
    ),
    (
        "Closest to a photo",
        "The highest similarity of a sample to a training photo. Near 1 it is a copy.",
        (("memorisation", "to a training photo", "two", 1.0),),
    ),
)
MACHINE = (
    ("Learning rate", "", (("learning_rate", "learning rate", "one", 1.0),)),
    ("Speed", "", (("steps_per_second", "steps per second", "one", 1.0),)),
    ("Memory", "", (("train_memory_bytes", "memory in use (GB)", "one", 1e9),)),
)
NAMES = frozenset(name for _, _, own in (*CHARTS, *MACHINE) for name, *_ in own)


def live(events: Iterable[Event], kept: int | None = None, words: str = "") -> str:
    """The state and the charts of one run's training; "" before its first figure.

    Args:
        events: the run's, at least those of kind "metric" and "progress", oldest first.
        kept: the step to keep, marked in the charts.
        words: why that step, and what measured it.
    """
    events = list(events)
    curves = curves_of(events, NAMES)
    if not curves:
        return ""
    marked = f"<b>Recommended: step {kept:,}</b>, the dashed line. " if kept is not None else ""
    below = f'<p class="pg-about">{marked}{safe(words)}</p>' if marked or words else ""
    return f'{state(events, curves)}{below}<div class="pg-multiples">{_charts(CHARTS, curves, kept)}</div>'


def machine(events: Iterable[Event]) -> str:
    """Charts of learning rate, speed and memory; "" before the first of them."""
    drawn = _charts(MACHINE, curves_of(events, NAMES), None)
    return f'<div class="pg-multiples">{drawn}</div>' if drawn else ""


def state(events: list[Event], curves: Curves) -> str:
    """Step, time left and the newest value of each curve."""
    return facts(
        [
            *how_far(events),
            ("Loss", _newest("train_loss", curves)),
            ("Fidelity", _newest("subject_fidelity", curves)),
            ("Prompt fidelity", _newest("prompt_fidelity", curves)),
            ("Drift", _newest("class_drift", curves)),
            ("Speed", _newest("steps_per_second", curves, "{:.2f} steps/s")),
            (
                "Memory",
                text(curves["train_memory_bytes"][-1][1], "B") if "train_memory_bytes" in curves else None,
            ),
        ]
    )


def _newest(name: str, curves: Curves, form: str = "{:.3f}") -> str | None:
    return form.format(curves[name][-1][1]) if name in curves else None


def _charts(groups: Iterable[tuple], curves: Curves, kept: int | None) -> str:
    drawn = []
    for title, words, own in groups:
        lines = [
            charts.Line(name, [(step, value / scale) for step, value in curves[metric]], tone)
            for metric, name, tone, scale in own
            if metric in curves
        ]
        if lines:
            below = f'<p class="pg-muted">{safe(words)}</p>' if words else ""
            chart = charts.lines(lines, "step", title.lower(), mark=kept)
            drawn.append(f'<section><h4 class="pg-small-head">{safe(title)}</h4>{below}{chart}</section>')
    return "".join(drawn)
