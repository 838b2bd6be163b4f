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
EARLIER = "earlier_"  # in a run's provenance, before the name of what earlier attempts told
CARRIED = ("adapt_seconds", "adapt_peak_bytes")


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
    steps: Generator[Event, None, T],
    device: str,
    earlier: Callable[[], float],
    measured: bool = False,
    earlier_peak: int | None = None,
) -> Generator[Event, None, T]:
    """Pass on what a method tells while it adapts, and measure its time and memory, and the result's sizes.

    A result that an earlier attempt has finished was paid for then: what reading it back takes is not told. The number
    of CPU threads is put back: what was trained answers with as many as what was not.

    Args:
        earlier: seconds to be added: what earlier attempts took, less what is no adapting.
        measured: whether the attempt that finished the result told these figures.
        earlier_peak: the highest memory of earlier attempts, in bytes, as far as they told it.
    """
    import torch

    from playground.training.measure import PeakMemory, Stopwatch

    threads = torch.get_num_threads()
    yield Event.progress("adapt", 0)
    with PeakMemory(device) as memory, Stopwatch() as watch:
        adapted = yield from _timed(
            steps, lambda: (watch.seconds + earlier(), _higher(memory.read(), earlier_peak))
        )
    if torch.get_num_threads() != threads:
        yield Event.provenance(train_threads=torch.get_num_threads())
        torch.set_num_threads(threads)
    if not (adapted.restored and measured):
        now = (
            (0.0, earlier_peak) if adapted.restored else (watch.seconds, _higher(memory.bytes, earlier_peak))
        )
        yield Event.metric("adapt_seconds", now[0] + earlier())
        yield Event.metric("adapt_peak_bytes", now[1])
        yield from _parameters(adapted)
    yield Event.metric("stored_bytes", adapted.stored_bytes)
    return adapted


def _timed(
    steps: Generator[Event, None, T], spent: Callable[[], tuple[float, int | None]]
) -> Generator[Event, None, T]:
    """Pass events on; progress carries what was spent so far, so that a resumed run can add to it."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return end.value
        if event.kind == "progress":
            event.data.update(zip(CARRIED, spent(), strict=True))
        yield event


def _higher(now: int | None, before: int | None) -> int | None:
    """The peak of several attempts; None where this one's could not be measured."""
    return now if now is None or before is None else max(now, before)


def earlier_seconds(run: Run) -> float:
    """Seconds that earlier attempts of a resumed run spent on adapting, as far as they were told."""
    return float(_earlier(run, "adapt_seconds") or 0.0)


def earlier_peak(run: Run) -> int | None:
    """Highest memory of earlier attempts of a resumed run while they adapted, in bytes; None = not told."""
    return _earlier(run, "adapt_peak_bytes")


def _earlier(run: Run, name: str) -> Any:
    if not run.resume:
        return None
    places = (run.progress or {}, run.metrics)
    return next((place[name] for place in places if place.get(name)), run.provenance.get(EARLIER + name))


def carried(run: Run) -> Iterator[Event]:
    """Keeps what earlier attempts told for the case that this attempt, too, ends before it adapts."""
    if found := {EARLIER + name: value for name in CARRIED if (value := _earlier(run, name))}:
        yield Event.provenance(**found)


def _parameters(adapted: Any) -> Iterator[Event]:
    trainable, total = adapted.trainable_parameters, adapted.total_parameters
    yield Event.metric("trainable_parameters", trainable)
    yield Event.metric("trainable_share", trainable / total if trainable is not None and total else None)
