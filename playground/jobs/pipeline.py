"""One run as a generator of events: load, adapt, test, what was forgotten. Every executor iterates this."""

import random
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from playground.data import tasks
from playground.data.tasks import Item, Task
from playground.events import Event
from playground.jobs import provenance
from playground.jobs.forecast import forecast, worries
from playground.jobs.stages import adapting, carried, earlier_peak, earlier_seconds, fetched
from playground.methods.base import Adapted, Context, Method, Params
from playground.methods.parametric import Parametric
from playground.methods.registry import method
from playground.models import catalogue
from playground.models.catalogue import Model
from playground.results.runs import Run, RunStore
from playground.settings import Settings


def pipeline(run: Run, settings: Settings, folder: Path) -> Generator[Event, None, None]:
    """Do a run, telling its events. Download is in no measured time; loading is a metric of its own.

    Raises:
        PlaygroundError: the run cannot be done; the message is for the user.
    """
    technique = method(run.method)
    if technique.modality == "image":
        from playground.jobs.image_pipeline import image_pipeline

        yield from image_pipeline(run, settings, folder)
        return
    yield from carried(run)
    params = technique.Params.parse(run.params)
    chosen = tasks.task(run.task, settings)
    entry = catalogue.model(run.model, settings)
    yield Event.provenance(**provenance.before(run, chosen))
    language_model = yield from _load(entry, settings, technique.quantization(params))
    yield Event.metric("load_seconds", language_model.load_seconds)
    yield Event.metric("base_bytes", language_model.weight_bytes)
    yield Event.provenance(**provenance.of_model(language_model))
    if not (run.resume and "estimated_peak_bytes" in run.metrics):  # what was foretold before the start stays
        yield from _estimate(technique, params, chosen, entry, settings)
        for worry in worries(technique, chosen):
            yield Event.log(worry.text, "warning")

    embedder = LazyEmbedder(settings)
    context = Context(
        task=chosen,
        model=language_model,
        folder=folder,
        seed=run.seed,
        embedder=embedder,
        resume=run.resume,
        chroma_url=settings.chroma_url or None,
    )
    load = provenance.OtherLoad()
    device = str(language_model.device)
    trains = technique.family == "parametric"
    base = (yield from _ask_base(language_model, settings)) if trains else None
    earlier = earlier_seconds(run) if trains else 0.0  # an index is built anew
    adapted = yield from adapting(
        technique.adapt(params, context),
        device,
        lambda: earlier - (embedder.load_seconds or 0.0),
        "adapt_seconds" in run.metrics,
        earlier_peak(run) if trains else None,
    )
    if embedder.load_seconds is not None:
        yield Event.metric("embedder_load_seconds", embedder.load_seconds)
    yield from _test(adapted, chosen, run, device)
    if trains:
        yield from _forgetting(adapted, base)
    yield Event.provenance(**load.facts())


def items_to_answer(chosen: Task, limit: int | None) -> Sequence[Item]:
    """The test items of a run: all, or a fixed random choice, the same for every method and seed."""
    if limit is None or limit >= len(chosen.test):
        return chosen.test
    order = list(range(len(chosen.test)))
    random.Random(0).shuffle(order)
    return [chosen.test[i] for i in sorted(order[:limit])]


def _load(entry: Model, settings: Settings, quantization: str | None) -> Generator[Event, None, Any]:
    from playground.models.text import load

    folder = yield from fetched(entry, settings)
    yield Event.progress("load", 0, 1, note=entry.title)
    loaded = load(entry, settings, folder=folder, quantization=quantization)
    yield Event.progress("load", 1, 1, note=entry.title)
    return loaded


def _estimate(
    technique: Method, params: Params, chosen: Task, entry: Model, settings: Settings
) -> Iterator[Event]:
    """What the run is expected to take, to stand beside what it took; it is in no measured time."""
    if not isinstance(technique, Parametric):
        return
    try:
        store = RunStore(settings.database, read_only=True)
        try:
            told = forecast(technique, params, chosen, entry, settings, store)
        finally:
            store.close()
    except Exception as error:  # a run must not fail because it could not be foretold
        yield Event.log(f"There is no estimate: {error}", "warning")
        return
    yield Event.metric("estimated_peak_bytes", told.memory.total)
    yield Event.metric("estimated_adapt_seconds", told.seconds)
    yield Event.provenance(estimated_from=told.speed, flops_per_token=told.flops_per_token)


def _ask_base(model: Any, settings: Settings) -> Generator[Event, None, Any]:
    """What the base model says to general questions, before a method changes it: in no measured time or memory."""
    from playground.evaluation import retention

    return (yield from retention.reference(model, settings))


def _forgetting(adapted: Adapted, base: Any) -> Iterator[Event]:
    from playground.evaluation import retention

    yield from retention.measure(adapted.model, base)


def _test(adapted: Adapted, chosen: Task, run: Run, device: str) -> Iterator[Event]:
    from playground.evaluation.text import evaluate
    from playground.training.measure import PeakMemory

    with PeakMemory(device) as memory:
        yield from evaluate(adapted, chosen, items_to_answer(chosen, run.limit), seed=run.seed)
    yield Event.metric("answer_peak_bytes", memory.bytes)


class LazyEmbedder:
    """Calling it gives the embedder, loaded on the first call.

    ``load_seconds`` is what that took (importing its library included), None before; it is no part of
    adapting.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._embedder: Any = None
        self.load_seconds: float | None = None

    def __call__(self) -> Any:
        if self._embedder is None:
            start = time.perf_counter()
            from playground.models.embedding import load_embedder

            self._embedder = load_embedder(self._settings)
            self.load_seconds = time.perf_counter() - start
        return self._embedder
