"""The model card of a finished run: a pure function from what is recorded to Markdown.

What was not measured or is not known is left out. Every text that comes from a person or a file is
escaped: for YAML in the front matter (https://huggingface.co/docs/hub/model-cards), for Markdown below.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal

from playground.results import comparison
from playground.results.metrics import BY_NAME
from playground.results.runs import Run

Form = Literal["adapter", "merged", "gguf"]

# the Hub's identifiers of licences that go by other names in the catalogue
_LICENCES = {
    "llama 3.2 community license": "llama3.2",
    "llama 3.1 community license": "llama3.1",
    "gemma terms of use": "gemma",
}
_SPDX = re.compile(r"[a-z0-9][a-z0-9.+-]{1,40}")
_SAID_ABOVE = {"quality", "quality_low", "quality_high", "n", "learning_rate"}
_ORIGIN = (
    ("playground", "Playground"),
    ("commit", "Commit"),
    ("device_name", "Device"),
    ("device", "Computed on"),
    ("dtype", "Number type"),
    ("threads", "CPU threads"),
    ("cores", "CPU cores"),
    ("other_load_cores", "Cores kept busy by other programs meanwhile"),
    ("system", "System"),
    ("python", "Python"),
    ("model_revision", "Base model, revision or SHA-256"),
    ("data_hash", "Data, SHA-256"),
)


@dataclass(frozen=True)
class Subject:
    """What a card has to know beside the run.

    ``repo`` is the base model's name on the Hub, None for a folder. ``note`` is the catalogue's remark
    on it. ``task`` counts of items are in ``items`` by split. ``load`` is the Python code that loads the
    result, ``library`` the Hub's name of the library that does. ``digests`` are the SHA-256 of its files.
    """

    method: str
    summary: str
    paper: str
    model: str
    repo: str | None
    licence: str
    note: str
    task: str
    task_summary: str
    instruction: str
    items: Mapping[str, int]
    library: str
    load: str
    digests: Mapping[str, str] = field(default_factory=dict)


def card(run: Run, subject: Subject, form: Form, before: Run | None = None) -> str:
    """The model card as Markdown with YAML front matter.

    Args:
        form: what the card goes with: the adapter, the merged weights, or a GGUF file of them.
        before: the zero-shot run that the result is held against (``comparison.baseline``).
    """
    parts = [
        _front(run, subject, form),
        f"# {_title(run, subject)}",
        _what(run, subject, form),
        _data(run, subject),
        _parameters(run),
        _results(run, before),
        f"## How to load it\n\n{subject.load.strip()}",
        _limits(run, subject, form),
        _origin(run, subject),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def licence_id(licence: str) -> str | None:
    """The Hub's identifier of a licence; "other" for one that it has none for, None where none is known."""
    name = licence.strip().lower()
    if not name:
        return None
    if name in _LICENCES:
        return _LICENCES[name]
    return name if _SPDX.fullmatch(name) and name not in {"unknown", "none"} else "other"


def plain(value: Any) -> Any:
    """A recorded value without this machine's folders: of an absolute path only the name is left."""
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute():
                return kind(value).name
        return value
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def escape(value: Any) -> str:
    """A text in one line of Markdown, shown as it is: no markup, no link, no table cell ends in it."""
    line = " ".join(_printable(str(value)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)
    line = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)
    line = re.sub(r"^([-=+#])", r"\\\1", line)
    return line.replace("://", ":&#47;&#47;").replace("www.", "www&#46;").replace("@", "&#64;")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _yaml(value: Any) -> str:
    """A scalar of YAML: a JSON string is one, once it holds nothing that YAML reads otherwise."""
    return json.dumps(" ".join(_printable(str(value)).split()), ensure_ascii=False)


def _title(run: Run, subject: Subject) -> str:
    return f"{escape(subject.model)}, adapted with {escape(subject.method)} to {escape(subject.task)}"


# ---- sections


def _front(run: Run, subject: Subject, form: Form) -> str:
    lines = []
    licence = licence_id(subject.licence)
    if subject.repo:
        lines.append(f"base_model: {_yaml(subject.repo)}")
        relation = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}[form]
        lines.append(f"base_model_relation: {relation}")
    lines.append(f"library_name: {_yaml(subject.library)}")
    if licence:
        lines.append(f"license: {_yaml(licence)}")
    if licence == "other":
        lines.append(f"license_name: {_yaml(_slug(subject.licence))}")
    lines.append('pipeline_tag: "text-generation"')
    tags = ["adaptation-playground", _slug(run.method), *(["gguf"] if form == "gguf" else [])]
    lines.extend(["tags:", *(f"- {_yaml(tag)}" for tag in tags)])
    return "\n".join(["---", *lines, "---"])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60] or "other"


def _what(run: Run, subject: Subject, form: Form) -> str:
    paper = f" ({escape(subject.paper)})" if subject.paper else ""
    base = escape(subject.repo or subject.model)
    made = {
        "adapter": f"The trained part of **{escape(subject.method)}**{paper} for {base}: it needs that model to work.",
        "merged": f"{base} with what **{escape(subject.method)}**{paper} trained folded into its weights: a plain model.",
        "gguf": f"{base} with what **{escape(subject.method)}**{paper} trained folded in, for llama.cpp and what uses it.",
    }[form]
    finished = f" on {time.strftime('%Y-%m-%d', time.gmtime(run.finished))}" if run.finished else ""
    lines = [
        made,
        escape(subject.summary),
        f"Made by run {run.id} of the adaptation playground{finished}.",
    ]
    if subject.licence:
        lines.append(f"Licence of the base model: {escape(subject.licence)}.")
    else:
        lines.append("The base model's licence is not recorded here: look it up before you pass this on.")
    if subject.note:
        lines.append(f"About the base model: {escape(subject.note)}")
    return "\n".join(lines)


def _data(run: Run, subject: Subject) -> str:
    counts = ", ".join(f"{count:,} {escape(split)}" for split, count in subject.items.items() if count)
    lines = [
        f"## Data\n\nTask “{escape(subject.task)}”"
        + (f": {escape(subject.task_summary)}" if subject.task_summary else "")
    ]
    if counts:
        lines.append(f"Items: {counts}. Training saw the train split only, tuning the dev split only.")
    if subject.instruction:
        lines.append(f"Instruction in every prompt: “{escape(subject.instruction)}”")
    return "\n".join(lines)


def _parameters(run: Run) -> str:
    rows = [(name.replace("_", " "), value) for name, value in plain(run.params).items()]
    return _table("## Parameters", ("Parameter", "Value"), [*rows, ("seed", run.seed)])


def _results(run: Run, before: Run | None) -> str:
    rows = []
    metric = run.provenance.get("metric")
    if run.metrics.get("quality") is not None:
        name = "Quality" + (f" ({str(metric).replace('_', ' ')})" if metric else "")
        rows.append((f"{name}, before: zero-shot, run {before.id}", _quality(before)) if before else None)
        rows.append((f"{name}, after", _quality(run)))
    rows += [
        (spec.label, comparison.text(run.metrics[name], spec.unit))
        for name, spec in BY_NAME.items()
        if name not in _SAID_ABOVE and run.metrics.get(name) is not None
    ]
    table = _table("## Measured", ("What", "Value"), [row for row in rows if row])
    if not table:
        return "## Measured\n\nNothing was measured."
    return f"{table}\n\n{_interval(run)}".rstrip()


def _interval(run: Run) -> str:
    """What kind the quality's interval is; empty where there is none, as of pictures."""
    if run.metrics.get("quality_low") is None:
        return ""
    kind = "Wilson intervals"
    if comparison.is_mean(run.provenance.get("metric")):
        kind = "percentile bootstrap intervals (Wilson's where all answers or none are right)"
    return f"Intervals are 95 % {kind} on held-out test items, answered greedily."


def _quality(run: Run) -> str:
    text = comparison.text(run.metrics["quality"], "")
    low, high, count = (run.metrics.get(name) for name in ("quality_low", "quality_high", "n"))
    if low is not None and high is not None:
        text += f" ({comparison.text(low, '')} to {comparison.text(high, '')})"
    return text + (f", n = {count:.0f}" if count else "")


def _limits(run: Run, subject: Subject, form: Form) -> str:
    lines = [
        "It was trained for this one task, and measured on it only as far as the table above says.",
        "Its answers can be wrong. What it was trained on can show in what it says.",
    ]
    if run.limit:
        lines.append(f"Only {run.limit} of the test items were answered.")
    if run.metrics.get("retention_divergence") is None:
        lines.append("How much of its other abilities it lost was not measured.")
    if form == "adapter":
        lines.append("On another base model, or another revision of it, it gives other answers.")
    revision = run.provenance.get("model_revision")
    if form == "adapter" and subject.repo and revision and revision == run.provenance.get("model_sha256"):
        lines.append(
            "It was trained on a copy of the base model whose weights had been rounded, not on those of the Hub, "
            "with which some answers will differ. The merged model holds the very weights that were measured."
        )
    if form == "gguf":
        lines.append(
            "The figures above are those of the unquantised model; they were not taken again on this file."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _origin(run: Run, subject: Subject) -> str:
    origin = plain(run.provenance)
    rows: list[tuple[str, Any]] = [("Run", run.id)]
    rows += [(label, origin[name]) for name, label in _ORIGIN if origin.get(name) not in (None, "")]
    rows += [(name, version) for name, version in sorted((origin.get("libraries") or {}).items())]
    rows += [(f"SHA-256 of {name}", digest) for name, digest in subject.digests.items()]
    return _table("## Provenance", ("What", "Value"), rows)


def _table(heading: str, labels: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {escape(name)} | {escape(value)} |" for name, value in rows]
    if not lines:
        return ""
    return "\n".join([f"{heading}\n", f"| {labels[0]} | {labels[1]} |", "|---|---|", *lines])
