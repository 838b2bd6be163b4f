"""After a run: export, card, push, spectrum."""

import argparse
import json
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from playground.cli.command import Command, Parser, add_run_id
from playground.cli.progress import told
from playground.errors import InvalidInput, QueueError
from playground.jobs import export_work, hub
from playground.jobs.export_work import FORMS, PRECISIONS, Order
from playground.jobs.local import run_folder
from playground.methods import registry
from playground.methods.parametric import ADAPTER
from playground.results.runs import Run, RunStore
from playground.settings import Settings


class Export(Command):
    name = "export"
    help = "take a finished run away: adapter, merged model or GGUF file"

    def arguments(self, parser: Parser) -> None:
        add_run_id(parser)
        parser.add_argument("--format", choices=FORMS, required=True)
        _add_precision(parser)
        parser.add_argument("--out", type=Path, required=True, help="a folder, or a .zip or .gguf file")

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        order = Order(options.run, options.format, options.precision)
        with closing(RunStore(settings.database)) as store:
            out = options.out.expanduser().resolve()
            if order.form == "gguf" and out.is_dir():
                out /= export_work.file_name(store.get(order.run), order)
            print(told(export_work.build(order, settings, store, out)))
        return 0


class Card(Command):
    name = "card"
    help = "print the model card of a finished run"

    def arguments(self, parser: Parser) -> None:
        add_run_id(parser)
        parser.add_argument("--format", choices=FORMS, default="adapter")

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        with closing(RunStore(settings.database)) as store:
            print(export_work.card_of(options.run, settings, store, options.format).rstrip("\n"))
        return 0


class Push(Command):
    name = "push"
    help = "push a finished run to the Hugging Face Hub, with HF_TOKEN"

    def arguments(self, parser: Parser) -> None:
        add_run_id(parser)
        parser.add_argument("--repo", required=True, help="owner/name")
        parser.add_argument("--format", choices=FORMS, default="adapter")
        _add_precision(parser)
        parser.add_argument(
            "--public", action="store_true", help="let everyone see it; otherwise it is private"
        )

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        order = Order(options.run, options.format, options.precision)
        with (
            closing(RunStore(settings.database)) as store,
            TemporaryDirectory(prefix="playground-") as folder,
        ):
            export_work.check(order, settings, store)
            to = hub.prepare(options.repo, None, settings, private=not options.public, own=True)
            print(told(export_work.push(order, settings, store, to, Path(folder) / "push")))
        return 0


def _add_precision(parser: Parser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of GGUF")


def _refuse_untrained(run: Run) -> None:
    technique = registry.method(run.method)
    if technique.family != "parametric":
        raise InvalidInput(f"{technique.title} trains nothing, so there is no update with a spectrum.")
    if run.status != "done":
        raise QueueError(f"Run {run.id} is {run.status}; only a finished run has a spectrum.")


class Spectrum(Command):
    name = "spectrum"
    help = "singular values of a trained LoRA update, layer by layer"

    def arguments(self, parser: Parser) -> None:
        add_run_id(parser, "number of a finished LoRA run")
        parser.add_argument("--json", action="store_true", help="print one JSON object a layer")

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        from playground.training.spectrum import spectra

        with closing(RunStore(settings.database)) as store:
            run = store.get(options.run)
        _refuse_untrained(run)
        for layer in spectra(run_folder(settings, run.id) / ADAPTER):
            row = {
                "layer": layer.name,
                "rows": layer.rows,
                "columns": layer.columns,
                "norm": layer.norm,
                "effective_rank": layer.effective_rank,
                "singular_values": layer.values,
                "shares": layer.shares,
            }
            if options.json:
                print(json.dumps(row))
                continue
            held = " ".join(f"{share:.0%}" for share in layer.shares[:8])
            rank = f"effective rank {layer.effective_rank:5.1f}"
            print(f"{layer.name:<48} norm {layer.norm:8.3g}  {rank}  {held}")
        return 0
