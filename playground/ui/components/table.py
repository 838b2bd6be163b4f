"""The comparison as a table; on a narrow screen every row becomes a card."""

from collections.abc import Mapping, Sequence
from typing import Any

from playground.methods.registry import methods
from playground.results.comparison import COLUMNS, Row, baselines, text
from playground.results.metrics import BY_NAME
from playground.results.runs import Run
from playground.ui.components import run_card
from playground.ui.components.markup import bar, safe
from playground.ui.session import OWN_TABS

MEASURED = (
    "adapt_seconds",
    "adapt_peak_bytes",
    "stored_bytes",
    "retention_divergence",
    "trainable_parameters",
    "prompt_tokens",
    "query_seconds_p50",
    "tokens_per_second",
    "load_seconds",
)
SHORT = {
    "adapt_seconds": "Adapt",
    "adapt_peak_bytes": "Peak memory",
    "stored_bytes": "Stored",
    "retention_divergence": "Forgetting",
    "trainable_parameters": "Trained",
    "prompt_tokens": "Prompt",
    "query_seconds_p50": "Query",
    "tokens_per_second": "Speed",
    "load_seconds": "Load",
}

# Of image methods: column → its head. What is drawn is a cosine, so it is shown as a plain number.
DRAWN = {
    "prompt_fidelity": "Prompt fidelity",
    "class_drift": "Drift",
    "diversity": "Diversity",
    "memorisation": "Closest to a photo",
    "adapt_seconds": "Adapt",
    "adapt_peak_bytes": "Peak memory",
    "stored_bytes": "Stored",
    "trainable_parameters": "Trained",
    "seconds_per_image": "A picture",
    "load_seconds": "Load",
}
COSINES = {"subject_fidelity", "prompt_fidelity", "class_drift", "diversity", "memorisation"}

_HINT = '<p class="pg-scroll-hint" aria-hidden="true">Scroll sideways for more columns</p>'


def table(
    rows: Sequence[Row], runs: Mapping[int, Run], places: Mapping[int, int | None], chosen: int | None = None
) -> str:
    """All rows, best quality first among those that are done; waiting ones last."""
    measured = [row["quality"] for row in rows if row["quality"] is not None]
    best = max(measured) if len(measured) > 1 and max(measured) > 0 else None
    ordered = sorted(rows, key=_order)
    heads = "".join(
        f'<th scope="col" title="{safe(BY_NAME[name].help)}">{safe(SHORT[name])}</th>' for name in MEASURED
    )
    body = "".join(_row(row, runs[row["run"]], places.get(row["run"]), best, chosen) for row in ordered)
    return (
        '<div class="pg-table-frame"><div class="pg-table-scroll" tabindex="0" role="region" aria-label="Comparison">'
        '<table class="pg-table pg-pinned">'
        '<thead><tr><th scope="col">Method</th><th scope="col">Quality</th>'
        f'<th scope="col">Against zero-shot</th><th scope="col">Valid</th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_HINT}</div>"
    )


def drawn(
    rows: Sequence[Row], runs: Mapping[int, Run], places: Mapping[int, int | None], chosen: int | None = None
) -> str:
    """The rows of image methods on one subject, best fidelity first among those that are done."""
    own = [runs[row["run"]] for row in rows]
    befores = baselines(own, own)
    measured = [row["subject_fidelity"] for row in rows if row["subject_fidelity"] is not None]
    best = max(measured) if len(measured) > 1 else None
    ordered = sorted(
        rows, key=lambda row: (row["subject_fidelity"] is None, -(row["subject_fidelity"] or 0), row["run"])
    )
    heads = "".join(
        f'<th scope="col" title="{safe(BY_NAME[name].help if name in BY_NAME else "")}">{safe(head)}</th>'
        for name, head in DRAWN.items()
    )
    body = "".join(
        _drawn_row(row, runs[row["run"]], places.get(row["run"]), befores.get(row["run"]), best, chosen)
        for row in ordered
    )
    return (
        '<div class="pg-table-frame"><div class="pg-table-scroll" tabindex="0" role="region" aria-label="Comparison">'
        '<table class="pg-table pg-pinned"><thead><tr><th scope="col">Method</th><th scope="col">Fidelity</th>'
        f'<th scope="col">Against the base</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>{_HINT}</div>'
    )


def _drawn_row(
    row: Row, run: Run, place: int | None, before: Run | None, best: float | None, chosen: int | None
) -> str:
    fidelity = row["subject_fidelity"]
    marks = " pg-best" if best is not None and fidelity == best else ""
    marks += " pg-chosen" if chosen == row["run"] else ""
    variant = run_card.variant("", run.params)
    cells = [
        _method_cell(row, run, f" · {variant}" if variant else ""),
        f'<td data-label="Fidelity" class="pg-quality">{_fidelity(row, run, place)}</td>',
        f'<td data-label="Against the base">{_gain(row, before)}</td>',
    ]
    for name, head in DRAWN.items():
        unit = BY_NAME[name].unit if name in BY_NAME else ""
        value = cosine(row[name]) if name in COSINES else _measured(name, row, unit)
        cells.append(f'<td data-label="{safe(head)}">{value}</td>')
    return f'<tr class="pg-{run.status}{marks}" data-family="{safe(row["family"])}">{"".join(cells)}</tr>'


def _fidelity(row: Row, run: Run, place: int | None) -> str:
    fidelity = row["subject_fidelity"]
    if run.status == "running" or fidelity is None:
        return _waiting(run, place)
    return (
        f'<div class="pg-interval"><span style="width:{max(0.0, min(1.0, fidelity)) * 100:.1f}%"></span></div>'
        f"<b>{cosine(fidelity)}</b>"
    )


def _gain(row: Row, before: Run | None) -> str:
    if row["subject_fidelity"] is None or before is None:
        return ""
    gain = row["subject_fidelity"] - before.metrics["subject_fidelity"]
    return f'<span class="pg-{"good" if gain > 0 else "bad"}">{gain:+.3f}</span>'


def cosine(value: float | None) -> str:
    """A similarity or a distance of pictures; blank where it was not measured."""
    return "" if value is None else f"{value:.3f}"


def _order(row: Row) -> tuple:
    return row["quality"] is None, -(row["quality"] or 0), row["run"]


def _row(row: Row, run: Run, place: int | None, best: float | None, chosen: int | None) -> str:
    marks = " pg-best" if best is not None and row["quality"] == best else ""
    marks += " pg-chosen" if chosen == row["run"] else ""
    cells = [
        _method_cell(row, run),
        f'<td data-label="Quality" class="pg-quality">{_quality(row, run, place)}</td>',
        f'<td data-label="Against zero-shot">{_difference(row)}</td>',
        f'<td data-label="Valid">{safe(text(row["valid_rate"], ""))}</td>',
    ]
    for name in MEASURED:
        spec = BY_NAME[name]
        cells.append(f'<td data-label="{safe(SHORT[name])}">{_measured(name, row, spec.unit)}</td>')
    return f'<tr class="pg-{run.status}{marks}" data-family="{safe(row["family"])}">{"".join(cells)}</tr>'


def _method_cell(row: Row, run: Run, more: str = "") -> str:
    return (
        f'<th scope="row" data-label="Method"><button type="button" data-action="open" data-run="{run.id}">'
        f'<i class="pg-dot"></i>{safe(row["title"])}</button><small>#{run.id}{safe(more)}</small></th>'
    )


def _waiting(run: Run, place: int | None) -> str:
    """What stands where there is no result yet, or none at all."""
    if run.status == "running":
        return f"{bar(run_card.share(run), label='Progress')}<small>{safe(run_card.doing(run))}</small>"
    reason = f'<small title="{safe(run.error)}">{safe((run.error or "")[:90])}</small>' if run.error else ""
    return f"{run_card.pill(run, place)}{reason}"


def _quality(row: Row, run: Run, place: int | None) -> str:
    if run.status == "running" or row["quality"] is None:
        return _waiting(run, place)
    return interval_bar(row) + (
        f"<b>{text(row['quality'], '')}</b><small>{text(row['quality_low'], '')} – "
        f"{text(row['quality_high'], '')} · n {text(row['n'], 'count')}</small>"
    )


def interval_bar(row: Row) -> str:
    """Quality as a bar with its 95 % interval."""
    low, high = row["quality_low"], row["quality_high"]
    whisker = ""
    if low is not None and high is not None:
        whisker = f'<u style="left:{low * 100:.1f}%;width:{(high - low) * 100:.1f}%"></u>'
    return f'<div class="pg-interval"><span style="width:{row["quality"] * 100:.1f}%"></span>{whisker}</div>'


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return ""
    tone = "good" if row["difference"] > 0 else "bad" if row["difference"] < 0 else ""
    return f'<span class="pg-{tone}">{safe(text(row["difference"], "difference"))}</span>'


def _measured(name: str, row: Row, unit: str) -> str:
    value = safe(text(row[name], unit))
    if name == "retention_divergence" and row["retention_accuracy_change"] is not None:
        change = text(row["retention_accuracy_change"], "difference")
        return f"{value}<small>general knowledge {safe(change)}</small>"
    if name == "trainable_parameters" and row["trainable_share"] is not None:
        return f"{value}<small>{safe(text(row['trainable_share'], ''))} of all</small>"
    if name == "query_seconds_p50" and row["query_seconds_p95"] is not None:
        return f"{value}<small>p95 {safe(text(row['query_seconds_p95'], 's'))}</small>"
    return value


def legend() -> str:
    """What each column says, for texts and for pictures."""
    texts = {"quality": "Quality", "difference": "Against zero-shot", "valid_rate": "Valid", **SHORT}
    pictures = {
        "subject_fidelity": "Fidelity",
        **{name: head for name, head in DRAWN.items() if name not in SHORT},
    }
    return _meanings("Texts", texts) + _meanings("Pictures", pictures)


def _meanings(title: str, heads: Mapping[str, str]) -> str:
    helps = {column.name: column.help for column in COLUMNS}
    pairs = "".join(
        f"<div><dt>{safe(head)}</dt><dd>{safe(helps[name])}</dd></div>" for name, head in heads.items()
    )
    return f'<h4 class="pg-small-head">{safe(title)}</h4><dl class="pg-facts pg-legend">{pairs}</dl>'


def guide(rows: Sequence[Row], modality: str = "text") -> str:
    """The guide's words beside what was measured here, for the methods of a modality."""
    measured: dict[str, Row] = {}
    for row in rows:
        if row["quality"] is not None or row.get("subject_fidelity") is not None:
            measured[row["method"]] = row
    lines, others = [], []
    for method in methods().values():
        if method.modality != modality:
            continue
        row: Mapping[str, Any] = measured.get(method.id, {})
        known = row or method.family == "non-parametric" or method.id in OWN_TABS or modality == "image"
        (lines if known else others).append(
            f'<tr data-family="{safe(method.family)}"><th scope="row"><i class="pg-dot"></i>{safe(method.title)}</th>'
            f'<td data-label="Type">{safe(method.family)}</td>'
            f'<td data-label="Changes weights?">{safe(method.changes_weights)}</td>'
            f'<td data-label="Training cost">{_beside(method.training_cost, text(row.get("adapt_seconds"), "s"))}</td>'
            f'<td data-label="Storage cost">{_beside(method.storage_cost, text(row.get("stored_bytes"), "B"))}</td>'
            f'<td data-label="Use case">{safe(method.use_case)}</td>'
            f'<td data-label="Best for">{safe(method.best_for)}</td></tr>'
        )
    more = (
        f"<details><summary>{len(others)} more methods, not measured here yet</summary>{_guide_table(others)}</details>"
        if others
        else ""
    )
    return _guide_table(lines) + more


def _guide_table(lines: Sequence[str]) -> str:
    return (
        '<div class="pg-table-frame"><div class="pg-table-scroll" tabindex="0" role="region" aria-label="Guide">'
        '<table class="pg-table pg-guide">'
        "<thead><tr><th>Method</th><th>Type</th><th>Changes weights?</th><th>Training cost</th>"
        f"<th>Storage cost</th><th>Use case</th><th>Best for</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>{_HINT}</div>"
    )


def _beside(word: str, measured: str) -> str:
    return safe(word) + (f"<small>measured: {safe(measured)}</small>" if measured else "")
