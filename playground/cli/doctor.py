"""What this machine has: doctor."""

import argparse
import json

from playground.cli.command import Command, Parser
from playground.settings import Settings


class Doctor(Command):
    name = "doctor"
    help = "what this machine has: device, versions, models, network"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        from playground.jobs import doctor

        found = doctor.examine(settings)
        print(json.dumps(found, ensure_ascii=False, indent=2) if options.json else doctor.text(found))
        return 0
