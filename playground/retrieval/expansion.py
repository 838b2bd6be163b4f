"""Query expansion by pseudo-relevance feedback: what the first search finds first is taken as right, and asked for too.

The question's vector moves towards theirs (Rocchio 1971), and words that mark them join it (RM3: Abdul-Jaleel et al.
2004, TREC), each with less weight than the question itself. No model is asked: a small one would write words that
lead astray.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from playground.retrieval.lexical import words

PASSAGES = 3  # of the first search that are taken as right
WORDS = 6  # at most, that are added
WEIGHT = 0.2  # of what is added, the question's own being 1


def marking_words(
    query: str, passages: Sequence[tuple[str, float]], rarity: Callable[[str], float]
) -> list[str]:
    """The words that mark the passages best and that the question lacks, best first.

    Args:
        passages: text and score of what the first search found.
        rarity: how much a word tells, e.g. its inverse document frequency.
    """
    asked = set(words(query))
    weights: Counter[str] = Counter()
    for text, score in passages:
        found = [word for word in words(text) if word not in asked]
        for word, count in Counter(found).items():
            weights[word] += max(0.0, score) * count / len(found) * rarity(word)
    return [word for word, weight in weights.most_common(WORDS) if weight > 0]


def moved(vector: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The question's vector (d,) moved towards the mean of the vectors found (n, d); of length 1 again."""
    if not len(found):
        return vector
    new = vector + WEIGHT * found.mean(axis=0)
    return new / np.linalg.norm(new)
