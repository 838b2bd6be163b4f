"""A sweep as curves: dev loss against the parameter, test quality beside; and its runs as a table."""

from collections.abc import Sequence
from typing import Any

from playground.jobs.sweep import Sweep
from playground.methods.registry import methods
from playground.results.comparison import text
from playground.results.runs import Run
from playground.ui.components import charts, run_card
from playground.ui.components.markup import notice, safe

TONES = ("one", "two", "three", "four")
WIDE = 5  # largest value over smallest from which a logarithmic axis reads better


def show(found: Sweep) -> str:
    """Everything about a sweep: what it tries, curves, table, and the best so far."""
    if not found.runs:
        return ""
    done = sum(run.status == "done" for run in found.runs)
    labels = " and ".join(_label(found.runs[0].method, name) for name in found.names)
    head = f"{labels or 'One setting'}: {done} of {len(found.runs)} runs done."
    return f'<p class="pg-muted">{safe(head)}</p>{_best(found)}{curves(found)}{_table(found)}'


def curves(found: Sweep) -> str:
    """Dev loss, and beside it test quality, over the first parameter; one line a value of the second."""
    measured = [run for run in found.runs if run.status == "done"]
    if not found.names or not measured:
        return ""
    along, across = _axes(found)
    drawn = []
    for metric, label, per_cent in (("dev_loss", "Dev loss", False), ("quality", "Test quality", True)):
        drawn.append(_chart(found.runs, measured, along, across, metric, label, per_cent))
    return f'<div class="pg-pair">{"".join(drawn)}</div>'


def _axes(found: Sweep) -> tuple[str, str | None]:
    """The parameter along the x axis, a numeric one where there is one, and the other."""
    numeric = [name for name in found.names if _numeric([run.params.get(name) for run in found.runs])]
    along = (numeric or list(found.names))[0]
    return along, next((name for name in found.names if name != along), None)


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _chart(
    runs: Sequence[Run],
    measured: Sequence[Run],
    along: str,
    across: str | None,
    metric: str,
    label: str,
    per_cent: bool,
) -> str:
    values = list(dict.fromkeys(run.params[along] for run in runs))
    numeric = _numeric(values)
    places = {value: value if numeric else at for at, value in enumerate(values)}
    lines: dict[Any, list[tuple[float, float]]] = {}
    for run in measured:
        if run.metrics.get(metric) is not None:
            key = run.params.get(across) if across else None
            lines.setdefault(key, []).append((places[run.params[along]], run.metrics[metric]))
    curves = [
        charts.Line(
            f"{label}, {_label(runs[0].method, across)} {_words(key)}" if across else label,
            sorted(points),
            TONES[at % len(TONES)],
        )
        for at, (key, points) in enumerate(lines.items())
    ]
    logarithmic = numeric and min(values) > 0 and max(values) >= WIDE * min(values)
    ticks = [(places[value], _words(value)) for value in values]
    axis = _label(runs[0].method, along) + (" (logarithmic)" if logarithmic else "")
    return charts.lines(curves, axis, label, per_cent, logarithmic, ticks)


def _best(found: Sweep) -> str:
    best = found.best
    if best is None:
        return ""
    setting = ", ".join(f"{_label(best.method, name)} {_words(best.params[name])}" for name in found.names)
    words = f"Lowest dev loss so far: {setting} (run #{best.id}, {text(best.metrics['dev_loss'], 'loss')})."
    return notice(words if found.active else words.replace(" so far", ""), "good")


def _table(found: Sweep) -> str:
    best = found.best
    heads = "".join(f"<th>{safe(_label(found.runs[0].method, name))}</th>" for name in found.names)
    lines = "".join(_row(run, found.names, best is not None and run.id == best.id) for run in found.runs)
    return (
        '<div class="pg-table-scroll pg-sweep" tabindex="0" role="region" aria-label="Runs of the sweep"><table '
        f'class="pg-table"><thead><tr><th>Run</th>{heads}<th>Dev loss</th><th>Test quality</th><th>Train time</th>'
        f"</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _row(run: Run, names: Sequence[str], best: bool) -> str:
    values = "".join(
        f'<td data-label="{safe(_label(run.method, name))}">{safe(_words(run.params[name]))}</td>'
        for name in names
    )
    loss = text(run.metrics.get("dev_loss"), "loss")
    return (
        f'<tr class="pg-{run.status}{" pg-best" if best else ""}"><th scope="row">#{run.id}</th>{values}'
        f'<td data-label="Dev loss">{f"<b>{safe(loss)}</b>" if loss else run_card.pill(run)}</td>'
        f'<td data-label="Test quality">{safe(text(run.metrics.get("quality"), ""))}</td>'
        f'<td data-label="Train time">{safe(text(run.metrics.get("adapt_seconds"), "s"))}</td></tr>'
    )


def _label(method: str, name: str) -> str:
    """A parameter's label; its name where the method is not installed any more."""
    known = methods().get(method)
    fields = {spec.name: spec.label for spec in known.Params.fields()} if known else {}
    return fields.get(name, name.replace("_", " "))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
