"""Query expansion: which words join a question, and where its vector goes."""

import numpy as np
import pytest

from playground.retrieval.expansion import WORDS, marking_words, moved
from playground.retrieval.lexical import Lexicon

PASSAGES = [("Kayaks are hired at the boathouse, by the hour.", 0.9), ("The boathouse opens at seven.", 0.6)]


def rarity(word):
    return 0.0 if word in {"are", "at", "by"} else 1.0


def test_words_that_several_passages_share_come_first():
    found = marking_words("Where do I get a kayak?", PASSAGES, rarity)
    assert found[0] == "boathouse"
    assert "seven" in found


def test_words_of_the_question_and_common_ones_are_not_added():
    found = marking_words("Where do I get a kayak?", PASSAGES, rarity)
    assert not {"kayak", "at", "are", "by"} & set(found)
    assert len(found) <= WORDS


@pytest.mark.parametrize("passages", [[], [("Kayaks", 0.0), ("Boats", -1.0)]])
def test_nothing_found_adds_nothing(passages):
    assert marking_words("Where?", passages, rarity) == []


def test_the_vector_moves_towards_what_was_found_and_keeps_its_length():
    vector, found = np.array([1.0, 0.0]), np.array([[0.0, 1.0], [0.0, 1.0]])
    new = moved(vector, found)
    assert np.linalg.norm(new) == pytest.approx(1.0)
    assert 0 < new[1] < new[0]
    assert moved(vector, found[:0]) is vector


def test_further_words_count_less_than_the_questions_own():
    lexicon = Lexicon(["a kayak boat", "a canoe boat", "an oar"])
    assert [row for row, _ in lexicon.search("kayak", 3, ["canoe"], 0.2)] == [0, 1]
    assert [row for row, _ in lexicon.search("kayak", 3)] == [0]
    assert lexicon.rarity("kayak") > lexicon.rarity("boat") > 0
