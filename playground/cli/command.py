"""What a command of the command line is, and the arguments that several have."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from playground.data import subjects
from playground.errors import InvalidInput
from playground.methods import presets, registry
from playground.settings import Settings

LARGEST = 2**63 - 1  # of SQLite's whole numbers
DEFAULT_MODELS = {"text": "smollm2-135m", "image": "starter-stickers"}


class Command(ABC):
    """One command: its name, one line of help, its arguments and what it does."""

    name: ClassVar[str]
    help: ClassVar[str]

    @abstractmethod
    def arguments(self, parser: "Parser") -> None:
        """Add the command's own arguments."""

    @abstractmethod
    def run(self, options: argparse.Namespace, settings: Settings) -> int:
        """Do it. Returns the exit code; raises a ``PlaygroundError`` where it cannot."""


class Parser(argparse.ArgumentParser):
    """Complains in one line; ``fill`` adds its arguments once it is the one that has to read."""

    def __init__(self, *args: Any, fill: Callable[["Parser"], None] | None = None, **more: Any):
        super().__init__(*args, **more)
        self._fill = fill

    def parse_known_args(self, args=None, namespace=None):
        fill, self._fill = self._fill, None
        if fill:
            fill(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"playground: {message[0].upper()}{message[1:]}. See {self.prog} --help.\n")


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Which task and which model."""
    parser.add_argument(
        "--task", required=True, help="id of a task, e.g. support-desk, or of a subject for image methods"
    )
    usual = " or ".join(DEFAULT_MODELS.values())
    parser.add_argument("--model", help=f"id of the catalogue, or owner/name on the Hub; default: {usual}")


def settle(options: argparse.Namespace, settings: Settings) -> None:
    """Put in the model where none was named: the starter model for what the task is made of."""
    if getattr(options, "task", None) and getattr(options, "model", "") is None:
        options.model = DEFAULT_MODELS[modality(options.task, settings)]


def modality(task_id: str, settings: Settings) -> str:
    """ "image" for a subject or a style, else "text"."""
    return "image" if task_id in subjects.subjects(settings) else "text"


def add_run_id(parser: argparse.ArgumentParser, help: str | None = None) -> None:
    """The number of a run, as ``options.run``."""
    parser.add_argument("run", type=positive, metavar="RUN_ID", help=help)


def positive(text: str) -> int:
    """A whole number from 1 that the store can hold, as argparse's ``type``."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    if value > LARGEST:
        raise argparse.ArgumentTypeError(f"it must be at most {LARGEST:,}")
    return value


def escape(text: str) -> str:
    """Text as argparse's ``help`` shows it unchanged."""
    return text.replace("%", "%%")


def assignment(text: str, form: str = "NAME=VALUE") -> tuple[str, str]:
    """A parameter's name and value from "batch-size=2".

    Raises:
        InvalidInput: it is not of that form.
    """
    name, _, value = text.partition("=")
    if not name.strip() or not value.strip():
        raise InvalidInput(f"--set wants {form}, not “{text}”.", field="set")
    return name.strip().replace("-", "_"), value.strip()


def preset_values(method_id: str, name: str | None) -> dict[str, Any]:
    """A preset's parameters; none where no preset is named. Raises: as ``presets.preset``."""
    return dict(presets.preset(method_id, name).values) if name else {}


def descriptions() -> dict[str, dict[str, str]]:
    """What the comparison has to know of each method."""
    return {
        id: {"title": method.title, "family": method.family, "changes_weights": method.changes_weights}
        for id, method in registry.methods().items()
    }
