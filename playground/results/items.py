"""A run's test answers item by item, beside those of the base model: what was gained, what was lost.

Pure functions over the stored test samples; the page and the command line show what they return.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from playground.errors import InvalidInput
from playground.events import Event

CHANGES = {
    "was-right-is-wrong": "Was right, is wrong now",
    "was-wrong-is-right": "Was wrong, is right now",
    "both-right": "Right before and now",
    "both-wrong": "Wrong before and now",
}
NOW = {"is-right": "Right now", "is-wrong": "Wrong now"}  # where there is no before to hold against
FILTERS = CHANGES | NOW
MOST_LABELS = 40  # a confusion of more is unreadable


@dataclass(frozen=True)
class Answer:
    """One answer: its text, what was read from it (None = nothing), whether that is right and in the asked form."""

    text: str
    prediction: str | None
    correct: bool
    valid: bool


@dataclass(frozen=True)
class Item:
    """One test item with the base model's answer (None = it was not asked) and the run's."""

    id: str
    input: str
    target: str | None
    group: str | None
    before: Answer | None
    after: Answer

    @property
    def change(self) -> str | None:
        """One of ``CHANGES``; None where the base model was not asked."""
        if self.before is None:
            return None
        if self.before.correct == self.after.correct:
            return "both-right" if self.after.correct else "both-wrong"
        return "was-wrong-is-right" if self.after.correct else "was-right-is-wrong"


@dataclass(frozen=True)
class Confusion:
    """How often each label (``rows``) was answered with each prediction (``columns``; None = none of them)."""

    rows: tuple[str, ...]
    columns: tuple[str | None, ...]
    counts: Mapping[tuple[str, str | None], int]


def tests(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The test samples among a run's events, one an item: of an item answered twice (resumed) the later one."""
    found = {}
    for event in events:
        if event.kind == "sample" and event.data.get("stage") == "test":
            found[event.data["item"]] = event.data
    return list(found.values())


def pair(after: Iterable[Mapping[str, Any]], before: Iterable[Mapping[str, Any]] = ()) -> list[Item]:
    """The items of a run, in its order, each with the base model's answer to the same item.

    Args:
        after: test samples of the run, as ``tests`` gives them.
        before: those of the zero-shot run (see ``comparison.baseline``).
    """
    earlier = {sample["item"]: _answer(sample) for sample in before}
    return [
        Item(
            id=sample["item"],
            input=sample["input"],
            target=sample.get("target"),
            group=sample.get("group"),
            before=earlier.get(sample["item"]),
            after=_answer(sample),
        )
        for sample in after
    ]


def select(
    items: Sequence[Item], filter: str | None = None, group: str | None = None, label: str | None = None
) -> list[Item]:
    """The items of one class, group and target label; None = whichever.

    Raises:
        InvalidInput: there is no such filter.
    """
    if filter is not None and filter not in FILTERS:
        raise InvalidInput(f"There is no filter “{filter}”. Filters: {', '.join(FILTERS)}.", field="filter")
    return [
        item
        for item in items
        if (filter is None or filter in (item.change, _now(item)))
        and (group is None or item.group == group)
        and (label is None or item.target == label)
    ]


def counts(items: Iterable[Item]) -> dict[str, int]:
    """How many items each of ``FILTERS`` would leave."""
    found = Counter()
    for item in items:
        found.update({_now(item): 1} if item.change is None else {_now(item): 1, item.change: 1})
    return {name: found[name] for name in FILTERS}


def groups(items: Iterable[Item]) -> list[str]:
    """The marked parts of the test that occur, in order."""
    return list(dict.fromkeys(item.group for item in items if item.group is not None))


def labels(items: Iterable[Item]) -> list[str]:
    """The targets that occur, sorted."""
    return sorted({item.target for item in items if item.target is not None})


def confusion(items: Sequence[Item], before: bool = False) -> Confusion | None:
    """Targets against predictions of a label task; None where there are too many labels, or no answers.

    Args:
        before: of the base model's answers instead of the run's.
    """
    rows = labels(items)
    answers = [(item.target, item.before if before else item.after) for item in items]
    cells = Counter((target, answer.prediction) for target, answer in answers if answer and target)
    predicted = {prediction for _, prediction in cells}
    columns = sorted({*rows, *(one for one in predicted if one is not None)})
    if not cells or len(columns) > MOST_LABELS:
        return None
    return Confusion(tuple(rows), (*columns, *([None] if None in predicted else [])), dict(cells))


def to_json(items: Sequence[Item]) -> str:
    """The items as a JSON array, each with its ``change``."""
    return json.dumps(
        [asdict(item) | {"change": item.change} for item in items], ensure_ascii=False, indent=2
    )


def _answer(sample: Mapping[str, Any]) -> Answer:
    return Answer(
        text=sample.get("answer") or "",
        prediction=sample.get("prediction"),
        correct=bool(sample.get("correct")),
        valid=bool(sample.get("valid", True)),
    )


def _now(item: Item) -> str:
    return "is-right" if item.after.correct else "is-wrong"
