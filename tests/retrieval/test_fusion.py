"""Reciprocal rank fusion and maximal marginal relevance."""

import numpy as np
import pytest

from playground.retrieval.fusion import maximal_marginal_relevance, reciprocal_rank_fusion, score_fusion


def test_fusion_adds_reciprocal_ranks():
    fused = dict(reciprocal_rank_fusion([[7, 8], [8, 9]], constant=60))
    assert fused == pytest.approx({8: 1 / 62 + 1 / 61, 7: 1 / 61, 9: 1 / 62})


def test_fusion_order_and_ties():
    assert [row for row, _ in reciprocal_rank_fusion([[1, 2], [3, 2]])] == [2, 1, 3]
    assert reciprocal_rank_fusion([[], []]) == []


def test_scores_are_relative_to_their_best():
    fused = score_fusion({1: 0.8, 2: 0.4}, {2: 6.0, 3: 3.0}, weight=0.6)
    assert dict(fused) == pytest.approx({1: 0.6, 2: 0.7, 3: 0.2})
    assert [row for row, _ in fused] == [2, 1, 3]


def test_scores_without_any_match():
    assert score_fusion({}, {}) == []
    assert score_fusion({1: -0.1}, {}) == [(1, 0.0)]


def test_relevance_alone_keeps_the_order():
    vectors = np.eye(4, dtype=np.float32)
    assert maximal_marginal_relevance([0.1, 0.9, 0.5, 0.3], vectors, 3, 0.0) == [1, 2, 3]


def test_a_twin_gives_way():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert maximal_marginal_relevance([1.0, 0.9, 0.5], vectors, 2, 0.0) == [0, 1]
    assert maximal_marginal_relevance([1.0, 0.9, 0.5], vectors, 2, 0.7) == [0, 2]


def test_edges():
    assert maximal_marginal_relevance([], np.zeros((0, 2), dtype=np.float32), 3, 0.5) == []
    assert maximal_marginal_relevance([1.0, 1.0], np.eye(2, dtype=np.float32), 9, 1.0) == [0, 1]
