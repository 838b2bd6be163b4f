"""Query expansion by pseudo-relevance feedback: a second search also asks for words of what the first one found.

Rocchio 1971; the weights are those of RM3 (Abdul-Jaleel et al. 2004, TREC) times the words' rarity. No model is asked:
a small one would write words that lead astray.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from playground.retrieval.lexical import words

PASSAGES = 3  # of the first search, taken as if they were right
WORDS = 6  # at most, that are added


def expanded(query: str, passages: Sequence[tuple[str, float]], rarity: Callable[[str], float]) -> str:
    """The query, and after it the words that mark the passages best and that it lacks.

    Args:
        passages: text and score of what the first search found, best first.
        rarity: how much a word tells, e.g. its inverse document frequency.
    """
    asked = set(words(query))
    weights: Counter[str] = Counter()
    for text, score in passages[:PASSAGES]:
        found = [word for word in words(text) if word not in asked]
        for word, count in Counter(found).items():
            weights[word] += max(0.0, score) * count / len(found) * rarity(word)
    return " ".join([query, *(word for word, weight in weights.most_common(WORDS) if weight > 0)])
