"""The comparison table: pure functions from runs to rows, and from rows to text.

A number that was not measured is None in a row and blank in a text. Units are formatted here and
nowhere else.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground.results.metrics import BY_NAME, CURVES, LOOKS, METRICS, MetricSpec
from playground.results.runs import ACTIVE, Run
from playground.results.speed import PAIRS, estimate_errors

REFERENCE = "zero_shot"  # the method that the others are held against
GROUP_PREFIX = "quality/"

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column. ``unit`` is a MetricSpec's unit, or "text", "time", "difference" (of shares), "error" (a share,
    with its sign) or "json"."""

    name: str
    label: str
    unit: str
    help: str = ""
    shown: bool = True  # stands in the readable table; the others are in CSV and JSON only
    modality: str | None = None  # of the runs that have it; None = of all


def error_name(metric: str) -> str:
    """The column with the error of an estimate."""
    return f"{metric}_error"


def _metric(name: str, shown: bool | None = None) -> Column:
    spec: MetricSpec = BY_NAME[name]
    return Column(
        name, spec.label, spec.unit, spec.help, spec.column if shown is None else shown, spec.modality
    )


_IDENTITY = (
    Column("run", "Run", "count", "Number of the run."),
    Column("method", "Method id", "text", shown=False),
    Column("title", "Method", "text"),
    Column("family", "Family", "text", "Parametric methods change or add weights."),
    Column("changes_weights", "Changes weights?", "text"),
    Column("model", "Model", "text"),
    Column("task", "Task", "text"),
    Column("status", "Status", "text"),
)
_QUALITY = (
    Column("metric", "Metric", "text", "What quality means on this task.", modality="text"),
    _metric("quality"),
    _metric("quality_low"),
    _metric("quality_high"),
    _metric("n"),
    Column("limit", "Limit", "count", "Cap on the test items; blank = all of them."),
    Column(
        "difference",
        "Against zero-shot",
        "difference",
        "Quality minus that of the newest zero-shot run on the same model, task, data and limit.",
        modality="text",
    ),
)
_COST = tuple(
    _metric(spec.name)
    for spec in METRICS
    if spec.name not in (CURVES - LOOKS) | {"quality", "quality_low", "quality_high", "n"}
)
_ERRORS = tuple(
    Column(
        error_name(name),
        f"{BY_NAME[name].label}: error",
        "error",
        "Estimated against measured, as a share of the measured.",
        shown=False,
    )
    for name in PAIRS
)
_ORIGIN = (
    Column("seed", "Seed", "count"),
    Column("group", "Race", "text", shown=False),
    Column("params", "Parameters", "json", shown=False),
    Column("error", "Reason", "text", shown=False),
    Column("finished", "Finished", "time", "Unix seconds.", shown=False),
    Column("provenance", "Provenance", "json", shown=False),
)
COLUMNS = _IDENTITY + _QUALITY + _COST + _ERRORS + _ORIGIN
_BLANK: Row = dict.fromkeys(column.name for column in COLUMNS)


def newest(runs: Iterable[Run]) -> list[Run]:
    """One run a key: the newest that is done, else the newest; and whatever is queued or running.

    Returned in the order of their ids.
    """
    chosen: dict[str, Run] = {}
    active = []
    for run in sorted(runs, key=lambda run: run.id):
        if run.status in ACTIVE:
            active.append(run)
        elif run.status == "done" or run.key not in chosen or chosen[run.key].status != "done":
            chosen[run.key] = run
    waiting = {run.key for run in active}
    kept = [run for run in chosen.values() if run.status == "done" or run.key not in waiting]
    return sorted(kept + active, key=lambda run: run.id)


def rows(runs: Iterable[Run], methods: Mapping[str, Mapping[str, Any]] | None = None) -> list[Row]:
    """One row a run, in the order given, with every column of ``COLUMNS`` and ``progress``.

    Qualities of marked parts of the test stand under "quality/<part>" where there are any.

    Args:
        methods: by method id a dict with "title", "family" and "changes_weights".
    """
    runs = list(runs)
    references = _references(runs)
    return [_row(run, (methods or {}).get(run.method, {}), references) for run in runs]


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that these rows need: the fixed ones, then one for every part scored apart."""
    parts = sorted({name for row in rows for name in row if name.startswith(GROUP_PREFIX)})
    extra = [Column(name, f"Quality: {name.removeprefix(GROUP_PREFIX)}", "") for name in parts]
    split = COLUMNS.index(_QUALITY[-1]) + 1
    return [*COLUMNS[:split], *extra, *COLUMNS[split:]]


def readable(rows: Sequence[Row]) -> list[Column]:
    """The columns of the readable table: those of texts, of pictures or of both, as the rows have numbers for."""
    every = columns(rows)
    measured = {
        column.modality
        for column in every
        for row in rows
        if column.modality and row.get(column.name) is not None
    } or {"text"}
    return [column for column in every if column.shown and column.modality in {None, *measured}]


def baseline(run: Run, runs: Iterable[Run]) -> Run | None:
    """The run's "before": the newest finished zero-shot run on the same model, task, data and limit."""
    fitting = [
        other
        for other in runs
        if other.method == REFERENCE
        and other.status == "done"
        and other.metrics.get("quality") is not None
        and _setting(other) == _setting(run)
    ]
    return max(fitting, key=lambda other: other.id, default=None)


def _setting(run: Run) -> tuple:
    origin = run.provenance
    return run.task, run.model, run.limit, origin.get("data_hash"), origin.get("model_revision")


def _references(runs: Sequence[Run]) -> dict[tuple, float]:
    """Zero-shot quality by setting, whatever the seed; the newest finished run counts."""
    found: dict[tuple, float] = {}
    for run in sorted(runs, key=lambda run: run.id):
        if run.method == REFERENCE and run.status == "done" and run.metrics.get("quality") is not None:
            found[_setting(run)] = run.metrics["quality"]
    return found


def _row(run: Run, method: Mapping[str, Any], references: Mapping[tuple, float]) -> Row:
    row = dict(_BLANK)
    for name, value in run.metrics.items():
        if name in row or name.startswith(GROUP_PREFIX):
            row[name] = _whole(name, value)
    row |= {error_name(name): error for name, error in estimate_errors(run.metrics).items()}
    row |= {
        "run": run.id,
        "method": run.method,
        "title": method.get("title", run.method),
        "family": method.get("family"),
        "changes_weights": method.get("changes_weights"),
        "model": run.model,
        "task": run.task,
        "status": run.status,
        "metric": run.provenance.get("metric"),
        "limit": run.limit,
        "seed": run.seed,
        "group": run.group,
        "params": run.params,
        "error": run.error,
        "finished": run.finished,
        "provenance": run.provenance,
        "progress": run.progress,
    }
    reference = references.get(_setting(run))
    if run.method != REFERENCE and row["quality"] is not None and reference is not None:
        row["difference"] = row["quality"] - reference
    return row


def _whole(name: str, value: float | None) -> float | int | None:
    """Counts and bytes as whole numbers: the store keeps every metric as a real one."""
    spec = BY_NAME.get(name)
    counted = spec is not None and spec.unit in {"count", "B"}
    return int(value) if counted and value is not None else value


# Texts


def text(value: Any, unit: str) -> str:
    """One value as people read it: per cent, seconds, MB, tokens. None is blank."""
    if value is None:
        return ""
    if unit == "json":
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    if unit == "text" or not isinstance(value, int | float):
        return str(value)
    return _FORMATS.get(unit, str)(value)


def _per_cent(share: float) -> str:
    points = share * 100
    return f"{points:.1f} %" if points == 0 or abs(points) >= 1 else f"{points:.2g} %"


def _bytes(count: float) -> str:
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= size:
            return f"{count / size:.3g} {name}" if abs(count) < 1000 * size else f"{count / size:,.0f} {name}"
    return f"{count:.0f} B"


def _seconds(value: float) -> str:
    if abs(value) >= 120:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds} s"
    if abs(value) >= 1:
        return f"{value:.0f} s" if abs(value) >= 10 else f"{value:.1f} s"
    return f"{value * 1000:.0f} ms" if abs(value) >= 0.001 else "< 1 ms"


_FORMATS = {
    "": _per_cent,
    "error": lambda share: f"{share * 100:+.0f} %",
    "difference": lambda value: f"{value * 100:+.1f} pp",
    "count": lambda value: f"{value:,.0f}",
    "s": _seconds,
    "B": _bytes,
    "tokens": lambda value: f"{value:,.0f} tokens",
    "tokens/s": lambda value: f"{value:,.1f} tokens/s",
    "steps/s": lambda value: f"{value:.2f} steps/s",
    "similarity": lambda value: f"{value:.3f}",
    "loss": lambda value: f"{value:.3f}",
    "nats": lambda value: f"{value:.3f} nats",
    "time": lambda value: f"{value:.0f}",
}


def to_markdown(rows: Sequence[Row], names: Sequence[str] | None = None) -> str:
    """A GitHub table with formatted values. HTML and pipes in it are shown as text.

    Args:
        names: of the columns, in their order; None = the readable ones.
    """
    by_name = {column.name: column for column in columns(rows)}
    shown = readable(rows) if names is None else [by_name[name] for name in names]
    lines = [
        "| " + " | ".join(column.label for column in shown) + " |",
        "|" + "|".join("---" if column.unit in {"text", "json"} else "--:" for column in shown) + "|",
    ]
    for row in rows:
        cells = [markdown_cell(text(row.get(column.name), column.unit)) for column in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def markdown_cell(value: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for character, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "\\\\"), ("|", "\\|")):
        value = value.replace(character, safe)
    return " ".join(value.split())


def to_csv(rows: Sequence[Row]) -> str:
    """Raw values in SI units, one header line. Text that a spreadsheet would run as a formula is disarmed."""
    every = columns(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in every])
    for row in rows:
        writer.writerow([_csv_cell(row.get(column.name)) for column in every])
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")):
        return "'" + value
    if isinstance(value, str) and value.startswith(("\t", "\r", "\n")):
        return "'" + value
    return value


def to_json(rows: Sequence[Row]) -> str:
    """All columns, raw values, as a JSON array."""
    return json.dumps(list(rows), ensure_ascii=False, indent=2)


WRITERS = {"md": to_markdown, "csv": to_csv, "json": to_json}  # by the name of the format
