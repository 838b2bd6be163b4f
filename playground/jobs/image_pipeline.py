"""One run of an image method as a generator of events: load, look at the base, adapt, test."""

from collections.abc import Generator
from pathlib import Path

from playground.data import subjects
from playground.events import Event
from playground.jobs import provenance, requests
from playground.jobs.stages import adapting, earlier_seconds, fetched, sizes
from playground.methods.diffusion import ImageContext
from playground.methods.registry import method
from playground.models import catalogue
from playground.results.runs import Run
from playground.settings import Settings


def image_pipeline(run: Run, settings: Settings, folder: Path) -> Generator[Event, None, None]:
    """Do a run, telling its events; see ``pipeline``.

    The subject's held-out pictures and its prompts are halved: looks while training see one half, and choose
    the weights to keep by it; the test at the end sees the other.

    Raises:
        PlaygroundError: the run cannot be done; the message is for the user.
    """
    from playground.evaluation.image import load_judge
    from playground.evaluation.looks import Eye
    from playground.models.image import load

    technique = method(run.method)
    params = technique.Params.parse(run.params)
    subject = subjects.subject(run.task, settings)
    entry = catalogue.model(run.model, settings)
    yield Event.provenance(**provenance.before(run, subject))
    source = yield from fetched(entry, settings)
    yield Event.progress("load", 0, 1, note=entry.title)
    model = load(entry, settings, folder=source)
    yield Event.progress("load", 1, 1, note=entry.title)
    yield Event.metric("load_seconds", model.load_seconds)
    yield Event.metric("base_bytes", model.weight_bytes)
    judge = load_judge(settings, model)
    held_out = len(subject.held_out)
    yield Event.provenance(
        **provenance.of_model(model),
        judge=judge.name,
        fidelity_to="pictures that training never sees"
        if held_out
        else "the training pictures: none is held out",
    )

    eye = Eye(model, subject, judge, folder, token=technique.family == "parametric")
    context = ImageContext(
        subject=subject,
        model=model,
        folder=folder,
        seed=run.seed,
        look=eye.look,
        choose=eye.choose,
        requests=lambda: requests.asked(folder),
        resume=run.resume,
    )
    load_of_others = provenance.OtherLoad()
    yield from eye.remember()
    earlier = earlier_seconds(run)
    adapted = yield from adapting(technique.adapt(params, context), str(model.device), lambda: earlier)
    yield from sizes(adapted)
    yield from eye.test()
    yield Event.provenance(**load_of_others.facts())
