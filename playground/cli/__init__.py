"""The same runs without a browser: ``python -m playground race|run|sweep|table|…``; ``--help`` lists them.

Results go to standard output, progress and messages to standard error. Exit codes: 0 all well, 1 a run
failed, 2 bad input, 130 stopped with Ctrl-C.
"""

import sys
from collections.abc import Sequence

from playground.cli import after, before, doctor, runs
from playground.cli.command import Command, Parser, settle
from playground.errors import InvalidInput, ModelUnavailable, PlaygroundError, QueueError, RunNotFound
from playground.settings import Settings

# In the order of --help.
COMMANDS: tuple[Command, ...] = (
    runs.Race(),
    runs.RunOne(),
    before.Estimate(),
    runs.Sweep(),
    runs.Table(),
    runs.Items(),
    after.Export(),
    after.Card(),
    after.Push(),
    before.Presets(),
    after.Spectrum(),
    doctor.Doctor(),
)
REFUSED = (InvalidInput, ModelUnavailable, QueueError, RunNotFound)  # nothing was started: exit code 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    try:
        options = parser().parse_args(arguments)
        settings = Settings.from_environment()
        settle(options, settings)
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


def parser() -> Parser:
    """The command line; a command's own arguments are made when it is the one that is called."""
    top = Parser(prog="python -m playground", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        each = commands.add_parser(command.name, help=command.help, fill=command.arguments)
        each.set_defaults(command=command.run)
    return top
