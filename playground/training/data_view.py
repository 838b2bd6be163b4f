"""What a training will see of a task, before it starts: tokens with the loss mask, lengths, what is odd.

Needs the model's tokenizer and configuration, no weights.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from playground.data.overlap import MOST_TEXTS, Pair, overlap
from playground.data.tasks import Item, Task
from playground.training.batches import Example, encode, shared_prefix
from playground.training.estimate import part

if TYPE_CHECKING:
    from playground.models.text import LanguageModel

NAMED = 5  # items that a finding names
PART = "…"  # a token that is only a part of a character
LONGEST_CHARACTER = 4  # bytes, so tokens at most
MANY = 0.05  # share of train items from which a finding is a warning, not a remark

ALIKE = 32  # examples whose shared beginning is taken for that of all

Role = Literal["context", "weighted", "learnt"]
Tone = Literal["info", "warn", "bad"]


@dataclass(frozen=True)
class Token:
    """One token as people read it. ``special`` ones steer the model (turn marks); ``unknown`` has lost its text."""

    id: int
    text: str
    role: Role
    special: bool = False
    unknown: bool = False


@dataclass(frozen=True)
class Shown:
    """One training example; left out where too long.

    The loss is taken on the ``learnt`` tokens, and on the ``weighted`` ones times ``prompt_weight``.
    """

    item: str
    tokens: tuple[Token, ...]
    left_out: bool
    prompt_weight: float = 0.0


@dataclass(frozen=True)
class Finding:
    """Something odd about the data, as a sentence; ``items`` names those concerned, pairs as "a = b"."""

    kind: str
    tone: Tone
    count: int
    text: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataView:
    """``lengths`` are in tokens, answer included, of the ``looked_at`` train examples (all, or evenly spread).

    ``left_out`` are the ids of those longer than ``max_length``; ``learnt`` and ``context`` count tokens.
    """

    task: str
    examples: int
    looked_at: int
    max_length: int
    lengths: tuple[int, ...]
    left_out: tuple[str, ...]
    context: int
    learnt: int
    findings: tuple[Finding, ...]

    def record(self) -> dict[str, Any]:
        """Everything but the single lengths as plain JSON values."""
        ordered = sorted(self.lengths)
        return {
            "task": self.task,
            "examples": self.examples,
            "looked_at": self.looked_at,
            "max_length": self.max_length,
            "shortest": ordered[0] if ordered else None,
            "median": ordered[len(ordered) // 2] if ordered else None,
            "longest": ordered[-1] if ordered else None,
            "left_out": list(self.left_out),
            "context_tokens": self.context,
            "learnt_tokens": self.learnt,
            "findings": [finding.__dict__ | {"items": list(finding.items)} for finding in self.findings],
        }


def data_view(model: "LanguageModel", task: Task, max_length: int) -> DataView:
    """Look at a task's training data as a training with this model would use it.

    Args:
        model: may be without weights: its tokenizer, template and configuration are all that is used.
    """
    items = part(task.train)
    examples = encode(model, task, items)
    long = tuple(item.id for item, one in zip(items, examples, strict=True) if len(one.ids) > max_length)
    kept = [example for example in examples if len(example.ids) <= max_length]
    learnt = sum(example.answer for example in kept)
    findings = [
        *_lengths(task, items, examples, long, max_length),
        *_unknown(model, items, examples),
        *overlaps(task),
    ]
    return DataView(
        task=task.id,
        examples=len(task.train),
        looked_at=len(items),
        max_length=max_length,
        lengths=tuple(len(example.ids) for example in examples),
        left_out=long,
        context=sum(len(example.ids) for example in kept) - learnt,
        learnt=learnt,
        findings=tuple(findings),
    )


def show(
    model: "LanguageModel", task: Task, item: Item, max_length: int, prompt_weight: float = 0.0
) -> Shown:
    """One item as the training sees it, with the weight of a prompt's token beside an answer's."""
    (example,) = encode(model, task, [item])
    shared = shared_prefix([example, *encode(model, task, task.train[:ALIKE])]) if prompt_weight else 0
    special, unknown = set(model.tokenizer.all_special_ids), model.tokenizer.unk_token_id
    first_learnt = len(example.ids) - example.answer
    first_weighted = shared + 1 if prompt_weight else first_learnt

    def role(at: int) -> Role:
        return "learnt" if at >= first_learnt else "weighted" if at >= first_weighted else "context"

    tokens = tuple(
        Token(
            id=id,
            text=text,
            role=role(at),
            special=id in special and id != unknown,
            unknown=id == unknown,
        )
        for at, (id, text) in enumerate(zip(example.ids, _texts(model.tokenizer, example.ids), strict=True))
    )
    return Shown(item.id, tokens, len(example.ids) > max_length, prompt_weight)


def _texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token's text with the space before it. Of tokens that share a character the last one has it."""
    texts, waiting = [], []
    for id in ids:
        waiting.append(id)
        text = tokenizer.decode(waiting, clean_up_tokenization_spaces=False)
        if "\ufffd" in text and len(waiting) < LONGEST_CHARACTER:
            texts.append(PART)
            continue
        name = str(tokenizer.convert_ids_to_tokens(id))
        if name.startswith("\u2581") and not text.startswith(" "):  # SentencePiece drops it when alone
            text = f" {text}"
        texts.append(text or name)
        waiting = []
    return texts


def _lengths(
    task: Task, items: Sequence[Item], examples: Sequence[Example], long: Sequence[str], max_length: int
) -> Iterable[Finding]:
    if not items:
        yield Finding("empty", "bad", 0, "The task has no training examples.")
        return
    if len(items) < len(task.train):
        yield Finding(
            "part", "info", len(items),
            f"{len(items):,} of {len(task.train):,} training examples, evenly spread, were tokenised for this view.",
        )  # fmt: skip
    if len(long) == len(items):
        shortest = min(len(example.ids) for example in examples)
        yield Finding(
            "too long", "bad", len(long),
            f"No training example fits into {max_length:,} tokens: the shortest has {shortest:,}. "
            "Raise the maximum length.",
        )  # fmt: skip
    elif long:
        yield Finding(
            "too long", "warn", len(long),
            f"{_count(len(long), 'training example')} longer than {max_length:,} tokens, and left out whole; "
            "nothing is cut.", tuple(long[:NAMED]),
        )  # fmt: skip


def _unknown(model: "LanguageModel", items: Sequence[Item], examples: Sequence[Example]) -> Iterable[Finding]:
    unknown = model.tokenizer.unk_token_id
    if unknown is None or unknown == model.tokenizer.eos_token_id:
        return
    # a template may write that token itself; only what stands in the item's own text counts
    found = [
        item.id
        for item, example in zip(items, examples, strict=True)
        if unknown in example.ids
        and unknown in model.tokenizer.encode(f"{item.input} {item.target}", add_special_tokens=False)
    ]
    if found:
        yield Finding(
            "unknown", "warn", len(found),
            f"{_count(len(found), 'training example')} written with characters or words that the model's tokenizer "
            "does not know; it reads all of them as one and the same token.", tuple(found[:NAMED]),
        )  # fmt: skip


def overlaps(task: Task) -> Iterator[Finding]:
    """Copies and contradictions among a task's training examples, and what stands in its other splits as well."""
    found, many = overlap(task), MANY * len(task.train)
    if found.conflicts:
        yield _pairs(
            "conflict", "warn", found.conflicts,
            "a contradiction: the same text as another, a different answer. The model cannot learn both.",
        )  # fmt: skip
    if found.duplicates:
        tone = "warn" if len(found.duplicates) > many else "info"
        yield _pairs("duplicate", tone, found.duplicates, "an exact copy of another: it counts twice.")
    if found.near:
        tone = "warn" if len({pair.second for pair in found.near}) > many else "info"
        yield _pairs("near-duplicate", tone, found.near, "nearly the same as another (90 % of the words).")
    for split, pairs, consequence in (
        ("test", found.train_test, "the test then measures memory, not skill"),
        ("dev", found.train_dev, "the dev loss then looks better than it is"),
    ):
        if pairs:
            exact = sum(pair.exact for pair in pairs)
            yield Finding(
                f"leak to {split}", "bad" if split == "test" else "warn", len(pairs),
                f"{_count(len(pairs), f'{split} item')} also in the training data, {exact} of them word for word: "
                f"{consequence}.", _names(pairs),
            )  # fmt: skip
    if not found.whole:
        yield Finding(
            "part", "info", MOST_TEXTS,
            f"Near-duplicates were looked for among a part of the items only (at most {MOST_TEXTS:,} of a split); "
            "exact copies among all.",
        )  # fmt: skip


def _pairs(kind: str, tone: Tone, pairs: Sequence[Pair], text: str) -> Finding:
    own = {pair.second: pair for pair in reversed(pairs)}  # one for each, the first that was found
    names = _names(list(own.values())[::-1])
    return Finding(kind, tone, len(own), f"{_count(len(own), 'training example')} {text}", names)


def _names(pairs: Sequence[Pair]) -> tuple[str, ...]:
    return tuple(f"{pair.first} = {pair.second}" for pair in pairs[:NAMED])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{' is' if number == 1 else 's are'}"
