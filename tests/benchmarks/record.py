"""Where a benchmark's figures go: one JSON file each, from which the README's table is written."""

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("results")
ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "assets" / "reference"  # of those that the page shows, too


def machine() -> str:
    """Processor name and cores, in words."""
    import os

    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def record(
    name: str,
    rows: list[dict],
    packages: tuple[str, ...] = ("torch", "transformers"),
    folder: Path | None = None,
    **more: object,
) -> Path:
    """Write ``<name>.json`` into ``folder``, ``RESULTS`` unless another is named.

    Each row has ``what`` (str), ``ours`` (float), ``theirs`` (float or None), ``unit`` (str), ``against``
    (str), ``ratio`` (float or None: how many times better ours is) and ``note`` (str). ``more`` is kept beside them.
    """
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    body = {
        "command": " ".join(["python", *map(_short, sys.orig_argv[1:])]),
        "machine": machine(),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "rows": rows,
        **more,
    }
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def recorded(name: str) -> dict | None:
    """What ``<name>.json`` holds in ``RESULTS``; None where there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean, lowest, highest and standard deviation (n − 1; None of a single value); None where one is missing."""
    if any(value is None for value in values):
        return None
    return {
        "mean": statistics.fmean(values),
        "low": min(values),
        "high": max(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def _short(argument: str) -> str:
    return Path(argument).name if Path(argument).is_absolute() else argument
