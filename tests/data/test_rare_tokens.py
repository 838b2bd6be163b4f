"""Rare words, with a CLIP tokenizer as the starter model has it and with other kinds."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from playground.data.rare_tokens import look, rare, split
from playground.errors import InvalidInput
from playground.starter.networks import tokenizer as starter_tokenizer
from playground.starter.world import NOUNS


@pytest.fixture(scope="module")
def starter():
    return starter_tokenizer(list(NOUNS)[:120])


def other(model, pre_tokenizer, **more):
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=made, **more)


@pytest.fixture(scope="module")
def pieces_of_words():
    """WordPiece, with marks at the continuations, an unknown token, and some rare words."""
    entries = ["[UNK]", "robot", "html", "cat", "ro", "##bot", "z", "##w", "##x", "fjq", "hbtk", "bgw"]
    model = models.WordPiece({entry: number for number, entry in enumerate(entries)}, unk_token="[UNK]")
    return other(model, pre_tokenizers.Whitespace(), unk_token="[UNK]")


@pytest.fixture(scope="module")
def sentence_pieces():
    """Unigram, with marks at the start of words."""
    entries = [
        ("<unk>", 0.0),
        ("▁robot", -1.0),
        ("▁", -2.0),
        ("▁zw", -3.0),
        ("x", -3.0),
        ("z", -5.0),
        ("w", -5.0),
    ]
    model = models.Unigram(entries, unk_id=0)
    return other(model, pre_tokenizers.Metaspace(), unk_token="<unk>")


def test_the_starter_tokenizer_splits_what_it_does_not_know(starter):
    assert split(starter, "robot") == ["robot"]
    assert split(starter, "zwx") == ["z", "w", "x"]
    assert "".join(split(starter, "backpacker")) == "backpacker"


def test_other_tokenizers_split_without_their_marks(pieces_of_words, sentence_pieces):
    assert split(pieces_of_words, "zwx") == ["z", "w", "x"]
    assert split(sentence_pieces, "zwx") == ["zw", "x"]
    assert split(sentence_pieces, "robot") == ["robot"]


def test_a_plain_word_is_told_apart(starter):
    found = look(starter, "robot")
    assert (found.plain, found.fit, found.pieces) == (True, False, ("robot",))
    assert "one token" in found.message


def test_a_word_in_pieces_is_shown_with_them(starter):
    found = look(starter, " zwx ")
    assert (found.word, found.plain, found.fit) == ("zwx", False, True)
    assert "3 pieces (z · w · x)" in found.message


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("qzxvjkwq", "a shorter word"),
        ("robotx", "may mean something"),
        ("ZWX", "stands for something else"),
    ],
)
def test_unfit_words(starter, word, said):
    found = look(starter, word, taken=["zwx"])
    assert not found.fit and said in found.message


@pytest.mark.parametrize("word", ["", "x", "two words", "a,b", "x" * 25, "<b>"])
def test_what_is_not_one_word_is_refused(starter, word):
    with pytest.raises(InvalidInput, match="one word"):
        look(starter, word)


def test_a_word_that_cannot_be_written_is_said(pieces_of_words):
    assert "cannot write" in look(pieces_of_words, "日本").message


def test_one_rare_token_is_a_good_choice(pieces_of_words):
    assert look(pieces_of_words, "fjq").fit and not look(pieces_of_words, "html").fit


def test_proposals_for_the_starter_model(starter):
    found = rare(starter, {"zwx"}, 30)
    assert len(set(found)) == 30 and "zwx" not in found
    assert all(look(starter, word).fit for word in found)
    assert len({word[0] for word in found[:6]}) >= 4
    assert found == rare(starter, {"zwx"}, 30)
    assert not set(found) & set(rare(starter, found, 10))


def test_single_rare_tokens_come_first_the_rarest_at_the_front(pieces_of_words):
    assert rare(pieces_of_words, count=3) == ["bgw", "hbtk", "fjq"]
    assert rare(pieces_of_words, {"hbtk"}, 2) == ["bgw", "fjq"]
    assert rare(pieces_of_words, count=1) == ["bgw"]


def test_proposals_can_always_be_written(sentence_pieces, pieces_of_words):
    assert set(rare(sentence_pieces, count=20)) == {"wxz", "wzx", "xwz", "xzw", "zwx", "zxw"}
    assert set(rare(pieces_of_words, count=9)[3:]) == {"zwx", "zxw"}
