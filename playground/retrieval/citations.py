"""Attach sources to an answer after the fact: each sentence to the passage sentence that bears it out.

A small model cannot be trusted to cite, so nothing is asked of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from playground.data.chunks import sentences
from playground.retrieval.lexical import words

if TYPE_CHECKING:
    from playground.models.embedding import Embedder

_LEAST = 0.5  # score below which a sentence gets no source


class Source(Protocol):
    """A passage: document id, where its text starts there, and the text."""

    document: str
    start: int
    text: str


@dataclass(frozen=True)
class Citation:
    """Characters [start, end) of the answer rest on [source_start, source_end) of ``document``.

    ``passage`` is the index among the passages, ``score`` 0..1.
    """

    start: int
    end: int
    passage: int
    document: str
    source_start: int
    source_end: int
    score: float


def cite(
    answer: str, passages: Sequence[Source], embedder: "Embedder | None" = None, least: float = _LEAST
) -> list[Citation]:
    """The best source of each sentence of the answer, in the answer's order; none where none fits.

    The score is the share of the answer's words found in the passage's sentence; with an embedder,
    its mean with the cosine similarity. A number that the source lacks forbids the citation.
    """
    spans = sentences(answer)
    pieces = [
        (number, start, end)
        for number, passage in enumerate(passages)
        for start, end in sentences(passage.text)
    ]
    if not spans or not pieces:
        return []
    likeness = _likeness(answer, spans, passages, pieces, embedder)
    source_words = [set(words(passages[number].text[start:end])) for number, start, end in pieces]
    result = []
    for row, (start, end) in enumerate(spans):
        own = set(words(answer[start:end]))
        scores = [_score(own, theirs, likeness[row, column]) for column, theirs in enumerate(source_words)]
        best = int(np.argmax(scores))
        if scores[best] >= least:
            number, first, last = pieces[best]
            offset = passages[number].start
            result.append(
                Citation(
                    start,
                    end,
                    number,
                    passages[number].document,
                    offset + first,
                    offset + last,
                    round(float(scores[best]), 4),
                )
            )
    return result


def _score(own: set[str], theirs: set[str], likeness: float) -> float:
    if not own or any(any(c.isdigit() for c in word) and word not in theirs for word in own):
        return 0.0
    overlap = len(own & theirs) / len(own)
    return overlap if np.isnan(likeness) else (overlap + max(0.0, float(likeness))) / 2


def _likeness(answer, spans, passages, pieces, embedder) -> np.ndarray:
    """Cosine similarity of each answer sentence with each source sentence, NaN without an embedder."""
    if embedder is None:
        return np.full((len(spans), len(pieces)), np.nan)
    texts = [answer[start:end] for start, end in spans]
    texts += [passages[number].text[start:end] for number, start, end in pieces]
    vectors = embedder.encode(texts)
    return vectors[: len(spans)] @ vectors[len(spans) :].T
