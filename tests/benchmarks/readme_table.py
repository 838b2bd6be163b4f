"""Write the README's tables of figures from the benchmarks' files: ``python tests/benchmarks/readme_table.py``."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
sys.path.insert(0, str(ROOT))

from playground.errors import PlaygroundError  # noqa: E402 - the checkout is not an installed package
from playground.results.comparison import text as shown  # noqa: E402


def figures() -> str:
    """All recorded figures as a Markdown table, machines and commands under it."""
    lines = ["| What | Here | Instead | Ratio |", "|---|---|---|---|"]
    sources = []
    for path in sorted(RESULTS.glob("*.json")):
        body = json.loads(path.read_text(encoding="utf-8"))
        lines += [_line(row) for row in body["rows"]]
        sources.append(f"- `{body['command']}`: {body['machine']}, {body['date']}")
    return "\n".join([*lines, "", "Measured with", "", *sources, ""])


def _line(row: dict) -> str:
    what = f"{row['what']}; {row['note']}" if row.get("note") else row["what"]
    other = f"{row['theirs']:g} {row['unit']} ({row['against']})" if row["theirs"] is not None else ""
    ratio = f"{row['ratio']:.2f}×" if row["ratio"] is not None else ""
    return f"| {what} | {row['ours']:g} {row['unit']} | {other} | {ratio} |"


def race() -> str:
    """The rows of the recorded race as a Markdown table; "" where none was recorded."""
    path = RESULTS / "race.json"
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


def with_tables(text: str) -> str:
    """The README's text with what stands between each pair of marks replaced.

    Raises:
        PlaygroundError: the marks are missing.
    """
    for name, make in {"race": race, "figures": figures}.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        if start not in text or end not in text:
            raise PlaygroundError(f"README.md lacks the marks {start} and {end}.")
        new = f"{start}\n{make()}{end}"
        text = re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _, new=new: new, text, flags=re.S)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
