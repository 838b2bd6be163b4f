"""Rare words for new subjects: how a tokenizer splits a word, and which words mean little to a model.

DreamBooth (Ruiz et al. 2022, section 3.2) binds a subject to a word that is short, rare in the tokenizer's
vocabulary and without a meaning of its own; else that meaning has to be unlearned first.
"""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from playground.errors import InvalidInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_PIECES = 4  # above this a word is harder to learn
LETTERS = "bfgjkqvwxz"  # of made-up words; few plain words have several of them side by side
_VOWELS = set("aeiouy")
_MARKS = re.compile(r"</w>$|^[▁Ġ]|^##")
_ABBREVIATED = """bbc bbq bff bmw btw cctv cpr css csv dlc dmv dnb dvd fbf ftw gbp gdp gmt gps hbd hdr hmm html http
https jfk jpg kfc lbs lgbt lgbtq llc ltd mba mlb mls mma mph mrs mtb mtg mtv mvp nba nbc nfl nhl nhs npr nsfw pbs pdf
pga php phd png ppl psl ptsd pvc rcmp rnb rpg rss sms sql ssd svg tbh tbt thx tnt txt vfx vhs wcw wnba wsj wtf wwf
www xml xxl xxx"""
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())  # no vowel, and a meaning all the same


@dataclass(frozen=True)
class Word:
    """A word as a tokenizer sees it.

    Attributes:
        pieces: its tokens as text.
        plain: the model has a word for it already.
        fit: it can stand for a subject.
        message: what that means, for the user.
    """

    word: str
    pieces: tuple[str, ...]
    plain: bool
    fit: bool
    message: str


def split(tokenizer: "PreTrainedTokenizerBase", word: str) -> list[str]:
    """The pieces into which the tokenizer splits a word, as text without the tokenizer's marks.

    Pieces of letters that have several bytes stay as the tokenizer writes them.
    """
    return [_MARKS.sub("", token) or token for token in tokenizer.tokenize(word)]


def look(tokenizer: "PreTrainedTokenizerBase", word: str, taken: Collection[str] = ()) -> Word:
    """Whether a word can stand for a new subject.

    Args:
        taken: words that stand for something already, such as those of captions and of other subjects.

    Raises:
        InvalidInput: it is not one word.
    """
    word = word.strip()
    if not re.fullmatch(r"[^\W_]{2,24}", word):
        raise InvalidInput("The rare word must be one word of 2 to 24 letters and digits.", field="token")
    pieces = tuple(split(tokenizer, word))
    shown = " · ".join(pieces)
    plain = len(pieces) == 1 and not _looks_rare(word)
    count = f"“{word}” falls into {len(pieces)} pieces ({shown})"
    known = next((piece for piece in pieces if len(piece) > 3 and not _looks_rare(piece)), None)
    if word.lower() in {other.lower() for other in taken}:
        fit, message = False, f"“{word}” stands for something else already. Choose another word."
    elif not pieces or _unknown(tokenizer, word):
        fit, message = False, f"The model's tokenizer cannot write “{word}”. Choose Latin letters."
    elif plain:
        fit = False
        message = f"“{word}” is one token: the model may know it already and draw that. Choose a rarer word."
    elif len(pieces) == 1:
        fit, message = True, f"“{word}” is one token and no plain word: a good choice."
    elif known:
        fit = False
        message = f"{count}, and “{known}” may mean something to the model. Choose a word without it."
    elif len(pieces) > MOST_PIECES:
        fit, message = False, f"{count}: a shorter word is learned more easily."
    else:
        fit = True
        message = (
            f"{count} that mean nothing together yet: a good choice, the model can learn what it stands for."
        )
    return Word(word, pieces, plain, fit, message)


def rare(tokenizer: "PreTrainedTokenizerBase", taken: Collection[str] = (), count: int = 5) -> list[str]:
    """Words that can stand for new subjects, the best first.

    First those that the vocabulary holds as one token, from its rarest end; then made-up ones of three
    letters, by the number of their pieces.

    Args:
        taken: words that must not be proposed.
    """
    used = {word.lower() for word in taken}
    found = []
    for word in _single(tokenizer):
        if len(found) == count:
            return found
        if word not in used and split(tokenizer, word) == [word]:
            found.append(word)
    made_up = _by_pieces(tokenizer, [word for word in _made_up() if word not in {*used, *found}])
    return found + made_up[: count - len(found)]


def _by_pieces(tokenizer: "PreTrainedTokenizerBase", words: list[str]) -> list[str]:
    """The words, fewest pieces first, first letters taking turns; without those that cannot be written."""
    turns: Counter[tuple[int, str]] = Counter()
    placed = []
    for word, ids in zip(words, tokenizer(words, add_special_tokens=False).input_ids, strict=True):
        if tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids:
            turns[len(ids), word[0]] += 1
            placed.append((len(ids), turns[len(ids), word[0]], word))
    return [word for *_, word in sorted(placed, key=lambda place: place[:2])]


def _single(tokenizer: "PreTrainedTokenizerBase") -> Iterator[str]:
    """Rare-looking words of three or four letters in the vocabulary, those with the highest number first.

    A byte-pair vocabulary is numbered by how often its entries occurred.
    """
    entries = sorted(tokenizer.get_vocab().items(), key=lambda entry: -entry[1])
    words = (_MARKS.sub("", entry) for entry, _ in entries)
    return (word for word in dict.fromkeys(words) if re.fullmatch("[a-z]{3,4}", word) and _looks_rare(word))


def _made_up() -> list[str]:
    """Three different letters, in a fixed order in which neighbours differ."""
    words = ["".join(letters) for letters in product(LETTERS, repeat=3) if len(set(letters)) == 3]
    random.Random(0).shuffle(words)
    return [word for word in words if _looks_rare(word)]


def _looks_rare(word: str) -> bool:
    return not _VOWELS & set(word.lower()) and word.lower() not in _ABBREVIATIONS


def _unknown(tokenizer: "PreTrainedTokenizerBase", word: str) -> bool:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    return tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids
