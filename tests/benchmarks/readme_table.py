"""Write the README's table of figures from the benchmarks' files: ``python tests/benchmarks/readme_table.py``."""

import json
import re
from pathlib import Path

from playground.errors import PlaygroundError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
START, END = "<!-- figures:start -->", "<!-- figures:end -->"


def table() -> str:
    """The Markdown table of all recorded figures, newest machine and command under it."""
    lines = ["| What | Here | Instead | Ratio |", "|---|---|---|---|"]
    sources = []
    for path in sorted(RESULTS.glob("*.json")):
        body = json.loads(path.read_text(encoding="utf-8"))
        for row in body["rows"]:
            against = (
                f"{row['theirs']:g} {row['unit']} ({row['against']})"
                if row["theirs"] is not None
                else row["against"]
            )
            ratio = f"{row['ratio']:.2f}×" if row["ratio"] is not None else ""
            lines.append(f"| {row['what']} | {row['ours']:g} {row['unit']} | {against} | {ratio} |")
            if row.get("note"):
                lines[-1] = lines[-1].replace(f"| {row['what']} |", f"| {row['what']}; {row['note']} |", 1)
        sources.append(f"`{body['command']}` ({body['machine']}, {body['date']})")
    return "\n".join([*lines, "", "Measured with " + "; ".join(sources) + ".", ""])


def with_table(text: str) -> str:
    """The README's text with the table between the two marks replaced.

    Raises:
        PlaygroundError: the marks are missing.
    """
    if START not in text or END not in text:
        raise PlaygroundError(f"README.md lacks the marks {START} and {END}.")
    return re.sub(
        f"{re.escape(START)}.*?{re.escape(END)}", lambda _: f"{START}\n{table()}{END}", text, flags=re.S
    )


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
