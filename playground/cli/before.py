"""Before a training: estimate, presets."""

import argparse
import json
from contextlib import closing
from dataclasses import asdict
from typing import Any

from playground.cli.command import Command, Parser, add_setting, assignment, preset_values
from playground.cli.progress import fetch
from playground.data import tasks
from playground.errors import InvalidInput, ModelUnavailable
from playground.methods import presets, registry
from playground.models import catalogue
from playground.results import comparison
from playground.results.runs import RunStore
from playground.settings import Settings


class Estimate(Command):
    name = "estimate"
    help = "what a training would take, and what is odd about its data"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("--method", required=True, help="id of a method that trains, e.g. lora")
        add_setting(parser)
        parser.add_argument("--preset", help="begin with a preset, e.g. 135m-cpu")
        parser.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter; may be repeated"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        from playground.jobs.forecast import forecast, look
        from playground.models import sources

        technique = registry.method(options.method)
        if technique.modality != "text":
            raise InvalidInput(f"There is no estimate for {technique.title} yet; only text methods have one.")
        given = preset_values(options.method, options.preset) | dict(map(assignment, options.set))
        params = technique.Params.parse(given)
        task = tasks.task(options.task, settings)
        technique.check(params, task)
        entry = catalogue.model(options.model, settings)
        try:
            sources.outline(entry, settings)
        except ModelUnavailable:
            fetch(options.model, settings)
        with closing(RunStore(settings.database)) as store:
            told = forecast(technique, params, task, entry, settings, store)
        data = look(params, task, entry, settings)
        found = {
            "method": technique.id,
            "model": entry.id,
            "task": task.id,
            "params": params.model_dump(mode="json"),
            "estimate": told.record(),
            "data": data.record(),
        }
        print(json.dumps(found, ensure_ascii=False) if options.json else _estimated(found))
        return 0


def _estimated(found: dict[str, Any]) -> str:
    """The estimate and the data's findings as lines."""
    told, memory = found["estimate"], found["estimate"]["memory"]
    parts = ", ".join(
        f"{name} {comparison.text(size, 'B')}" for name, size in memory.items() if size and name != "total"
    )
    free = (
        "" if told["free"] is None else f" of {comparison.text(told['free'], 'B')} free on {told['device']}"
    )
    fits = f": {told['verdict']}" if told["verdict"] else ""
    speed = comparison.text(told["tokens_per_second"], "tokens/s")
    lines = [
        f"{found['method']} on {found['task']} with {found['model']}",
        f"Examples   {told['examples']:,} ({told['left_out']:,} too long)",
        f"Steps      {told['steps']:,} of {told['effective_batch']} examples",
        f"Trainable  {told['trainable_parameters']:,} of {told['total_parameters']:,} parameters",
        f"Memory     about {comparison.text(memory['total'], 'B')}{free}{fits}",
        f"           {parts}",
        f"Time       about {comparison.text(told['seconds'], 's')} ({speed}, from {told['speed']})",
    ]
    if told["advice"]:
        lines.append(f"Advice     {told['advice']}")
    for finding in found["data"]["findings"]:
        names = f" ({', '.join(finding['items'])})" if finding["items"] else ""
        lines.append(f"Data       {finding['text']}{names}")
    return "\n".join(lines)


class Presets(Command):
    name = "presets"
    help = "list the settings that were found for each method"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("--method", help="only those of one method")
        parser.add_argument("--json", action="store_true", help="print one JSON array")

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        if options.method:
            registry.method(options.method)
        found = presets.presets(options.method)
        if options.json:
            print(
                json.dumps([{"name": one.name, **asdict(one)} for one in found], ensure_ascii=False, indent=2)
            )
            return 0
        for one in found:
            values = ", ".join(f"{name}={value}" for name, value in one.values.items()) or "the defaults"
            print(f"{one.method} {one.name}{'' if one.tried else ' (untried)'}: {values}\n    {one.found}")
        return 0
