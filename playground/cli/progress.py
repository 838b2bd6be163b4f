"""How far something is, told on standard error."""

import sys
from collections.abc import Generator
from typing import Any, TextIO

from playground.events import Event, result_of
from playground.models import catalogue
from playground.results import comparison
from playground.settings import Settings


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


def share(what: str, done: float, total: float | None, unit: str | None) -> str:
    """How much of something is done: "train 12 of 150 (8%) steps"."""
    if not done and not total:
        return what
    kind = "B" if unit == "byte" else "count"
    text = comparison.text(done, kind)
    if total:
        text += f" of {comparison.text(total, kind)} ({done / total:.0%})"
    return f"{what} {text}" + (f" {unit}s" if unit and unit != "byte" else "")


def told(steps: Generator[Event, None, Any]) -> Any:
    """Run something that tells its progress to its end. Returns its result."""
    line = ProgressLine(sys.stderr)

    def show(event: Event) -> None:
        data = event.data
        line.show(share(data["phase"], data["done"], data.get("total"), data.get("unit")))

    try:
        return result_of(steps, show)
    finally:
        line.end()


def fetch(model: str, settings: Settings) -> None:
    """Fetch the model where it is not at hand, so that failure is one line, not one a run.

    Raises:
        ModelUnavailable: it cannot be had.
    """
    from playground.models import sources

    entry = catalogue.model(model, settings)
    if sources.at_hand(entry, settings):
        return
    line = ProgressLine(sys.stderr)
    sources.locate(entry, settings, lambda note, done, total: line.show(share(note, done, total, "byte")))
    line.end()
