"""The race of the four text methods on ``support-desk``, all 200 test items, from the command line as a user would.

``python tests/benchmarks/bench_race.py [--limit N] [--home DIR] [--no-record]`` starts from an empty store, in DIR if
it is to be kept; the starter model is fetched first where it is not at hand, outside the time. Records the wall
seconds and the rows.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import REFERENCE, ROOT, record

METHODS = ("zero_shot", "few_shot", "rag", "lora")
KEPT = (
    "method", "title", "quality", "quality_low", "quality_high", "n", "valid_rate", "difference",
    "trainable_parameters", "adapt_seconds", "adapt_peak_bytes", "stored_bytes", "prompt_tokens",
    "query_seconds_p50", "params", "seed",
)  # fmt: skip


def race(home: Path, limit: int | None) -> tuple[float, list[dict]]:
    """Wall seconds of the whole race, start of the program included, and its rows."""
    command = [
        sys.executable,
        "-m",
        "playground",
        "race",
        "--task",
        "support-desk",
        "--model",
        "smollm2-135m",
    ]
    command += ["--methods", ",".join(METHODS), "--json"]
    command += ["--limit", str(limit)] if limit else []
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PLAYGROUND_HOME": str(home)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - start
    return seconds, [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Print and, unless told not to, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from playground.models.sources import fetch_starters
    from playground.settings import Settings

    kept = Settings.from_environment()
    fetch_starters(kept)
    with tempfile.TemporaryDirectory() as scratch:
        home = arguments.home or Path(scratch)
        if kept.models.is_dir() and not (home / "models").exists():
            shutil.copytree(kept.models, home / "models")
        seconds, rows = race(home, arguments.limit)
    for row in rows:
        print(f"{row['title']}: {row['quality']:.3f} on {row['n']} items, adapt {row['adapt_seconds']:.1f} s")
    print(f"The race took {seconds:.0f} s.")
    if not arguments.no_record:
        what = f"Race of {len(METHODS)} methods on support-desk, {rows[0]['n']} test items each"
        figure = {
            "what": what,
            "ours": round(seconds),
            "theirs": None,
            "unit": "s",
            "against": "",
            "ratio": None,
        }
        kept_rows = [{name: row.get(name) for name in KEPT} for row in rows]
        record("race", [figure | {"note": ""}], folder=REFERENCE, race=kept_rows)


if __name__ == "__main__":
    main()
