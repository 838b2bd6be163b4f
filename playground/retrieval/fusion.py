"""Join rankings (by score or by rank) and keep a result varied (maximal marginal relevance)."""

from collections.abc import Sequence

import numpy as np

DENSE_WEIGHT = 0.6


def score_fusion(
    dense: dict[int, float], lexical: dict[int, float], weight: float = DENSE_WEIGHT
) -> list[tuple[int, float]]:
    """Fuse scores by row number: each kind relative to its best, ``weight`` for the dense one, best first.

    Unlike ranks, scores say by how much a row is better: an exact code stands out in BM25 even where
    all vectors are alike. Rows that one kind lacks count 0 there. Bruch, Gai, Ingber 2023,
    arXiv:2210.11934 (convex combination with the theoretical minimum 0).
    """
    best_dense = max(dense.values(), default=0.0)
    best_lexical = max(lexical.values(), default=0.0)
    rows = dict.fromkeys([*dense, *lexical])
    scores = {
        row: weight * _share(dense.get(row, 0.0), best_dense)
        + (1 - weight) * _share(lexical.get(row, 0.0), best_lexical)
        for row in rows
    }
    return sorted(scores.items(), key=lambda pair: -pair[1])


def _share(value: float, best: float) -> float:
    return max(0.0, value) / best if best > 0 else 0.0


def reciprocal_rank_fusion(rankings: Sequence[Sequence[int]], constant: int = 60) -> list[tuple[int, float]]:
    """Fuse rankings of row numbers: score = Σ 1 / (constant + rank), best first.

    Equal scores keep the order of the first ranking. Cormack, Clarke, Büttcher 2009 (SIGIR).
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, start=1):
            scores[row] = scores.get(row, 0.0) + 1.0 / (constant + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])


def maximal_marginal_relevance(
    relevance: Sequence[float], vectors: np.ndarray, k: int, diversity: float
) -> list[int]:
    """Choose ``k`` positions, each relevant and unlike those chosen before. Carbonell, Goldstein 1998.

    Args:
        relevance: of each candidate, any scale.
        vectors: float (n, d), L2-normalised.
        k: how many to choose.
        diversity: 0 = relevance alone, 1 = unlikeness alone.
    """
    values = np.asarray(relevance, dtype=np.float32)
    if not len(values):
        return []
    spread = float(values.max() - values.min())
    values = (values - values.min()) / spread if spread else np.ones_like(values)
    nearest = np.zeros(len(values), dtype=np.float32)  # likeness to the nearest one chosen
    free = np.ones(len(values), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < min(k, len(values)):
        worth = np.where(free, (1 - diversity) * values - diversity * nearest, -np.inf)
        best = int(worth.argmax())
        chosen.append(best)
        free[best] = False
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return chosen
