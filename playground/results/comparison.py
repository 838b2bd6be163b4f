"""The comparison table: pure functions from runs to rows, and from rows to text.

A number that was not measured is None in a row and blank in a text. Units are formatted here and
nowhere else.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from playground.results.metrics import BY_NAME, CURVES, LOOKS, METRICS, MetricSpec
from playground.results.runs import ACTIVE, Run
from playground.results.speed import PAIRS, estimate_errors

REFERENCE = "zero_shot"  # the text method that the others are held against
IMAGE_REFERENCE = "image_base"  # the same for pictures
GROUP_PREFIX = "quality/"

Row = dict[str, Any]


class Setting(NamedTuple):
    """What two results must have in common to be held against each other.

    ``limit`` caps the test items. ``judge`` has the names of what measured pictures; it is empty for texts. What a run
    has not told yet is None.
    """

    task: str
    model: str
    limit: int | None
    data_hash: str | None = None
    model_revision: str | None = None
    dtype: str | None = None
    judge: tuple[str, ...] = ()


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
        "Quality minus that of the newest zero-shot run on the same model, task, data, number type and limit; blank "
        "without one.",
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
    befores = baselines(runs, runs)
    return [_row(run, (methods or {}).get(run.method, {}), befores.get(run.id)) for run in runs]


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


def setting(of: Run | Row) -> Setting:
    """The setting of a run, or of its row."""
    told = _told(of)
    origin = told["provenance"]
    judge = (origin.get("judge"), *(origin.get("judge_models") or ()))
    return Setting(
        told["task"],
        told["model"],
        told["limit"],
        origin.get("data_hash"),
        origin.get("model_revision"),
        origin.get("dtype"),
        tuple(name for name in judge if name),
    )


def _told(of: Run | Row) -> Mapping[str, Any]:
    return of if isinstance(of, dict) else vars(of)


def baseline(run: Run, runs: Iterable[Run]) -> Run | None:
    """The run's "before": the newest finished run of the unchanged model in the same setting; see ``baselines``."""
    return baselines([run], runs).get(run.id)


def baselines(runs: Iterable[Run], among: Iterable[Run]) -> dict[int, Run]:
    """The "before" of each run by the run's id; one without a fitting run, or that is a reference itself, has none.

    Texts are answered greedily, so their seed does not matter; the seed of pictures has to be the same.
    """
    found: dict[tuple[Setting, int | None], Run] = {}
    for run in sorted(among, key=lambda run: run.id):
        if run.status != "done":
            continue
        if run.method == REFERENCE and run.metrics.get("quality") is not None:
            found[setting(run), None] = run
        elif run.method == IMAGE_REFERENCE and run.metrics.get("subject_fidelity") is not None:
            found[setting(run), run.seed] = run
    befores = {}
    for run in runs:
        own = setting(run)
        before = found.get((own, None)) or found.get((own, run.seed))
        if before is not None and run.method != before.method:
            befores[run.id] = before
    return befores


def is_mean(metric: str | None) -> bool:
    """Whether a metric's quality is a mean of scores between 0 and 1, not a share of right answers."""
    return metric == "token_f1"


def result(row: Row) -> float | None:
    """What a row is ranked by: the quality of texts, the fidelity of pictures; None where it was not measured."""
    return row["subject_fidelity"] if row["quality"] is None else row["quality"]


def cap(of: Run | Row) -> str:
    """How many test items a run, or the run of a row, answers, in words; "" where that is not known."""
    told = _told(of)
    if told["limit"]:
        return f"{told['limit']} test items"
    every = told["provenance"].get("test_items")
    return f"all {every} test items" if every else ""


def groups(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows that can be ranked together, the group of the newest run first, each with words on its setting.

    A row without a result stands with the newest results of its task, model and limit: its run may not have told the
    rest of its setting.
    """
    newest_first = sorted(rows, key=lambda row: -row["run"])
    latest: dict[tuple, Setting] = {}
    for row in newest_first:
        if result(row) is not None:
            latest.setdefault(setting(row)[:3], setting(row))
    found: dict[Setting, list[Row]] = {}
    for row in newest_first:
        own = setting(row)
        if result(row) is None:
            own = latest.get(own[:3], Setting(*own[:3]))
        found.setdefault(own, []).append(row)
    return [(_words(own, group, latest.get(own[:3], own)), group) for own, group in found.items()]


def _words(own: Setting, group: Sequence[Row], latest: Setting) -> str:
    parts = [next((words for words in map(cap, group) if words), "")]
    if own.judge:
        parts.append(f"judged by {own.judge[0]}")
    names = {
        "data_hash": "data",
        "model_revision": "model revision",
        "dtype": "number type",
        "judge": "judge",
    }
    other = [word for name, word in names.items() if getattr(own, name) != getattr(latest, name)]
    if other:
        parts.append(f"other {' and '.join(other)} than the newest runs")
    return " · ".join(part for part in parts if part)


def _row(run: Run, method: Mapping[str, Any], before: Run | None) -> Row:
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
    if before is not None and row["quality"] is not None:
        row["difference"] = row["quality"] - before.metrics["quality"]
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
    return f"{points:.1f} %" if points == 0 or abs(points) >= 0.995 else f"{points:.2g} %"


def _bytes(count: float) -> str:
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= size:
            # from 999.5 on three digits would be 1e+03
            return (
                f"{count / size:.3g} {name}" if abs(count) < 999.5 * size else f"{count / size:,.0f} {name}"
            )
    return f"{count:,.0f} B"


def _seconds(value: float) -> str:
    """Each form begins where the one below it would round up to it: 0.9996 is 1.0 s, not 1000 ms."""
    if abs(value) >= 119.5:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds} s"
    if abs(value) >= 0.9995:
        return f"{value:.0f} s" if abs(value) >= 9.95 else f"{value:.1f} s"
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
