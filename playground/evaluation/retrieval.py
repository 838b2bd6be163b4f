"""How well passages were found, against gold evidence spans.

Gold is a document id and a character span, so scores survive another way of chunking. A span is
found by the first passage that covers at least half of its characters. Items without evidence
(unanswerable questions) are not scored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from playground.data.tasks import Evidence, Item

COVERED = 0.5  # share of a gold span's characters that a passage must hold


class Span(Protocol):
    """Anything with a document id and a character span: a Passage, a Chunk, an Evidence."""

    document: str
    start: int
    end: int


@dataclass(frozen=True)
class RetrievalScores:
    """Means over the ``n`` items that have evidence, each 0..1, for the first ``k`` passages.

    ``recall``: share of gold spans found. ``mrr``: 1 / rank of the first passage that finds one.
    ``ndcg``: discounted gain of passages that find a new span, against the best order.
    """

    k: int
    n: int
    recall: float
    mrr: float
    ndcg: float


def covers(passage: Span, gold: Evidence) -> bool:
    """Whether the passage holds at least half of the gold span."""
    if passage.document != gold.document:
        return False
    shared = min(passage.end, gold.end) - max(passage.start, gold.start)
    return shared > 0 and shared >= COVERED * (gold.end - gold.start)


def ranks(passages: Sequence[Span], evidence: Sequence[Evidence]) -> list[int | None]:
    """For each gold span the 1-based rank of the first passage that finds it, or None."""
    return [
        next((rank for rank, passage in enumerate(passages, start=1) if covers(passage, gold)), None)
        for gold in evidence
    ]


def score(items: Sequence[Item], found: Sequence[Sequence[Span]], k: int) -> RetrievalScores | None:
    """Score the passages found for each item (best first, in the items' order).

    Returns None where no item has evidence: nothing was measured.
    """
    recalls, reciprocal, gains = [], [], []
    for item, passages in zip(items, found, strict=True):
        if not item.evidence:
            continue
        hits = ranks(passages[:k], item.evidence)
        known = [rank for rank in hits if rank is not None]
        recalls.append(len(known) / len(hits))
        reciprocal.append(1 / min(known) if known else 0.0)
        gains.append(_ndcg(known, len(hits), k))
    if not recalls:
        return None
    n = len(recalls)
    return RetrievalScores(k, n, sum(recalls) / n, sum(reciprocal) / n, sum(gains) / n)


def _ndcg(known: Sequence[int], golds: int, k: int) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank in set(known))
    # One passage may find several spans: then that many places are enough for the best order.
    places = min(golds - (len(known) - len(set(known))), k)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, places + 1))
