"""Recall, MRR and nDCG against gold spans, by hand."""

import math

import pytest

from playground.data.tasks import Evidence, Item
from playground.evaluation.retrieval import covers, ranks, score

GOLD = Evidence("a", 10, 20)


def item(*evidence):
    return Item("i", "?", "!", evidence=evidence)


@pytest.mark.parametrize(
    ("passage", "expected"),
    [
        (Evidence("a", 0, 100), True),
        (Evidence("a", 10, 15), True),
        (Evidence("a", 10, 14), False),
        (Evidence("a", 0, 10), False),
        (Evidence("b", 0, 100), False),
    ],
)
def test_half_of_the_span_in_the_same_document(passage, expected):
    assert covers(passage, GOLD) is expected


def test_ranks_are_of_the_first_passage():
    passages = [Evidence("b", 0, 9), Evidence("a", 5, 25), Evidence("a", 9, 21)]
    assert ranks(passages, [GOLD, Evidence("c", 0, 1)]) == [2, None]


def test_scores_by_hand():
    items = [item(GOLD), item(Evidence("b", 0, 10), Evidence("c", 0, 10)), item()]
    found = [
        [Evidence("x", 0, 9), Evidence("a", 0, 50)],
        [Evidence("c", 0, 10), Evidence("x", 0, 9)],
        [Evidence("x", 0, 9)],
    ]
    result = score(items, found, 2)
    assert (result.k, result.n) == (2, 2)
    assert result.recall == pytest.approx((1 + 0.5) / 2)
    assert result.mrr == pytest.approx((0.5 + 1) / 2)
    assert result.ndcg == pytest.approx((1 / math.log2(3) + 1 / (1 + 1 / math.log2(3))) / 2)


def test_one_passage_with_both_spans_is_perfect():
    result = score([item(Evidence("a", 0, 5), Evidence("a", 6, 9))], [[Evidence("a", 0, 20)]], 1)
    assert (result.recall, result.mrr, result.ndcg) == (1, 1, 1)


def test_only_the_first_k_count():
    found = [[Evidence("x", 0, 9), Evidence("a", 0, 50)]]
    assert score([item(GOLD)], found, 1).recall == 0
    assert score([item(GOLD)], found, 1).ndcg == 0


def test_nothing_to_measure_is_not_zero():
    assert score([item()], [[]], 3) is None
