"""Looking at an image model while it trains: the same prompts and seeds at every look, drawn and measured.

A look is a few pictures of the subject in new contexts and a few of its class alone, kept as files in the
run's folder, and the measures of ``playground.evaluation.image`` on them. Step 0 is the base model; what it
draws of the class is what drift is measured from.
"""

import json
import time
from collections.abc import Container, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from playground.errors import RunFailed
from playground.evaluation import image as measures
from playground.evaluation.image import Judge
from playground.evaluation.recommend import Bounds, Point, recommend
from playground.events import Event
from playground.training.saving import atomic_file, atomic_folder

if TYPE_CHECKING:
    from playground.data.subjects import Subject
    from playground.models.image import ImageModel

FOLDER = "samples"
BASE = "step-000000"  # folder of the base model's pictures
AFTER = "after"  # folder of the finished model's pictures
POINTS = "looks.json"
LOSSLESS_EDGE = 256  # pixels; larger pictures are kept in WebP's lossy form, about a tenth of the bytes
WEBP_QUALITY = 92


@dataclass(frozen=True)
class Ask:
    """One picture to draw at every look.

    Attributes:
        prompt: what the image model is asked.
        text: what CLIP holds the picture against: the same without the rare word, which it does not know.
        seed: of the picture's noise.
    """

    kind: Literal["context", "class"]
    prompt: str
    text: str
    seed: int


def asks(subject: "Subject", seed: int = 0, contexts: int = 4, classes: int = 4, each: int = 1) -> list[Ask]:
    """What to draw of a subject: its first ``contexts``, and its first ``classes`` prompts of the class.

    Args:
        seed: the run's; every picture's seed follows from it and from its place.
        each: pictures a prompt, each with another seed.
    """
    wanted = [("context", prompt) for prompt in subject.prompts[:contexts]]
    wanted += [("class", prompt) for prompt in subject.class_prompts[:classes]]
    made = []
    for kind, prompt in wanted:
        text = subject.context(prompt, subject=False)
        asked = subject.context(prompt) if kind == "context" else text
        made += [Ask(kind, asked, text, 1000 * seed + len(made) + i) for i in range(each)]
    return made


class Looks:
    """Draws, measures and remembers; calling it with a step gives the events of one look.

    Kept in ``folder``: ``samples/step-000100/context-0.webp`` …, and ``samples/looks.json`` with what was
    measured, so that a resumed training goes on with both.

    Args:
        model: the image model as it is while it trains.
        asked: what to draw, see ``asks``.
        train: the training pictures, (n, 3, h, w), −1…1; ``train_ids`` their ids.
        held_out: real pictures that are not trained on; where there are none, fidelity is measured against
            the training pictures, as in the DreamBooth paper, and the log says so.
        options: of the model's ``generate``: steps, guidance, batch.
    """

    def __init__(
        self,
        model: "ImageModel",
        judge: Judge,
        asked: Sequence[Ask],
        train: Tensor,
        train_ids: Sequence[str],
        held_out: Tensor,
        folder: Path,
        **options,
    ):
        self.model, self.judge, self.options = model, judge, options
        self.asked = sorted(asked, key=lambda ask: ask.kind != "context")
        self.train_ids = list(train_ids)
        self.folder = Path(folder) / FOLDER
        self._shown = sum(ask.kind == "context" for ask in self.asked)
        self._train = judge.embed_pictures(train)
        self._held_out = judge.embed_pictures(held_out) if len(held_out) else self._train
        self._real = torch.cat([self._train, self._held_out]) if len(held_out) else self._train
        self._texts = judge.embed_texts([ask.text for ask in self.asked[: self._shown]])
        self._no_held_out = not len(held_out)
        self._base: Tensor | None = None
        self._told: Bounds | None = None

    def __call__(self, step: int) -> Iterator[Event]:
        """The events of the look at a step: progress, samples, and the measures as points of curves.

        Raises:
            RunFailed: the model drew numbers that are no picture, or the disk is full.
        """
        yield from self._introduction()
        point, _ = yield from self._look("during" if step else "before", step, f"step-{step:06d}")
        self._remember(point)
        for name in measures_of(point):
            yield Event.metric(name, getattr(point, name), step)

    def final(self, step: int) -> Generator[Event, None, Point]:
        """The events of the finished model's look, its measures and seconds per image as results of the run.

        Args:
            step: the one whose weights the model has now.

        Raises:
            RunFailed: the model drew numbers that are no picture, or the disk is full.
        """
        yield from self._introduction()
        point, seconds = yield from self._look("after", step, AFTER)
        for name in measures_of(point):
            yield Event.metric(name, getattr(point, name))
        yield Event.metric("seconds_per_image", seconds / len(self.asked) if self.asked else None)
        return point

    def points(self) -> list[Point]:
        """What the looks of this folder measured, by step."""
        path = self.folder / POINTS
        return [Point(**point) for point in json.loads(path.read_text())] if path.is_file() else []

    def bounds(self) -> Bounds:
        """The bounds of drift and memorisation here; before the first look those of drift are the default."""
        base = self._base_class()
        return measures.bounds_of(self._real, self._train[:0] if base is None else base)

    def recommended(self, steps: Container[int]) -> int | None:
        """Which of these steps to keep, see ``recommend.advise``; None where none of them was looked at.

        Raises:
            ValueError: none of their looks has measured the subject's fidelity.
        """
        points = [point for point in self.points() if point.step in steps]
        return recommend(points, self.bounds()) if points else None

    def _introduction(self) -> Iterator[Event]:
        """What to mind about the measures, before the first look."""
        if self._told is None and self._no_held_out:
            yield Event.log(
                "There are no held-out pictures: fidelity is measured against the training pictures, so a copy "
                "of one counts as faithful. Mind the nearest training picture beside each sample.",
                "warning",
            )

    def _look(self, stage: str, step: int, place: str) -> Generator[Event, None, tuple[Point, float]]:
        yield Event.progress("look", 0, len(self.asked), unit="picture")
        start = time.perf_counter()
        drawn = self.model.generate(
            [ask.prompt for ask in self.asked], [ask.seed for ask in self.asked], **self.options
        )
        seconds = time.perf_counter() - start
        pictures = to_bytes(drawn)
        files = self._write(pictures, place)
        seen = from_bytes(pictures)  # measured as kept, so that a restart measures the same
        vectors = self.judge.embed_pictures(seen)
        context, plain = vectors[: self._shown], vectors[self._shown :]
        if stage == "before":
            self._base = plain
        base = self._base_class()
        close = measures.most_alike(vectors, self._train)
        point = Point(
            step,
            subject_fidelity=measures.alike(context, self._held_out),
            prompt_fidelity=measures.agreement(self.judge.embed_for_texts(seen[: self._shown]), self._texts),
            class_drift=None if base is None else measures.distance(plain, base),
            diversity=measures.spread(context),
            memorisation=max((cosine for _, cosine in close[: self._shown]), default=None),
        )
        bounds = self.bounds()
        if bounds != self._told:
            yield Event.provenance(look_bounds=asdict(bounds))
            self._told = bounds
        for number, (ask, file) in enumerate(zip(self.asked, files, strict=True)):
            yield Event.sample(
                stage,
                self._item(number),
                ask.prompt,
                "",
                step=step,
                file=file,
                kind=ask.kind,
                seed=ask.seed,
                nearest=self._nearest(close, number, bounds.memorisation),
            )
        yield Event.progress("look", len(self.asked), len(self.asked), unit="picture")
        return point, seconds

    def _nearest(self, close: list[tuple[int, float]], number: int, alarm: float) -> dict | None:
        if not close:
            return None
        index, cosine = close[number]
        return {"picture": self.train_ids[index], "similarity": cosine, "alarm": cosine > alarm}

    def _write(self, pictures: Tensor, place: str) -> list[str]:
        """Write the pictures, all or none; their paths relative to the run's folder."""
        folder = self.folder / place
        names = self._names()
        with atomic_folder(folder) as partial:
            for name, picture in zip(names, pictures, strict=True):
                lossless = max(picture.shape[-2:]) <= LOSSLESS_EDGE or place == BASE
                made = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
                made.save(partial / name, format="WEBP", lossless=lossless, quality=WEBP_QUALITY)
        return [(folder / name).relative_to(self.folder.parent).as_posix() for name in names]

    def _names(self) -> list[str]:
        return [f"{self._item(number)}.webp" for number in range(len(self.asked))]

    def _item(self, number: int) -> str:
        """What a picture is called: its kind, and its place among those of its kind."""
        kind = self.asked[number].kind
        return f"{kind}-{number if kind == 'context' else number - self._shown}"

    def _base_class(self) -> Tensor | None:
        """Vectors of the base model's pictures of the class; after a restart from the files of step 0."""
        files = [self.folder / BASE / name for name in self._names()[self._shown :]]
        if self._base is None and files and all(path.is_file() for path in files):
            self._base = self.judge.embed_pictures(from_bytes(torch.stack([_read(path) for path in files])))
        return self._base

    def _remember(self, point: Point) -> None:
        """Add a point; those of the same and of later steps are of an attempt that was broken off."""
        kept = [asdict(old) for old in self.points() if old.step < point.step]
        with atomic_file(self.folder / POINTS) as partial:
            partial.write_text(json.dumps([*kept, asdict(point)], indent=1))


def measures_of(point: Point) -> list[str]:
    """The names of a point's measures: all but its step."""
    return [name for name in asdict(point) if name != "step"]


def to_bytes(pictures: Tensor) -> Tensor:
    """Pictures −1…1 as uint8.

    Raises:
        RunFailed: they hold numbers that are not finite.
    """
    if not torch.isfinite(pictures).all():
        raise RunFailed(
            "The model drew numbers that are no picture (NaN or infinite): its training went wrong, or its "
            "number type is too small. Lower the learning rate, or set PLAYGROUND_DTYPE=float32."
        )
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(pictures: Tensor) -> Tensor:
    """uint8 pictures as −1…1."""
    return pictures.float() / 127.5 - 1


def _read(path: Path) -> Tensor:
    with Image.open(path) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
