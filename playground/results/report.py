"""A comparison as a report to hand on: the tables, what is certain, how every run was made. Markdown.

A pure function of rows; what was not measured is left out, and unfinished runs are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from playground.results import comparison
from playground.results.comparison import Row, markdown_cell, text

# What a reader asks first, of texts and of pictures; a column without any value is left out.
COLUMNS = (
    "run",
    "title",
    "quality",
    "quality_low",
    "quality_high",
    "subject_fidelity",
    "prompt_fidelity",
    "class_drift",
    "diversity",
    "n",
    "difference",
    "valid_rate",
    "adapt_seconds",
    "adapt_peak_bytes",
    "stored_bytes",
    "trainable_parameters",
    "retention_divergence",
    "prompt_tokens",
    "query_seconds_p50",
    "seconds_per_image",
)
ORIGIN = {
    "playground": "Playground",
    "commit": "Commit",
    "cpu": "Processor",
    "device_name": "Device",
    "dtype": "Number type",
    "threads": "CPU threads",
    "train_threads": "CPU threads while training",
    "python": "Python",
    "model_revision": "Model, revision or SHA-256",
    "data_hash": "Data, SHA-256",
    "judge": "Judge of the pictures",
}
ANSWERS = "All rows of a table with a quality answered the same held-out items, greedily, from the same prompt template."
# How sure a quality and a difference are, by the kind of metric.
SHARES = (
    "Where the quality is a share of right answers, “low” and “high” bound its 95 % Wilson interval, and two runs are "
    "compared on the same items by a paired bootstrap and McNemar's test."
)
MEANS = (
    "Where the quality is the mean token F1, “low” and “high” bound its 95 % percentile bootstrap interval (Wilson's "
    "where all answers or none are right), and two runs are compared on the same items by a paired bootstrap and a "
    "sign-flip test (McNemar's where every answer is wholly right or wholly wrong)."
)
VERDICT = "“No detectable difference” is an answer."
ALWAYS = "Peak memory is the run's own. A number that was not measured is blank."


def report(rows: Iterable[Row], verdicts: Mapping[int, str] | None = None) -> str:
    """The report on the finished runs among ``rows``.

    Args:
        verdicts: by run, how it compares with the base model on the same items, in a sentence.
    """
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        return "# Comparison\n\nNo run is done yet.\n"
    groups = comparison.groups(done)
    parts = [_setting(words, own, verdicts or {}) for words, own in reversed(groups)]
    return "\n".join(["# Comparison\n", *parts, _reading(done)])


def _reading(rows: Sequence[Row]) -> str:
    """How to read what stands in the report: pictures have no answers, no intervals and no verdicts."""
    means = {comparison.is_mean(row["metric"]) for row in rows if row["quality"] is not None}
    kinds = [words for kind, words in ((False, SHARES), (True, MEANS)) if kind in means]
    sentences = [ANSWERS, *kinds, VERDICT, ALWAYS] if kinds else [ALWAYS]
    return f"## How to read it\n\n{' '.join(sentences)}\n"


def _setting(words: str, rows: Sequence[Row], verdicts: Mapping[int, str]) -> str:
    """All about one group of rows: only those can be held against each other."""
    ordered = sorted(rows, key=lambda row: (-(comparison.result(row) or 0.0), row["run"]))
    heading = (ordered[0]["task"], ordered[0]["model"], words)
    names = [name for name in COLUMNS if any(row[name] is not None for row in ordered)]
    told = [(_name(row), verdicts[row["run"]]) for row in ordered if row["run"] in verdicts]
    made = [(_name(row), _settings(row)) for row in ordered]
    parts = [
        f"## {' · '.join(markdown_cell(part) for part in heading if part)}\n",
        comparison.to_markdown(ordered, names),
        _list("Is it really better?", told),
        _list("How each run was made", made),
        _list("On what", _origins(ordered)),
    ]
    return "\n".join(part for part in parts if part)


def _name(row: Row) -> str:
    return f"{row['title']} (run {row['run']})"


def _settings(row: Row) -> str:
    params = [f"{name} {value}" for name, value in row["params"].items() if value not in (None, "")]
    limit = [f"{row['limit']} test items"] if row["limit"] else []
    return ", ".join([*params, f"seed {row['seed']}", *limit])


def _origins(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the runs' provenances say; where they differ, all of it."""
    found = []
    for name, label in ORIGIN.items():
        values = dict.fromkeys(text(row["provenance"].get(name), "text") for row in rows)
        said = " / ".join(value for value in values if value)
        if said:
            found.append((label, said))
    libraries: dict[str, Any] = {}
    for row in rows:
        libraries |= row["provenance"].get("libraries") or {}
    if libraries:
        found.append(
            ("Libraries", ", ".join(f"{name} {version}" for name, version in sorted(libraries.items())))
        )
    return found


def _list(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    lines = [f"- **{markdown_cell(name)}**: {markdown_cell(value)}" for name, value in pairs]
    return "\n".join([f"### {title}\n", *lines, ""]) if lines else ""
