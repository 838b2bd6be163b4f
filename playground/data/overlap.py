"""Texts that say the same: exact duplicates, near-duplicates, contradictions, and what leaked between splits.

Two texts are *exact* duplicates when they are equal but for case, white space and Unicode form, and *near*
ones when the sets of their words overlap by at least ``NEAR`` (Jaccard). Near ones are found by prefix
filtering (Chaudhuri et al. 2006; Bayardo et al. 2007): sets that overlap so much share one of their rarest
words, so only texts that share one are compared. Nothing is sampled below ``MOST_TEXTS`` texts.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from playground.data.tasks import Item, Task

NEAR = 0.9
MOST_TEXTS = 10_000  # of a split that are compared for near-duplicates
MOST_CHECKS = 1_000_000  # comparisons of two texts: a few seconds
MOST_PAIRS = 1_000  # that are named

# Scripts that are written without spaces count every character as a word.
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


@dataclass(frozen=True)
class Pair:
    """Ids of two items, how much their words overlap, 0..1, and whether it is one and the same text."""

    first: str
    second: str
    similarity: float
    exact: bool = False


@dataclass(frozen=True)
class Overlap:
    """What was found. ``train_dev`` and ``train_test`` name the train item first.

    ``conflicts`` are train items with the same text and different answers. ``whole`` is False where there
    was too much to compare it all for near-duplicates, or to name it all; exact ones are always complete.
    """

    duplicates: list[Pair] = field(default_factory=list)
    near: list[Pair] = field(default_factory=list)
    conflicts: list[Pair] = field(default_factory=list)
    train_dev: list[Pair] = field(default_factory=list)
    train_test: list[Pair] = field(default_factory=list)
    whole: bool = True


def overlap(task: Task) -> Overlap:
    """Compare the inputs of a task's items within train, and between train and the other splits."""
    first: dict[str, Item] = {}
    duplicates, conflicts = [], []
    for item in task.train:
        known = first.setdefault(normal(item.input), item)
        if known is item:
            continue
        same = normal(known.target) == normal(item.target)
        (duplicates if same else conflicts).append(Pair(known.id, item.id, 1.0, True))
    index = _Index(list(first.values()))
    near = index.within()
    leaks = {}
    for split in ("dev", "test"):
        keyed = [(item, first.get(normal(item.input))) for item in getattr(task, split)]
        exact = [Pair(known.id, item.id, 1.0, True) for item, known in keyed if known]
        leaks[split] = exact + index.like([item for item, known in keyed if not known])
    return Overlap(duplicates, near, conflicts, leaks["dev"], leaks["test"], index.whole)


def normal(text: str) -> str:
    """A text without what two copies of it may differ in: case, white space, Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(_WORDS.findall(normal(text)))


class _Index:
    """The train items by their rarest words."""

    def __init__(self, items: Sequence[Item]):
        self.whole = len(items) <= MOST_TEXTS
        self._checks = MOST_CHECKS
        self._items = [(item.id, words(item.input)) for item in items[:MOST_TEXTS]]
        self._rarity = Counter(word for _, own in self._items for word in own)
        self._lists: dict[str, list[int]] = defaultdict(list)

    def within(self) -> list[Pair]:
        """Near-duplicates among the items; fills the index on the way."""
        found = []
        for place, (id, own) in enumerate(self._items):
            found += [Pair(other, id, share) for other, share in self._matches(own, len(found))]
            for word in self._rarest(own):
                self._lists[word].append(place)
        return found

    def like(self, items: Sequence[Item]) -> list[Pair]:
        """Items of another split that nearly equal one of the index, each with the closest."""
        self.whole &= len(items) <= MOST_TEXTS
        found = []
        for item in items[:MOST_TEXTS]:
            best = max(self._matches(words(item.input), len(found)), key=lambda match: match[1], default=None)
            if best:
                found.append(Pair(best[0], item.id, best[1]))
        return found

    def _matches(self, own: frozenset[str], before: int) -> Iterator[tuple[str, float]]:
        if before >= MOST_PAIRS:
            self.whole = False
            return
        seen: set[int] = set()
        for word in self._rarest(own):
            for place in self._lists.get(word, ()):
                if place in seen:
                    continue
                seen.add(place)
                id, other = self._items[place]
                if self._checks <= 0:
                    self.whole = False
                    return
                self._checks -= 1
                if min(len(own), len(other)) < NEAR * max(len(own), len(other)) - 1e-9:
                    continue
                shared = len(own & other)
                share = shared / (len(own) + len(other) - shared)
                if share >= NEAR:
                    yield id, share

    def _rarest(self, own: frozenset[str]) -> list[str]:
        count = len(own) - math.ceil(NEAR * len(own) - 1e-9) + 1 if own else 0
        return sorted(own, key=lambda word: (self._rarity[word], word))[:count]
