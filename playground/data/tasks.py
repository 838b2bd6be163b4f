"""Tasks: what a model is adapted to. Splits, the instruction, the metric, documents."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Evidence:
    """Where an answer stands: document id and character span [start, end)."""

    document: str
    start: int
    end: int


@dataclass(frozen=True)
class Item:
    """One question or message with its answer.

    ``accept`` lists other right forms of ``target``. ``group`` marks a part that is scored apart.
    """

    id: str
    input: str
    target: str
    accept: tuple[str, ...] = ()
    group: str | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Document:
    """A text that belongs to a task. ``id`` is the file's name without its ending."""

    id: str
    text: str


@dataclass(frozen=True)
class Task:
    """One task: methods tune on ``train`` and ``dev`` only, and are all scored on ``test``.

    ``answer`` is "label" (one of ``labels``) or "free"; ``metric`` is "accuracy", "exact_match" or
    "token_f1". ``data_hash`` is the SHA-256 of everything that the model can see.
    """

    id: str
    title: str
    summary: str
    description: str
    instruction: str
    answer: Literal["label", "free"]
    metric: str
    train: tuple[Item, ...]
    dev: tuple[Item, ...]
    test: tuple[Item, ...]
    labels: tuple[str, ...] = ()
    label_notes: dict[str, str] = field(default_factory=dict)
    documents: tuple[Document, ...] = ()
    refusal: str | None = None
    groups: tuple[str, ...] = ()
    input_name: str = "Input"
    target_name: str = "Target"
    licence: str = ""
    modality: str = "text"
    bundled: bool = True
    data_hash: str = ""

    def messages(self, input: str, examples: Sequence[Item] = ()) -> list[dict[str, str]]:
        """The chat messages for one input: the instruction, the examples as turns, the input.

        Every method starts from this one template, so that they are compared on the same footing.
        """
        turns = [{"role": "system", "content": self.instruction}]
        for example in examples:
            turns.append({"role": "user", "content": example.input})
            turns.append({"role": "assistant", "content": example.target})
        turns.append({"role": "user", "content": input})
        return turns
