"""Word search: BM25 over chunks (bm25s). Finds codes, numbers and names that vectors blur."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

_WORD = re.compile(r"\w+(?:[.,:'’/_-]\w+)*")
_PART = re.compile(r"[^\W_]+")
_STOPWORDS = frozenset(STOPWORDS_EN) | {"do", "does", "did", "how", "what", "when", "which", "who", "i", "my"}


def words(text: str) -> list[str]:
    """Search words of a text: lower case, plurals folded; “AB-12.5” gives the whole and its parts."""
    found = []
    for match in _WORD.finditer(text.lower()):
        word = match[0].replace("’", "'")
        parts = _PART.findall(word)
        if len(parts) > 1 and not word.endswith("'s"):
            found.append(word)
        found += [_singular(part) for part in parts if part not in _STOPWORDS and part != "s"]
    return found


def _singular(word: str) -> str:
    """Harman's S-stemmer (1991): folds English plurals and nothing else, so codes and names stay."""
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    if word.endswith("s") and word[-2] not in "us":
        return word[:-1]
    return word


class Lexicon:
    """A BM25 index in memory over texts; row numbers are those of ``texts``."""

    def __init__(self, texts: Sequence[str]):
        tokens = [words(text) or [""] for text in texts]
        self._size = len(tokens)
        self._texts_with = Counter(word for text in tokens for word in set(text))
        self._index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        if tokens:
            self._index.index(tokens, show_progress=False)

    def rarity(self, word: str) -> float:
        """Inverse document frequency as in BM25: the fewer texts have the word, the higher."""
        known = self._texts_with[word]
        return math.log(1 + (self._size - known + 0.5) / (known + 0.5))

    def scores(self, query: str) -> np.ndarray:
        """BM25 score of every row, float32 of shape (rows,); 0 where no word of the query occurs."""
        known = [word for word in words(query) if self._size and word in self._index.vocab_dict]
        if not known:
            return np.zeros(self._size, dtype=np.float32)
        return self._index.get_scores(known)

    def search(
        self, query: str, k: int, more: Sequence[str] = (), weight: float = 0.0
    ) -> list[tuple[int, float]]:
        """The best rows with a score above 0, best first; ties keep the order of the texts.

        Args:
            more: words that count ``weight`` times as much as the query's own.
        """
        scores = self.scores(query)
        if more:
            scores = scores + weight * self.scores(" ".join(more))
        order = np.argsort(-scores, kind="stable")[:k]
        return [(int(row), float(scores[row])) for row in order if scores[row] > 0]
