"""A training as it goes: how far, and small charts of loss, learning rate, speed and memory."""

from collections.abc import Collection, Iterable, Sequence

from playground.events import Event
from playground.results.comparison import text
from playground.results.metrics import BY_NAME, CURVES
from playground.ui.components import charts
from playground.ui.components.markup import facts, safe

Curves = dict[str, list[tuple[float, float]]]

LOSSES = (("train_loss", "train", "one"), ("dev_loss", "held-out", "two"))
OTHERS = (
    ("learning_rate", "learning rate", 1.0),
    ("train_tokens_per_second", "tokens per second", 1.0),
    ("train_memory_bytes", "memory in use (GB)", 1e9),
)


def live(events: Iterable[Event]) -> str:
    """The state and the charts of one run's training; "" before its first step.

    Args:
        events: the run's, at least those of kind "metric" and "progress", oldest first.
    """
    events = list(events)
    curves = curves_of(events)
    if not curves:
        return ""
    losses = [charts.Line(name, curves[metric], tone) for metric, name, tone in LOSSES if metric in curves]
    drawn = [_chart("Loss", charts.lines(losses, "step", "loss"))] if losses else []
    for metric, words, scale in OTHERS:
        points = [(step, value / scale) for step, value in curves.get(metric, ())]
        if points:
            line = charts.Line(words, points, "one")
            drawn.append(_chart(BY_NAME[metric].label, charts.lines([line], "step", words)))
    return f'{state(events, curves)}<div class="pg-multiples">{"".join(drawn)}</div>'


def curves_of(events: Iterable[Event], names: Collection[str] = CURVES) -> Curves:
    """The points (step, value) of every curve in ``names`` by metric, in the order of the steps.

    A training that was killed goes on from the checkpoint before it: what came after that counts no more.
    """
    found: dict[str, dict[int, float]] = {}
    newest = 0
    for event in events:
        if event.kind != "metric" or event.data.get("step") is None or event.data["name"] not in names:
            continue
        step, value = event.data["step"], event.data["value"]
        if step < newest:
            found = {name: _until(step, points) for name, points in found.items()}
        newest = step
        if value is not None:
            found.setdefault(event.data["name"], {})[step] = value
    return {name: sorted(points.items()) for name, points in found.items() if points}


def _until(last: int, points: dict[int, float]) -> dict[int, float]:
    return {step: value for step, value in points.items() if step <= last}


def how_far(events: Sequence[Event]) -> list[tuple[str, str | None]]:
    """Step and time left, by the newest progress of a training."""
    now = next(
        (e.data for e in reversed(events) if e.kind == "progress" and e.data.get("unit") == "step"), {}
    )
    done, total, left = now.get("done"), now.get("total"), now.get("left_seconds")
    running = total and done is not None and done < total
    return [
        ("Step", f"{done:,.0f} of {total:,.0f}" if total and done is not None else None),
        ("Time left", f"about {text(left, 's')}" if running and left else None),
    ]


def state(events: Sequence[Event], curves: Curves) -> str:
    """Step, time left and the newest value of each curve."""
    return facts(
        [
            *how_far(events),
            *((BY_NAME[name].label, _newest(name, curves)) for name in ("train_loss", "dev_loss")),
            ("Learning rate", _newest("learning_rate", curves)),
            ("Speed", _newest("train_tokens_per_second", curves)),
            ("Memory", _newest("train_memory_bytes", curves)),
        ]
    )


def _newest(name: str, curves: Curves) -> str | None:
    if name not in curves:
        return None
    value = curves[name][-1][1]
    return f"{value:.3g}" if name == "learning_rate" else text(value, BY_NAME[name].unit)


def _chart(title: str, drawn: str) -> str:
    return f'<section><h4 class="pg-small-head">{safe(title)}</h4>{drawn}</section>'
