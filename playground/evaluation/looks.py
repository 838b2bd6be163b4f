"""Looks at an image model while it learns: the same prompts with the same seeds, drawn and measured again and again.

What a look sees is half of the held-out pictures and of the prompts (the image side's dev split): by it the weights
to keep are chosen. The other half is for the test at the end, which no choice has seen.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from playground.data.subjects import Picture, Subject
from playground.evaluation import image as measures
from playground.evaluation.image import Judge
from playground.evaluation.recommend import recommend
from playground.events import Event
from playground.models.image import ImageModel
from playground.models.pictures import save, tensors

POINTS = "looks.json"  # what the looks of a run came to, for its resumption
SAMPLES = "samples"  # folder below the run's folder
CONTEXTS, CLASSES = 3, 2  # pictures of a look
TEST_SEEDS = 2  # pictures a prompt at the end
SINGLES = 3  # pictures drawn alone, for the time of one


@dataclass(frozen=True)
class Half:
    """One half of what is held out: pictures of the subject, prompts with it, prompts without it."""

    pictures: tuple[Picture, ...]
    prompts: tuple[str, ...]
    class_prompts: tuple[str, ...]


def halves(subject: Subject) -> tuple[Half, Half]:
    """What looks may see, and what is kept for the test. One alone serves for both.

    Where nothing is held out (a visitor's three photos), the training pictures are what fidelity is measured to.
    """
    kept = subject.held_out or subject.train

    def part(start: int) -> Half:
        return Half(
            *(tuple(all[start::2]) or tuple(all) for all in (kept, subject.prompts, subject.class_prompts))
        )

    return part(0), part(1)


@dataclass(frozen=True)
class Shot:
    """One picture to draw. ``kind`` is "context" (with the subject) or "class" (without)."""

    kind: str
    prompt: str
    words: str  # the prompt in words that a judge knows: without the rare token
    seed: int


def shots(subject: Subject, half: Half, seeds: int, *, most: tuple[int, int] | None = None, token: bool = True) -> list[Shot]:  # fmt: skip
    """The pictures of a look or a test.

    Args:
        seeds: pictures a prompt.
        most: at most so many contexts and class pictures.
        token: ask with the rare token; without it the class word stands for the subject.
    """
    contexts = [(p, s) for p in half.prompts for s in range(1, seeds + 1)]
    classes = [(p, s) for p in half.class_prompts for s in range(1, seeds + 1)]
    if most:
        contexts, classes = contexts[: most[0]], classes[: most[1]]
    return [
        *(Shot("context", subject.context(p, token), subject.context(p, False), s) for p, s in contexts),
        *(Shot("class", subject.context(p, False), subject.context(p, False), s) for p, s in classes),
    ]


def draw(model: ImageModel, asked: Sequence[Shot]) -> Tensor:
    """Float32 (n, 3, size, size), −1…1."""
    return model.generate([shot.prompt for shot in asked], [shot.seed for shot in asked])


@dataclass
class Measures:
    """What a set of pictures came to; None where nothing was there to measure it on."""

    subject_fidelity: float | None
    prompt_fidelity: float | None
    class_drift: float | None
    diversity: float | None
    memorisation: float | None

    def finite(self) -> dict[str, float]:
        """Those that were measured."""
        return {
            name: value for name, value in self.__dict__.items() if value is not None and math.isfinite(value)
        }


@dataclass
class Eye:
    """Draws, measures and tells.

    Args:
        token: see ``shots``.
    """

    model: ImageModel
    subject: Subject
    judge: Judge
    folder: Path
    token: bool = True
    base: dict[str, Tensor] = field(default_factory=dict)  # class pictures of the model as it was
    points: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        dev, test = halves(self.subject)
        looked = shots(self.subject, dev, 1, most=(CONTEXTS, CLASSES), token=self.token)
        tested = shots(self.subject, test, TEST_SEEDS, token=self.token)
        self.asked = {"look": looked, "test": tested}
        self.known = {
            "look": tensors([p.path for p in dev.pictures], self.model.size),
            "test": tensors([p.path for p in test.pictures], self.model.size),
        }
        if (path := self.folder / POINTS).is_file():  # a resumed run
            self.points = json.loads(path.read_text())
        self.train = tensors([p.path for p in self.subject.train], self.model.size)

    def remember(self) -> Iterator[Event]:
        """Draw the class with the model as it is now, before it is changed: what drift is measured against."""
        for at, which in enumerate(("look", "test")):
            yield Event.progress("base", at, 2, note="Drawing the class with the base model")
            self.base[which] = draw(self.model, _of(self.asked[which], "class"))

    def look(self, step: int) -> Iterator[Event]:
        """Draw and measure after a step; step 0 is the model before training."""
        pictures = draw(self.model, self.asked["look"])
        stage = "during" if step else "before"
        found = yield from self._tell("look", pictures, stage, step)
        self.points = [
            point for point in self.points if point["step"] != step
        ]  # seen before, in a resumed run
        self.points.append({"step": step, **found.finite()})
        (self.folder / POINTS).write_text(json.dumps(self.points))
        for name, value in found.finite().items():
            yield Event.metric(name, value, step)

    def choose(self, steps: Sequence[int]) -> int | None:
        """Which of these steps to keep, by what was seen; None where none of them was looked at."""
        seen = [point for point in self.points if point["step"] in steps]
        return recommend(seen) if seen else None

    def test(self) -> Iterator[Event]:
        """Draw and measure what no look has seen; one picture's time among it."""
        asked = self.asked["test"]
        singles, seconds = [], []
        for shot in asked[:SINGLES]:
            start = time.perf_counter()
            singles.append(draw(self.model, [shot]))
            seconds.append(time.perf_counter() - start)
            yield Event.progress("evaluate", len(singles), len(asked), unit="picture")
        rest = asked[SINGLES:]
        pictures = torch.cat([*singles, draw(self.model, rest)]) if rest else torch.cat(singles)
        yield Event.progress("evaluate", len(asked), len(asked), unit="picture")
        found = yield from self._tell("test", pictures, "after", None)
        for name, value in found.finite().items():
            yield Event.metric(name, value)
        yield Event.metric("seconds_per_image", sorted(seconds)[len(seconds) // 2])

    def _tell(self, which: str, pictures: Tensor, stage: str, step: int | None) -> "Iterator[Event]":
        asked = self.asked[which]
        found, close = self._measure(which, pictures)
        place = f"{SAMPLES}/step-{step:06d}" if step is not None else f"{SAMPLES}/test"
        for at, (shot, picture, (index, similarity)) in enumerate(zip(asked, pictures, close, strict=True)):
            file = f"{place}/{shot.kind}-{at}.png"
            save(picture, self.folder / file)
            near = {"picture": self.subject.train[index].id, "similarity": round(similarity, 4)}
            yield Event.sample(
                stage, f"{shot.kind}-{at}", shot.prompt, "", None,
                step=step, file=file, kind=shot.kind, seed=shot.seed, nearest=near,
            )  # fmt: skip
        return found

    def _measure(self, which: str, pictures: Tensor) -> tuple[Measures, list[tuple[int, float]]]:
        asked, judge = self.asked[which], self.judge
        contexts = pictures[[shot.kind == "context" for shot in asked]]
        classes = pictures[[shot.kind == "class" for shot in asked]]
        close = measures.nearest(judge, pictures, self.train)
        near = [
            similarity for shot, (_, similarity) in zip(asked, close, strict=True) if shot.kind == "context"
        ]
        base = self.base.get(which)
        words = [shot.words for shot in _of(asked, "context")]
        return Measures(
            measures.fidelity(judge, contexts, self.known[which]) if len(contexts) else None,
            measures.prompt_fidelity(judge, contexts, words) if len(contexts) else None,
            measures.drift(judge, classes, base) if base is not None and len(classes) else None,
            measures.diversity(judge, contexts) if len(contexts) > 1 else None,
            max(near, default=None),
        ), close


def _of(asked: Iterable[Shot], kind: str) -> list[Shot]:
    return [shot for shot in asked if shot.kind == kind]
