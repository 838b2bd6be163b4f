"""Found passages and answers with their citations."""

from collections.abc import Sequence
from typing import Any

from playground.ui.components.markup import bar, safe


def answer(title: str, text: str, citations: Sequence[Any] = ()) -> str:
    """An answer; the sentences that rest on a passage carry its number.

    Args:
        citations: ``retrieval.citations.Citation`` of the answer.
    """
    parts, at = [], 0
    for citation in sorted(citations, key=lambda citation: citation.start):
        parts.append(safe(text[at : citation.start]))
        parts.append(
            f"<mark>{safe(text[citation.start : citation.end])}</mark><sup>{citation.passage + 1}</sup>"
        )
        at = citation.end
    parts.append(safe(text[at:]))
    body = "".join(parts) or '<span class="pg-muted">…</span>'
    return f'<section class="pg-said"><h4>{safe(title)}</h4><p>{body}</p></section>'


def listed(found: Sequence[Any], citations: Sequence[Any] = ()) -> str:
    """Passages best first, with score and the spans that the answer rests on.

    Args:
        found: ``retrieval.store.Passage``.
    """
    if not found:
        return '<p class="pg-muted">No passage was found.</p>'
    best = max(passage.score for passage in found) or 1.0
    items = []
    for number, passage in enumerate(found):
        spans = [
            (citation.source_start - passage.start, citation.source_end - passage.start)
            for citation in citations
            if citation.passage == number
        ]
        scores = [f"score {passage.score:.3f}"]
        if passage.dense_score is not None:
            scores.append(f"cosine {passage.dense_score:.2f}")
        if passage.lexical_score is not None:
            scores.append(f"BM25 {passage.lexical_score:.1f}")
        where = " › ".join(part for part in (passage.document, passage.heading) if part)
        items.append(
            f"<li><header><b>{number + 1}</b><span>{safe(where)}</span><small>{safe(' · '.join(scores))}</small></header>"
            f"{bar(max(0.0, passage.score / best), label='Score')}<p>{_marked(passage.text, spans)}</p></li>"
        )
    return f'<ol class="pg-passages">{"".join(items)}</ol>'


def _marked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    parts, at = [], 0
    for start, end in sorted(spans):
        start, end = max(at, start), min(len(text), end)
        if start >= end:
            continue
        parts += [safe(text[at:start]), f"<mark>{safe(text[start:end])}</mark>"]
        at = end
    return "".join(parts) + safe(text[at:])
