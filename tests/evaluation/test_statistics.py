"""Statistics against published and independently computed values."""

import numpy as np
import pytest

from playground.errors import InvalidInput
from playground.evaluation import statistics


def test_wilson_matches_published_values():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ]:
        interval = statistics.wilson(successes, n)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
    assert statistics.wilson(29, 29).high == 1.0
    assert statistics.wilson(1, 29).low == pytest.approx(0.0061, abs=1e-4)


def test_wilson_refuses_what_is_no_proportion():
    for successes, n in [(0, 0), (3, 2), (-1, 4)]:
        with pytest.raises(ValueError):
            statistics.wilson(successes, n)


def test_mcnemar_exact_is_the_binomial_test():
    assert statistics.mcnemar(0, 0) == 1.0
    assert statistics.mcnemar(5, 5) == 1.0
    assert statistics.mcnemar(0, 6) == pytest.approx(2 / 64)
    assert statistics.mcnemar(10, 2) == statistics.mcnemar(2, 10) == pytest.approx(0.03857421875)


def test_bootstrap_of_a_mean_is_near_the_normal_interval_and_seeded():
    values = np.random.default_rng(1).normal(0.4, 0.2, 400)
    interval = statistics.mean_interval(values, seed=3)
    margin = 1.96 * values.std(ddof=1) / 20
    assert interval.low == pytest.approx(values.mean() - margin, abs=0.003)
    assert interval.high == pytest.approx(values.mean() + margin, abs=0.003)
    assert interval == statistics.mean_interval(values, seed=3)
    assert interval != statistics.mean_interval(values, seed=4)


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(0)
    b = generator.random(100)
    a = b + 0.05
    paired = statistics.paired_interval(a, b)
    assert (paired.low, paired.high) == pytest.approx((0.05, 0.05))
    with pytest.raises(ValueError):
        statistics.paired_interval([1.0], [1.0, 0.0])


def test_sign_flip_agrees_with_the_exact_test_on_shares():
    a, b = [1.0] * 10 + [0.0] * 2 + [1.0] * 30, [0.0] * 10 + [1.0] * 2 + [1.0] * 30
    assert statistics.sign_flip(a, b) == pytest.approx(statistics.mcnemar(10, 2), abs=0.01)
    assert statistics.sign_flip(a, a) == 1.0


def test_detectable_difference_at_50_and_200_items():
    assert round(100 * statistics.detectable_difference(50)) == 18
    assert round(100 * statistics.detectable_difference(200)) == 9
    assert statistics.detectable_difference(1) == 1.0


def test_a_difference_of_the_detectable_size_is_found_about_as_often_as_promised():
    generator = np.random.default_rng(5)
    n, gap = 200, statistics.detectable_difference(200)
    only_a = (0.2 + gap) / 2
    draws = generator.multinomial(n, [only_a, 0.2 - only_a, 0.8], size=400)
    found = np.mean([statistics.mcnemar(int(x), int(y)) < 0.05 for x, y, _ in draws])
    assert 0.7 < found < 0.9


def samples(scores, start=0):
    return [{"item": f"i{n}", "score": value} for n, value in enumerate(scores, start)]


def test_compare_uses_the_common_items_only():
    result = statistics.compare(samples([1, 1, 1, 0]), samples([0, 1, 0, 1], start=2), "LoRA", "RAG")
    assert result.n == 2
    assert result.difference == pytest.approx(0.0)
    assert result.verdict.startswith("no detectable difference on 2 items")
    with pytest.raises(InvalidInput, match="no test item in common"):
        statistics.compare(samples([1]), samples([1], start=5))


def test_compare_names_the_better_one_from_either_side():
    better, worse = samples([1] * 40 + [0] * 10), samples([1] * 20 + [0] * 30)
    first = statistics.compare(better, worse, "LoRA", "Zero-shot")
    second = statistics.compare(worse, better, "Zero-shot", "LoRA")
    assert first.test == "McNemar, exact"
    assert first.p_value == second.p_value < 0.001
    assert first.difference == -second.difference == pytest.approx(0.4)
    for result in (first, second):
        assert result.verdict.startswith("LoRA is better by 40.0 points (95 % interval 2")


def test_compare_takes_scores_between_0_and_1():
    a = np.clip(np.random.default_rng(0).normal(0.6, 0.2, 80), 0, 1)
    result = statistics.compare(samples(a), samples(a * 0.7))
    assert result.test == "sign flip"
    assert result.low < result.difference < result.high
    assert result.verdict.startswith("A is better")
