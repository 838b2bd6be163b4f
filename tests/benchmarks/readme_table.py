"""Write the README's tables of figures from the benchmarks' files: ``python tests/benchmarks/readme_table.py``."""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUIET_CORES = 0.1  # that other programs keep busy: below it a run counts as undisturbed
RESULTS = Path(__file__).with_name("results")
REFERENCE = ROOT / "assets" / "reference"
sys.path.insert(0, str(ROOT))

from playground.errors import PlaygroundError  # noqa: E402 - the checkout is not an installed package
from playground.methods.registry import methods  # noqa: E402
from playground.results.comparison import text as shown  # noqa: E402


def figures() -> str:
    """All recorded figures as a Markdown table, machines and commands under it."""
    lines = ["| What | Here | Instead | Ratio |", "|---|---|---|---|"]
    sources = []
    for path in sorted([*RESULTS.glob("*.json"), *REFERENCE.glob("*.json")], key=lambda path: path.name):
        body = json.loads(path.read_text(encoding="utf-8"))
        lines += [_line(row) for row in body["rows"]]
        sources.append(f"- `{body['command']}`: {body['machine']}, {body['date']}")
    return "\n".join([*lines, "", "Measured with", "", *sources, ""])


def _line(row: dict) -> str:
    what = f"{row['what']}; {row['note']}" if row.get("note") else row["what"]
    other = f"{_digits(row['theirs'])} {row['unit']} ({row['against']})" if row["theirs"] is not None else ""
    ratio = f"{row['ratio']:.2f}×" if row["ratio"] is not None else ""
    return f"| {what} | {_digits(row['ours'])} {row['unit']} | {other} | {ratio} |"


def _digits(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def race() -> str:
    """The rows of the recorded race as a Markdown table; "" where none was recorded."""
    path = REFERENCE / "race.json"
    if not path.is_file():
        return ""
    body = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| Method | Quality (95 % interval) | Adapt | Peak memory, adapting | Stored | Prompt | Query, p50 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in body["race"]:
        quality, low, high = (shown(row[name], "") for name in ("quality", "quality_low", "quality_high"))
        cells = [
            row["title"],
            f"{quality} ({low} – {high})",
            shown(row["adapt_seconds"], "s"),
            shown(row["adapt_peak_bytes"], "B"),
            shown(row["stored_bytes"], "B"),
            shown(row["prompt_tokens"], "tokens"),
            shown(row["query_seconds_p50"], "s"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    n = body["race"][0]["n"]
    return "\n".join([*lines, "", f"Accuracy on support-desk, {n:.0f} test items, {body['machine']}.", ""])


def measured() -> str:
    """Every technique with its preset over several seeds as a Markdown table; "" where none was recorded."""
    path = RESULTS / "methods.json"
    if not path.is_file():
        return ""
    body = json.loads(path.read_text(encoding="utf-8"))
    zero = body["zero_shot"]
    lines = [
        "| Technique | Quality | Against zero-shot (95 % interval, p) | Forgetting, nats/token | Training |"
        " Peak memory | Stored | Trainable |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        f"| Zero-shot | {shown(zero['quality'], '')} | | | | {shown(zero['adapt_peak_bytes'], 'B')} |"
        f" {shown(zero['stored_bytes'], 'B')} | |",
    ]
    for one in sorted(body["methods"], key=lambda one: -one["spread"]["quality"]["mean"]):
        spread, test = one["spread"], one["against_zero_shot"]
        cells = [
            f"{one['title']}{_seeds(one, body)}",
            _range(spread["quality"], ""),
            f"{_points(test['difference'])} ({_points(test['low'])} to {_points(test['high'])}), {_p(test['p_value'])}",
            _range(spread["retention_divergence"], "nats").replace(" nats", ""),
            shown(_quietest(one["runs"])["adapt_seconds"], "s"),
            shown(_mean(spread["adapt_peak_bytes"]), "B"),
            shown(_mean(spread["stored_bytes"]), "B"),
            shown(_mean(spread["trainable_parameters"]), "count"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _below(body), ""])


def taught() -> str:
    """Every way to teach the bundled subjects over several seeds as a Markdown table; "" where none was recorded."""
    path = RESULTS / "subjects.json"
    if not path.is_file():
        return ""
    body = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| Subject | Way | Likeness | Above the base | Prompt | Drift of the class | Training | Peak memory | Stored |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for subject in body["subjects"]:
        lines += [_taught(subject["title"], row) for row in subject["rows"]]
    runs = [run for subject in body["subjects"] for row in subject["rows"] for run in row["runs"]]
    seeds, judges = ({run[name] for run in runs} for name in ("seed", "judge"))
    words = (
        f"{body['model']}, the bundled presets 15m-cpu, seeds {', '.join(map(str, sorted(seeds)))}: the mean, and from "
        f"the lowest to the highest seed in brackets. Judged by {', '.join(sorted(filter(None, judges)))} on held-out "
        f"pictures; looks and pictures of the class count as training. {body['machine']}.{_busy(runs)}"
    )
    return "\n".join([*lines, "", words, ""])


def _taught(subject: str, row: dict) -> str:
    spread = row["spread"]
    names = ("subject_fidelity", "prompt_fidelity", "class_drift")
    likeness, prompt, drift = (_range(spread[name], "similarity") for name in names)
    gain = _range(row["above_base"], "similarity") if row["method"] != "image_base" else ""
    cells = [
        *(subject, row["title"], likeness, gain, prompt, drift),
        _range(spread["adapt_seconds"], "s"),
        shown(_mean(spread["adapt_peak_bytes"]), "B"),
        shown(_mean(spread["stored_bytes"]), "B"),
    ]
    return f"| {' | '.join(cells)} |"


def _below(body: dict) -> str:
    """What the table of techniques rests on."""
    zero = body["zero_shot"]
    seeds = sorted({run["seed"] for one in body["methods"] for run in one["runs"]})
    capped = "" if body["limit"] else "all "
    words = (
        f"{body['task']}, {capped}{zero['n']:.0f} test items, {body['model']}, the bundled presets {body['preset']},"
        f" seeds {', '.join(map(str, seeds))}: the mean, and from the lowest to the highest seed in brackets."
        " The difference is paired item by item, each item's score being its mean over the seeds."
        " The seconds are those of the seed that other programs disturbed least."
        f"{_disturbed(body)} {body['machine']}."
    )
    return words + _busy(_quietest(one["runs"]) for one in body["methods"])


def _disturbed(body: dict) -> str:
    """Of which techniques other programs disturbed the other seeds, so that the seconds are of one alone."""
    found = [one["title"] for one in body["methods"] if _quiet(one["runs"]) == 1 < len(one["runs"])]
    if not found:
        return ""
    return f" Of {', '.join(found)} that seed alone ran undisturbed, so how far their seconds scatter is not known."


def _quiet(runs: Iterable[dict]) -> int:
    return sum((run["other_load_cores"] or 0) < QUIET_CORES for run in runs)


def _quietest(runs: Iterable[dict]) -> dict:
    return min(runs, key=lambda run: (run["other_load_cores"] or 0, run["seed"]))


def _busy(runs: Iterable[dict]) -> str:
    """What else kept the machine busy while the runs were measured; "" where nothing did."""
    most = max((run["other_load_cores"] or 0 for run in runs), default=0)
    if most < QUIET_CORES:
        return ""
    return f" Other programs kept up to {most:.1f} cores busy meanwhile, so seconds alone would be fewer."


def _seeds(one: dict, body: dict) -> str:
    most = max(len(other["runs"]) for other in body["methods"])
    count = len(one["runs"])
    return "" if count == most else f" ({count} seed{'s' * (count != 1)})"


def _mean(spread: dict | None) -> float | None:
    return spread and spread["mean"]


def _range(spread: dict | None, unit: str) -> str:
    if spread is None:
        return ""
    mean, low, high = (shown(spread[name], unit) for name in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low} – {high})"


def _points(share: float) -> str:
    return f"{share * 100:+.1f}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def techniques() -> str:
    """All techniques of the registry as a Markdown table: name, command-line id, what is trained, paper."""
    own = [method for method in methods().values() if method.__module__.startswith("playground.")]
    lines = ["| Technique | `run` | What is trained | Paper |", "|---|---|---|---|"]
    for method in own:
        lines.append(f"| {method.title} | `{method.id}` | {method.summary} | {_linked(method.paper)} |")
    return "\n".join([*lines, ""])


def _linked(paper: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[\g<0>](https://arxiv.org/abs/\1)", paper)


def with_tables(text: str) -> str:
    """The README's text with what stands between each pair of marks replaced.

    Raises:
        PlaygroundError: the marks are missing.
    """
    for name, make in {
        "race": race,
        "measured": measured,
        "taught": taught,
        "techniques": techniques,
        "figures": figures,
    }.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        if start not in text or end not in text:
            raise PlaygroundError(f"README.md lacks the marks {start} and {end}.")
        new = f"{start}\n{make()}{end}"
        text = re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _, new=new: new, text, flags=re.S)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
