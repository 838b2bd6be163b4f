"""Statistics against published and independently computed values."""

from math import comb

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


@pytest.mark.parametrize("n", range(1, 25))
def test_no_gap_below_the_detectable_one_is_found_on_few_items(n):
    gap = statistics.detectable_difference(n)
    found = [k for k in range(n + 1) if statistics.mcnemar(k, 0) < 0.05]
    assert gap == 1.0 if not found else min(found) / n <= gap
    words = statistics.compare(samples([1] * n), samples([0] * n)).verdict
    assert words.startswith("A is better" if found else f"no detectable difference on {n} item")


def test_shares_that_differ_alike_on_every_item_have_an_interval_with_a_width():
    # both Wilson intervals reach 0.3903 inwards; √2 times that
    found = statistics.compare(samples([1] * 6), samples([0] * 6))
    assert (found.low, found.high) == (pytest.approx(1 - 0.39033 * 2**0.5, abs=1e-4), 1.0)
    same = statistics.compare(samples([1] * 10), samples([1] * 10))
    assert -same.low == same.high == pytest.approx(0.2775, abs=1e-4)


@pytest.mark.parametrize("shares", [(0.72, 0.24, 0.04), (0.4, 0.1, 0.1), (0.02, 0.9, 0.02)])
def test_newcombes_interval_holds_the_true_difference_as_often_as_it_says(shares):
    both, only_a, only_b = shares
    generator, held = np.random.default_rng(3), []
    for _ in range(600):
        drawn = generator.choice(4, 40, p=[both, only_a, only_b, 1 - sum(shares)])
        found = statistics.newcombe(np.isin(drawn, [0, 1]), np.isin(drawn, [0, 2]))
        held.append(found.low <= only_a - only_b <= found.high)
    assert 0.92 < np.mean(held) <= 1.0


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 9), (12, 5), (40, 61)])
def test_mcnemar_is_the_binomial_test(one, other):
    n = one + other
    tail = sum(comb(n, k) for k in range(min(one, other) + 1)) / 2**n
    assert statistics.mcnemar(one, other) == pytest.approx(min(1.0, 2 * tail))


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
