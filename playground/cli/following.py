"""Starting runs and following them to their ends."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from playground.cli.command import descriptions
from playground.cli.progress import ProgressLine, fetch, share
from playground.errors import QueueError
from playground.jobs import forecast
from playground.jobs.queue import Queue
from playground.methods.registry import method
from playground.results import comparison
from playground.results.runs import ACTIVE, Filing, Run, RunStore
from playground.settings import Settings

POLL = 0.1  # seconds between two looks at the store

# The columns of the readable table, with their widths.
WIDTHS = {
    "run": 5,
    "title": 12,
    "quality": 8,
    "n": 5,
    "limit": 6,
    "difference": 18,
    "valid_rate": 13,
    "adapt_seconds": 11,
    "adapt_peak_bytes": 22,
    "stored_bytes": 8,
    "retention_divergence": 11,
    "query_seconds_p50": 23,
    "tokens_per_second": 18,
}

IMAGE_WIDTHS = {
    "run": 5,
    "title": 16,
    "subject_fidelity": 16,
    "prompt_fidelity": 15,
    "class_drift": 11,
    "memorisation": 12,
    "adapt_seconds": 11,
    "adapt_peak_bytes": 22,
    "stored_bytes": 8,
    "seconds_per_image": 17,
}


def add_following(parser: argparse.ArgumentParser) -> None:
    """What ``work`` reads beside task and model."""
    parser.add_argument("--limit", type=int, metavar="N", help="answer at most N test items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--before",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run zero-shot first where there is no such run yet, so that every row has its difference to it",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a finished row")


def work(
    options: argparse.Namespace,
    settings: Settings,
    prepare: Callable[[Queue], list[Filing]],
    conclude: Callable[[RunStore, str, bool], None] | None = None,
) -> int:
    """Check the runs, fetch the model, start, tell how they go, print their rows; then conclude on the group."""
    store = RunStore(settings.database)
    queue = Queue(settings, store, check_fit=forecast.fits)
    runs: list[Run] = []
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        filings = prepare(queue)
        if options.before:
            filings = queue.with_reference(filings)
        fetch(options.model, settings)
        queue.start(adopt=False)
        runs = queue.file(filings)
        code = _watch(store, runs, options.json)
        if conclude and runs[0].group:
            conclude(store, runs[0].group, options.json)
        return code
    finally:
        _cancel(queue, store, runs)
        queue.close()
        store.close()
        signal.signal(signal.SIGTERM, before)


def _terminate(*_) -> NoReturn:
    raise SystemExit(143)


def _cancel(queue: Queue, store: RunStore, runs: Sequence[Run]) -> None:
    for run in reversed(runs):  # waiting ones first, so that none starts meanwhile
        if store.get(run.id).status in ACTIVE:
            with suppress(QueueError):  # it ended just now
                queue.cancel(run.id)


def _watch(store: RunStore, runs: Sequence[Run], as_json: bool) -> int:
    """Follow the runs to their ends; print each row as it is ready."""
    waiting = [run.id for run in runs]
    line = ProgressLine(sys.stderr)
    failed = False
    if not as_json:
        print(_header(runs[0].method), flush=True)
    while waiting:
        for run_id in list(waiting):
            run = store.get(run_id)
            if run.status in ACTIVE:
                continue
            waiting.remove(run_id)
            failed |= run.status != "done"
            line.end()
            _print_row(store, run, as_json)
        if waiting:
            line.show(_where(store, waiting, len(runs)))
            time.sleep(POLL)
    return 1 if failed else 0


def _print_row(store: RunStore, run: Run, as_json: bool) -> None:
    others = [other for other in store.list(task=run.task) if other.id < run.id or other.group == run.group]
    row = next(row for row in comparison.rows([*others, run], descriptions()) if row["run"] == run.id)
    if as_json:
        print(json.dumps(row, ensure_ascii=False), flush=True)
    elif run.status == "done":
        print(_line(row), flush=True)
    if run.status != "done":
        reason = run.error or run.status
        print(f"playground: {row['title']} (run {run.id}) {run.status}: {reason}", file=sys.stderr)


def _widths(method_id: str) -> dict[str, int]:
    return IMAGE_WIDTHS if method(method_id).modality == "image" else WIDTHS


def _header(method_id: str) -> str:
    labels = {column.name: column.label for column in comparison.COLUMNS}
    return "  ".join(_cell(name, labels[name], width) for name, width in _widths(method_id).items())


def _line(row: dict[str, Any]) -> str:
    units = {column.name: column.unit for column in comparison.COLUMNS}
    return "  ".join(
        _cell(name, comparison.text(row[name], units[name]), width)
        for name, width in _widths(row["method"]).items()
    )


def _cell(name: str, text: str, width: int) -> str:
    return text.ljust(width) if name == "title" else text.rjust(width)


def _where(store: RunStore, waiting: Sequence[int], all: int) -> str:
    runs = [store.get(run_id) for run_id in waiting]
    running = next((run for run in runs if run.status == "running"), None)
    count = f"[{all - len(waiting) + 1}/{all}]"
    if running is None:
        place = store.position(waiting[0])
        return f"{count} waiting for the device" + (f", place {place} in the queue" if place else "")
    told = running.progress or {}
    if "phase" not in told:
        return f"{count} {running.method}: starting"
    words = share(told.get("note") or told["phase"], told["done"], told.get("total"), told.get("unit"))
    return f"{count} {running.method}: {words}"
