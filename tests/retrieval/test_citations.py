"""Citations: which passage sentence bears out which answer sentence, with exact spans."""

from dataclasses import dataclass

import numpy as np

from playground.retrieval.citations import cite

TEXT = "Intro.\n\nDogs travel free on every boat. A single ticket costs £6.40. Cats pay half."


@dataclass
class Found:
    document: str
    start: int
    text: str


PASSAGES = [Found("other", 0, "Swans nest in May."), Found("fares", 8, TEXT[8:])]


def test_each_sentence_gets_its_source():
    answer = "A single costs £6.40. Swans nest in May."
    first, second = cite(answer, PASSAGES)
    assert answer[first.start : first.end] == "A single costs £6.40."
    assert (first.document, first.passage) == ("fares", 1)
    assert TEXT[first.source_start : first.source_end] == "A single ticket costs £6.40."
    assert (second.document, second.passage, second.score) == ("other", 0, 1.0)


def test_a_short_answer_is_enough():
    [citation] = cite("£6.40", PASSAGES)
    assert TEXT[citation.source_start : citation.source_end] == "A single ticket costs £6.40."


def test_a_wrong_number_is_not_cited():
    assert cite("A single ticket costs £7.40.", PASSAGES) == []


def test_what_has_no_source_is_not_cited():
    assert cite("Lions roar at midnight.", PASSAGES) == []
    assert cite("", PASSAGES) == []
    assert cite("Dogs travel free.", []) == []
    assert cite("!!!", PASSAGES) == []


def test_an_embedder_has_its_say():
    class Opposite:
        def encode(self, texts):
            vectors = np.zeros((len(texts), 2), dtype=np.float32)
            vectors[:, 1] = 1
            vectors[0] = (1, 0)  # the answer is unlike everything
            return vectors

    [plain] = cite("Dogs travel free.", PASSAGES)
    [judged] = cite("Dogs travel free.", PASSAGES, Opposite(), least=0.1)
    assert judged.score == plain.score / 2
