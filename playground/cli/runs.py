"""Making runs and looking at them: race, run, sweep, table, items."""

import argparse
import json
from contextlib import closing
from typing import Any

from playground.cli.command import (
    Command,
    Parser,
    add_run_id,
    add_setting,
    assignment,
    descriptions,
    escape,
    positive,
    preset_values,
)
from playground.cli.following import add_following, work
from playground.data import subjects, tasks
from playground.errors import InvalidInput
from playground.jobs import races, sweep, verdicts
from playground.methods import presets, registry
from playground.methods.base import FieldSpec, Method
from playground.results import comparison, items, report
from playground.results.runs import RunStore
from playground.settings import Settings


class Race(Command):
    name = "race"
    help = "run several methods on one task and compare them"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument(
            "--methods",
            help=f"ids with commas between; default: {','.join(registry.RACE)}, on a subject or style every way to "
            "learn it, with and without prior preservation, with the presets for the model's size that were tried",
            default=None,
        )
        add_setting(parser)
        add_following(parser)

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        kind = _kind(options.task, settings)
        on = {"seed": options.seed, "limit": options.limit}
        if options.methods is None and kind != "text":
            return work(
                options,
                settings,
                lambda queue: races.prepare(queue, kind, options.task, options.model, **on),
            )
        if options.methods is None:
            chosen = [id for id in registry.RACE if id in registry.methods()]
        else:
            chosen = [id.strip() for id in options.methods.split(",") if id.strip()]
        return work(
            options, settings, lambda queue: queue.prepare_race(options.task, options.model, chosen, **on)
        )


def _kind(task_id: str, settings: Settings) -> str:
    """ "subject" or "style" where it is one, else "text"."""
    found = subjects.subjects(settings).get(task_id)
    return found.kind if found else "text"


PARAMETER = "param_"  # how the names of a method's own options begin


class RunOne(Command):
    name = "run"
    help = "run one method with its own parameters"

    def arguments(self, parser: Parser) -> None:
        kinds = parser.add_subparsers(metavar="METHOD", required=True)
        for method in registry.methods().values():
            words = escape(method.summary)
            each = kinds.add_parser(method.id, help=words, description=words, fill=_options_of(method))
            each.set_defaults(method=method.id, preset=None)

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        params = preset_values(options.method, options.preset)
        params |= {
            name.removeprefix(PARAMETER): value
            for name, value in vars(options).items()
            if name.startswith(PARAMETER)
        }
        return work(
            options,
            settings,
            lambda queue: [
                queue.prepare(
                    options.method, params, options.task, options.model, options.seed, options.limit
                )
            ],
        )


def _options_of(method: Method):
    """Adds the options of ``run METHOD``, which come from the method's parameters."""

    def fill(parser: Parser) -> None:
        add_setting(parser)
        add_following(parser)
        if known := presets.presets(method.id):
            names = ", ".join(preset.name for preset in known)
            parser.add_argument("--preset", help=f"begin with a preset: {names}")
        group = parser.add_argument_group(f"parameters of {method.title}")
        for spec in method.Params.fields():
            name = f"--{spec.name.replace('_', '-')}"
            group.add_argument(name, dest=f"{PARAMETER}{spec.name}", **_option(spec))

    return fill


def _option(spec: FieldSpec) -> dict[str, Any]:
    """argparse's words for a parameter; ranges are checked by ``Params``, which explains them better."""
    bounds = "" if spec.minimum is None or spec.maximum is None else f"{spec.minimum:g} to {spec.maximum:g}; "
    more: dict[str, Any] = {
        "default": argparse.SUPPRESS,
        "help": escape(f"{spec.help} [{bounds}default {spec.default}]"),
    }
    if spec.kind == "boolean":
        more["action"] = argparse.BooleanOptionalAction
    elif spec.kind == "choice":
        more["metavar"] = "{" + ",".join(spec.choices) + "}"
    else:
        more["type"] = {"integer": int, "number": float}.get(spec.kind, str)
        more["metavar"] = spec.name.upper()
    return more


class Sweep(Command):
    name = "sweep"
    help = "run a small grid over one or two parameters of a method"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("--method", required=True, help="id of a method that trains")
        parser.add_argument(
            "--set", action="append", required=True, metavar="NAME=VALUES", dest="values",
            help="a parameter and its values with commas between (of a text: semicolons); with one value it is the same "
            "in all runs",
        )  # fmt: skip
        parser.add_argument("--preset", help="begin with a preset, e.g. 135m-cpu")
        add_setting(parser)
        add_following(parser)

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        texts = dict(assignment(text, "NAME=VALUES") for text in options.values)
        specs = {spec.name: spec for spec in registry.method(options.method).Params.fields()}
        given = {
            name: text
            for name, text in texts.items()
            if name in specs and sweep.separator(specs[name]) in text
        }
        alone = {name: text for name, text in texts.items() if name not in given}
        same = {name: sweep.axes(options.method, {name: text})[name][0] for name, text in alone.items()}
        grid = sweep.axes(options.method, given)
        params = preset_values(options.method, options.preset) | same
        return work(
            options,
            settings,
            lambda queue: sweep.prepare(
                queue, options.method, params, grid, options.task, options.model, options.seed, options.limit
            ),
            _tell_best,
        )


def _tell_best(store: RunStore, group: str, as_json: bool) -> None:
    found = sweep.sweep(store, group)
    best = found.best
    chosen = {name: best.params[name] for name in found.names} if best else None
    loss = best.metrics["dev_loss"] if best else None
    if as_json:
        told = {"sweep": group, "best_run": best and best.id, "best": chosen, "dev_loss": loss}
        print(json.dumps(told, ensure_ascii=False))
    elif best:
        words = ", ".join(f"{name}={value}" for name, value in chosen.items())
        print(f"Lowest dev loss: {words} (run {best.id}, {loss:.4f})")


class Table(Command):
    name = "table"
    help = "print the comparison of all runs so far"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument(
            "--format",
            choices=(*comparison.WRITERS, "report"),
            default="md",
            help="report: tables, verdicts on the same items, settings and provenance, as Markdown",
        )
        parser.add_argument("--task", help="only runs on this task")
        parser.add_argument("--limit-runs", type=positive, metavar="N", help="only the N newest rows")

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        with closing(RunStore(settings.database)) as store:
            runs = comparison.newest(store.list(task=options.task))
            if options.task is not None and not runs:  # of a task that was deleted there may be some
                _refuse_unknown(options.task, settings)
            rows = comparison.rows(runs, descriptions())
            if options.limit_runs:
                rows = rows[-options.limit_runs :]
            if options.format == "report":
                told = verdicts.verdicts(store, runs, lambda id: descriptions().get(id, {}).get("title", id))
                text = report.report(rows, {run.id: words for run, words in told})
            else:
                text = comparison.WRITERS[options.format](rows)
        print(text.rstrip("\n"))
        return 0


def _refuse_unknown(task_id: str, settings: Settings) -> None:
    known = [*tasks.tasks(settings), *subjects.subjects(settings)]
    if task_id not in known:
        raise InvalidInput(
            f"There is no task or subject “{task_id}”, and no run on one. There are {', '.join(known)}.",
            field="task",
        )


class Items(Command):
    name = "items"
    help = "a run's answers item by item, beside the base model's"

    def arguments(self, parser: Parser) -> None:
        add_run_id(parser)
        parser.add_argument("--filter", choices=tuple(items.FILTERS), help="only items of that kind")
        parser.add_argument("--group", help="only items of that part of the test")
        parser.add_argument("--label", help="only items with that target")
        parser.add_argument("--json", action="store_true", help="print one JSON array")

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        with closing(RunStore(settings.database)) as store:
            run = store.get(options.run)
            base = comparison.baseline(run, store.list(task=run.task))
            before = items.tests(store.events(base.id, kinds={"sample"})) if base else ()
            found = items.pair(items.tests(store.events(run.id, kinds={"sample"})), before)
        chosen = items.select(found, options.filter, options.group, options.label)
        if options.json:
            print(items.to_json(chosen))
            return 0
        against = "there is no zero-shot run on the same items to hold it against"
        if base:
            against = f"before: run {base.id}"
        print(f"Run {run.id}, {descriptions().get(run.method, {}).get('title', run.method)}; {against}.")
        counts = items.counts(found)
        print("  ".join(f"{words}: {counts[name]}" for name, words in items.CHANGES.items() if base))
        for item in chosen:
            print(_line(item))
        return 0


def _line(item: items.Item) -> str:
    was = f"  {_short(item.before.text)} →" if item.before else ""
    is_right = "right" if item.after.correct else "wrong"
    return f"{item.id}  {is_right}{was}  {_short(item.after.text)}  [{item.target}]"


def _short(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
