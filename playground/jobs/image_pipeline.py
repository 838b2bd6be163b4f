"""One run of an image method as a generator of events: load, look at the base, adapt, test."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.data import subjects
from playground.data.subjects import Subject
from playground.events import Event
from playground.jobs import provenance, requests
from playground.jobs.stages import adapting, carried, earlier_peak, earlier_seconds, fetched
from playground.methods.base import Method
from playground.methods.diffusion import ImageContext
from playground.methods.registry import method
from playground.models import catalogue
from playground.results.runs import Run
from playground.settings import Settings

if TYPE_CHECKING:
    from playground.evaluation.image import Judge
    from playground.evaluation.looks import Looks
    from playground.models.image import ImageModel

CONTEXTS, CLASSES = 3, 2  # pictures of a look
TEST_CONTEXTS, TEST_CLASSES, TEST_EACH = 4, 3, 2  # prompts of the test, pictures a prompt
TEST = "test"  # folder of the test's pictures, below the run's folder


def image_pipeline(run: Run, settings: Settings, folder: Path) -> Generator[Event, None, None]:
    """Do a run, telling its events; see ``pipeline``.

    What is held out is halved: looks while training see one half, and choose the weights to keep by it; the
    test at the end sees the other, which no choice has seen.

    Raises:
        PlaygroundError: the run cannot be done; the message is for the user.
    """
    technique = method(run.method)
    yield from carried(run)
    params = technique.Params.parse(run.params)
    subject = subjects.subject(run.task, settings)
    entry = catalogue.model(run.model, settings)
    yield Event.provenance(**provenance.before(run, subject))
    model, judge = yield from _load(entry, settings)
    dev, test = halves(subject)
    looks = _looks(model, judge, subject, dev, run, folder)
    exam = _exam(model, judge, subject, test, run, folder, technique)
    context = ImageContext(
        subject=subject,
        model=model,
        folder=folder,
        seed=run.seed,
        look=looks,
        choose=looks.recommended,
        requests=lambda: requests.asked(folder),
        resume=run.resume,
    )
    others = provenance.OtherLoad()
    yield from (
        event for event in exam(0) if event.kind == "progress"
    )  # the base model's pictures: what drift is measured from
    earlier = earlier_seconds(run)
    adapted = yield from adapting(
        technique.adapt(params, context),
        str(model.device),
        lambda: earlier,
        "adapt_seconds" in run.metrics,
        earlier_peak(run),
    )
    yield from _below(TEST, exam.final(adapted.step))
    yield Event.provenance(**others.facts())


def halves(subject: Subject) -> tuple[Subject, Subject]:
    """The subject as looks see it, and as the test does: every second held-out picture and prompt.

    What there is but one of, both see.
    """

    def half(start: int) -> Subject:
        names = ("held_out", "prompts", "class_prompts")
        return replace(subject, **{name: _every_second(getattr(subject, name), start) for name in names})

    return half(0), half(1)


def _every_second(things: Sequence[Any], start: int) -> tuple[Any, ...]:
    return tuple(things[start::2]) or tuple(things)


def _load(entry: catalogue.Model, settings: Settings) -> "Generator[Event, None, tuple[ImageModel, Judge]]":
    from playground.evaluation.image import load_judge
    from playground.models.image import load

    folder = yield from fetched(entry, settings)
    yield Event.progress("load", 0, 1, note=entry.title)
    model = load(entry, settings, folder=folder)
    yield Event.progress("load", 1, 1, note=entry.title)
    yield Event.metric("load_seconds", model.load_seconds)
    yield Event.metric("base_bytes", model.weight_bytes)
    yield Event.provenance(**provenance.of_model(model))
    judge = load_judge(settings, model)
    yield Event.provenance(judge=judge.name, judge_models=list(judge.models))
    if judge.note:
        yield Event.log(judge.note)
    return model, judge


def _looks(
    model: "ImageModel", judge: "Judge", subject: Subject, dev: Subject, run: Run, folder: Path
) -> "Looks":
    from playground.evaluation.looks import asks

    return _seer(model, judge, subject, dev, asks(dev, run.seed, CONTEXTS, CLASSES), folder)


def _exam(
    model: "ImageModel",
    judge: "Judge",
    subject: Subject,
    test: Subject,
    run: Run,
    folder: Path,
    technique: Method,
) -> "Looks":
    from playground.evaluation.looks import asks

    asked = asks(test, run.seed, TEST_CONTEXTS, TEST_CLASSES, TEST_EACH)
    if technique.family == "non-parametric":  # nobody taught it the rare word: it is asked in words it knows
        asked = [replace(one, prompt=one.text) for one in asked]
    return _seer(model, judge, subject, test, asked, folder / TEST)


def _seer(
    model: "ImageModel", judge: "Judge", subject: Subject, half: Subject, asked: list, folder: Path
) -> "Looks":
    from playground.evaluation.looks import Looks
    from playground.training.pictures import tensors

    return Looks(
        model,
        judge,
        asked,
        tensors([picture.path for picture in subject.train], model.size),
        [picture.id for picture in subject.train],
        tensors([picture.path for picture in half.held_out], model.size),
        folder,
    )


def _below(place: str, events: Iterable[Event]) -> Iterator[Event]:
    """The same events, their files' paths from the run's folder on, their items apart from those of the looks."""
    for event in events:
        if event.kind == "sample":
            event.data["file"] = f"{place}/{event.data['file']}"
            event.data["item"] = f"{place}-{event.data['item']}"
        yield event
