"""Query expansion: which words join a question."""

from playground.retrieval.expansion import WORDS, expanded
from playground.retrieval.lexical import Lexicon

PASSAGES = [("Kayaks are hired at the boathouse, by the hour.", 0.9), ("The boathouse opens at seven.", 0.6)]


def rarity(word):
    return 0.0 if word in {"are", "at", "by"} else 1.0


def test_words_that_several_passages_share_come_first_and_the_question_stays_whole():
    found = expanded("Where do I get a kayak?", PASSAGES, rarity)
    assert found.startswith("Where do I get a kayak? boathouse ")
    assert "seven" in found


def test_words_of_the_question_and_common_ones_are_not_added():
    added = expanded("Where do I get a kayak?", PASSAGES, rarity).split("?")[1].split()
    assert not {"kayak", "at", "are", "by"} & set(added)
    assert len(added) <= WORDS


def test_without_passages_the_question_is_what_it_was():
    assert expanded("Where?", [], rarity) == "Where?"


def test_what_scored_nothing_adds_nothing():
    assert expanded("Where?", [("Kayaks", 0.0), ("Boats", -1.0)], rarity) == "Where?"


def test_a_word_of_few_texts_is_rare():
    lexicon = Lexicon(["the kayak and the boat", "the boat", "the boat again"])
    assert lexicon.rarity("kayak") > lexicon.rarity("boat") > 0
