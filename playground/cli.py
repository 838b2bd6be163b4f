"""The same runs without a browser: ``python -m playground race|run|table|items|doctor``.

Results go to standard output, progress and messages to standard error. Exit codes: 0 all well, 1 a run
failed, 2 bad input, 130 stopped with Ctrl-C.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

from playground.errors import InvalidInput, ModelUnavailable, PlaygroundError, QueueError, RunNotFound
from playground.jobs.queue import Queue
from playground.methods import registry
from playground.methods.base import FieldSpec, Method
from playground.models import catalogue
from playground.results import comparison, items
from playground.results.runs import ACTIVE, Filing, Run, RunStore
from playground.settings import Settings

DEFAULT_MODEL = "smollm2-135m"
POLL = 0.1  # seconds between two looks at the store
REFUSED = (InvalidInput, ModelUnavailable, QueueError, RunNotFound)  # nothing was started: exit code 2

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    try:
        options = parser().parse_args(arguments)
        settings = Settings.from_environment()
        return options.command(options, settings)
    except REFUSED as error:
        return _complain(error, 2)
    except PlaygroundError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output is gone
        sys.stderr.close()
        return 1


def _complain(error: Exception, code: int) -> int:
    print(f"playground: {' '.join(str(error).split())}", file=sys.stderr)
    return code


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"playground: {message[0].upper()}{message[1:]}. See {self.prog} --help.\n")


def parser() -> argparse.ArgumentParser:
    """The command line; the options of ``run METHOD`` come from the methods' parameters."""
    top = Parser(prog="python -m playground", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    race = commands.add_parser("race", help="run several methods on one task and compare them")
    race.add_argument("--methods", help="ids with commas between; default: the usual ones", default=None)
    _common(race)
    race.set_defaults(command=_race)

    run = commands.add_parser("run", help="run one method with its own parameters")
    kinds = run.add_subparsers(metavar="METHOD", required=True)
    for method in registry.methods().values():
        _add_method(kinds, method)

    table = commands.add_parser("table", help="print the comparison of all runs so far")
    table.add_argument("--format", choices=("md", "csv", "json"), default="md")
    table.add_argument("--task", help="only runs on this task")
    table.add_argument("--limit-runs", type=_positive, metavar="N", help="only the N newest rows")
    table.set_defaults(command=_table)

    answers = commands.add_parser("items", help="a run's answers item by item, beside the base model's")
    answers.add_argument("run", type=_positive, metavar="RUN_ID")
    answers.add_argument("--filter", choices=tuple(items.FILTERS), help="only items of that kind")
    answers.add_argument("--group", help="only items of that part of the test")
    answers.add_argument("--label", help="only items with that target")
    answers.add_argument("--json", action="store_true", help="print one JSON array")
    answers.set_defaults(command=_items)

    doctor = commands.add_parser("doctor", help="what this machine has: device, versions, models, network")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(command=_doctor)
    return top


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--task", required=True, help="id of a task, e.g. support-desk")
    command.add_argument(
        "--model", default=DEFAULT_MODEL, help="id of the catalogue, or owner/name on the Hub"
    )
    command.add_argument("--limit", type=int, metavar="N", help="answer at most N test items")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--json", action="store_true", help="one JSON object a finished row")


def _add_method(kinds: Any, method: Method) -> None:
    command = kinds.add_parser(method.id, help=_escape(method.summary), description=_escape(method.summary))
    _common(command)
    group = command.add_argument_group(f"parameters of {method.title}")
    for spec in method.Params.fields():
        name = f"--{spec.name.replace('_', '-')}"
        group.add_argument(name, dest=f"param_{spec.name}", **_option(spec))
    command.set_defaults(command=_run, method=method.id)


def _option(spec: FieldSpec) -> dict[str, Any]:
    """argparse's words for a parameter; ranges are checked by ``Params``, which explains them better."""
    bounds = "" if spec.minimum is None or spec.maximum is None else f"{spec.minimum:g} to {spec.maximum:g}; "
    more: dict[str, Any] = {
        "default": argparse.SUPPRESS,
        "help": _escape(f"{spec.help} [{bounds}default {spec.default}]"),
    }
    if spec.kind == "boolean":
        more["action"] = argparse.BooleanOptionalAction
    elif spec.kind == "choice":
        more["metavar"] = "{" + ",".join(spec.choices) + "}"
    else:
        more["type"] = {"integer": int, "number": float}.get(spec.kind, str)
        more["metavar"] = spec.name.upper()
    return more


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value


# Commands


def _race(options: argparse.Namespace, settings: Settings) -> int:
    if options.methods is None:
        known = registry.methods().items()
        chosen = [id for id, method in known if method.modality == "text" and not method.newer]
    else:
        chosen = [id.strip() for id in options.methods.split(",") if id.strip()]
    return _work(
        options,
        settings,
        lambda queue: queue.prepare_race(
            options.task, options.model, chosen, seed=options.seed, limit=options.limit
        ),
    )


def _run(options: argparse.Namespace, settings: Settings) -> int:
    prefix = "param_"
    params = {
        name.removeprefix(prefix): value for name, value in vars(options).items() if name.startswith(prefix)
    }
    return _work(
        options,
        settings,
        lambda queue: [
            queue.prepare(options.method, params, options.task, options.model, options.seed, options.limit)
        ],
    )


def _table(options: argparse.Namespace, settings: Settings) -> int:
    store = RunStore(settings.database)
    try:
        runs = comparison.newest(store.list(task=options.task))
    finally:
        store.close()
    rows = comparison.rows(runs, descriptions())
    if options.limit_runs:
        rows = rows[-options.limit_runs :]
    write = {"md": comparison.to_markdown, "csv": comparison.to_csv, "json": comparison.to_json}
    print(write[options.format](rows).rstrip("\n"))
    return 0


def _items(options: argparse.Namespace, settings: Settings) -> int:
    store = RunStore(settings.database)
    try:
        run = store.get(options.run)
        base = (
            comparison.baseline(run, store.list(task=run.task))
            if run.method != comparison.REFERENCE
            else None
        )
        before = items.tests(store.events(base.id, kinds={"sample"})) if base else ()
        found = items.pair(items.tests(store.events(run.id, kinds={"sample"})), before)
    finally:
        store.close()
    chosen = items.select(found, options.filter, options.group, options.label)
    if options.json:
        print(items.to_json(chosen))
        return 0
    told = (
        f"before: run {base.id}" if base else "there is no zero-shot run on the same items to hold it against"
    )
    print(f"Run {run.id}, {descriptions().get(run.method, {}).get('title', run.method)}; {told}.")
    print("  ".join(f"{words}: {items.counts(found)[name]}" for name, words in items.CHANGES.items() if base))
    for item in chosen:
        was = f"  {_short(item.before.text)} →" if item.before else ""
        print(
            f"{item.id}  {'right' if item.after.correct else 'wrong'}{was}  {_short(item.after.text)}  [{item.target}]"
        )
    return 0


def _short(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    from playground.jobs import doctor

    found = doctor.examine(settings)
    print(json.dumps(found, ensure_ascii=False, indent=2) if options.json else doctor.text(found))
    return 0


def descriptions() -> dict[str, dict[str, str]]:
    """What the comparison has to know of each method."""
    return {
        id: {"title": method.title, "family": method.family, "changes_weights": method.changes_weights}
        for id, method in registry.methods().items()
    }


# Working and watching


def _work(options: argparse.Namespace, settings: Settings, prepare: Callable[[Queue], list[Filing]]) -> int:
    """Check the runs, fetch the model, start, tell how they go, print their rows."""
    store = RunStore(settings.database)
    queue = Queue(settings, store)
    runs: list[Run] = []
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        filings = prepare(queue)
        _fetch(options.model, settings)
        queue.start(adopt=False)
        runs = queue.file(filings)
        return _watch(store, runs, options.json)
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


def _fetch(model: str, settings: Settings) -> None:
    """Fetch the model where it is not at hand, telling progress, so that failure is one line, not one a run."""
    from playground.models import sources

    entry = catalogue.model(model, settings)
    if sources.at_hand(entry, settings):
        return
    line = ProgressLine(sys.stderr)
    sources.locate(entry, settings, lambda note, done, total: line.show(_share(note, done, total, "byte")))
    line.end()


def _watch(store: RunStore, runs: Sequence[Run], as_json: bool) -> int:
    """Follow the runs to their ends; print each row as it is ready."""
    waiting = [run.id for run in runs]
    line = ProgressLine(sys.stderr)
    failed = False
    if not as_json:
        print(_header(), flush=True)
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


def _header() -> str:
    labels = {column.name: column.label for column in comparison.COLUMNS}
    return "  ".join(_cell(name, labels[name]) for name in WIDTHS)


def _line(row: dict[str, Any]) -> str:
    units = {column.name: column.unit for column in comparison.COLUMNS}
    return "  ".join(_cell(name, comparison.text(row[name], units[name])) for name in WIDTHS)


def _cell(name: str, text: str) -> str:
    return text.ljust(WIDTHS[name]) if name == "title" else text.rjust(WIDTHS[name])


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
    share = _share(told.get("note") or told["phase"], told["done"], told.get("total"), told.get("unit"))
    return f"{count} {running.method}: {share}"


def _share(what: str, done: float, total: float | None, unit: str | None) -> str:
    kind = "B" if unit == "byte" else "count"
    text = comparison.text(done, kind)
    if total:
        text += f" of {comparison.text(total, kind)} ({done / total:.0%})"
    return f"{what} {text}" + (f" {unit}s" if unit and unit != "byte" else "")


class ProgressLine:
    """One line that is rewritten on a terminal; elsewhere a new line only when the phase changes."""

    def __init__(self, out: TextIO):
        self._out = out
        self._live = out.isatty()
        self._shown = ""

    def show(self, text: str) -> None:
        if self._live and text != self._shown:
            self._out.write(f"\r\x1b[K{text[:110]}")
            self._out.flush()
        elif not self._live and _words(text) != _words(self._shown):
            self._out.write(f"{text}\n")
            self._out.flush()
        self._shown = text

    def end(self) -> None:
        """Leave the line clean for other output."""
        if self._live and self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._shown = ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split() if not any(character.isdigit() for character in word[1:]))
