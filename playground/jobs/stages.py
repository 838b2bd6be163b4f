"""What runs of text and of image models have in common: fetching, adapting under the clock, sizes."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

from playground.events import Event
from playground.models.catalogue import Model
from playground.results.runs import Run
from playground.settings import Settings

T = TypeVar("T")
EARLIER = "earlier_adapt_seconds"  # in a run's provenance


def fetched(entry: Model, settings: Settings) -> Generator[Event, None, Path]:
    """The folder with a model's files, fetched first where that is necessary.

    Raises:
        ModelUnavailable: it cannot be had.
    """
    from playground.models.sources import locate

    return (yield from telling(lambda tell: locate(entry, settings, tell)))


def telling(work: Callable[[Callable], Any]) -> Generator[Event, None, Any]:
    """Run a function that reports through a callback, as a generator of progress events."""
    told: queue.SimpleQueue = queue.SimpleQueue()
    result: dict[str, Any] = {}

    def body() -> None:
        try:
            result["value"] = work(lambda note, done, total: told.put((note, done, total)))
        except BaseException as error:
            result["error"] = error
        told.put(None)

    threading.Thread(target=body, name="fetch", daemon=True).start()
    for note, done, total in iter(told.get, None):
        yield Event.progress("fetch", done, total, unit="byte", note=note)
    if "error" in result:
        raise result["error"]
    return result["value"]


def adapting(
    steps: Generator[Event, None, T], device: str, earlier: Callable[[], float], measured: bool = False
) -> Generator[Event, None, T]:
    """Pass on what a method tells while it adapts, and measure its time and memory, and the result's sizes.

    A result that an earlier attempt has finished was paid for then: what reading it back takes is not told.

    Args:
        earlier: seconds to be added: what earlier attempts took, less what is no adapting.
        measured: whether the attempt that finished the result told these figures.
    """
    from playground.training.measure import PeakMemory, Stopwatch

    yield Event.progress("adapt", 0)
    with PeakMemory(device) as memory, Stopwatch() as watch:
        adapted = yield from _timed(steps, lambda: watch.seconds + earlier())
    if not (adapted.restored and measured):
        yield Event.metric("adapt_seconds", (0.0 if adapted.restored else watch.seconds) + earlier())
    if not adapted.restored:
        yield Event.metric("adapt_peak_bytes", memory.bytes)
        yield from _parameters(adapted)
    yield Event.metric("stored_bytes", adapted.stored_bytes)
    return adapted


def _timed(steps: Generator[Event, None, T], seconds: Callable[[], float]) -> Generator[Event, None, T]:
    """Pass events on; progress carries the seconds spent so far, so that a resumed run can add to them."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return end.value
        if event.kind == "progress":
            event.data["adapt_seconds"] = seconds()
        yield event


def earlier_seconds(run: Run) -> float:
    """Seconds that earlier attempts of a resumed run spent on adapting, as far as they were told."""
    if not run.resume:
        return 0.0
    told = (run.progress or {}).get("adapt_seconds")
    return float(told or run.metrics.get("adapt_seconds") or run.provenance.get(EARLIER) or 0.0)


def carried(run: Run) -> Iterator[Event]:
    """Keeps ``earlier_seconds`` for the case that this attempt, too, ends before it adapts."""
    if seconds := earlier_seconds(run):
        yield Event.provenance(**{EARLIER: seconds})


def _parameters(adapted: Any) -> Iterator[Event]:
    trainable, total = adapted.trainable_parameters, adapted.total_parameters
    yield Event.metric("trainable_parameters", trainable)
    yield Event.metric("trainable_share", trainable / total if trainable is not None and total else None)
