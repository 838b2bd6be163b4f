"""Intervals and paired tests: how sure a measured quality or a difference is.

Two methods answer the same items, so they are compared item by item; that needs far fewer items
than comparing two independent shares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from playground.errors import InvalidInput

RESAMPLES = 10_000
FEWEST = 6  # items that differ, all in one direction, before an exact two-sided p value is below 0.05: 2 / 2⁶


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; ``low`` and ``high`` in the unit of what was measured."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A against B on the ``n`` items that both answered.

    ``difference`` is mean score A − B (shares, −1..1), ``low``/``high`` its 95 % bootstrap interval (of shares that
    differ by the same on every item ``newcombe``'s: resampling would show no width), ``p_value`` two-sided.
    ``detectable`` is the gap that ``n`` items can show (see ``detectable_difference``), ``verdict`` a sentence.
    """

    n: int
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    detectable: float
    verdict: str


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22).

    Raises:
        ValueError: ``n`` is 0, or ``successes`` is not within 0..n.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is no proportion")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    margin = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # exactly 0 and 1 at the ends, where rounding would leave 1e-18
    low = 0.0 if successes == 0 else (centre - margin) / scale
    return Interval(low, 1.0 if successes == n else (centre + margin) / scale)


def mean_interval(
    values: Sequence[float], seed: int = 0, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap interval of a mean (Efron 1979), seeded.

    Raises:
        ValueError: there are no values.
    """
    if len(values) == 0:
        raise ValueError("no values")
    means = _resampled_means(np.asarray(values, dtype=np.float64), seed, resamples)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(low), float(high))


def paired_interval(
    a: Sequence[float],
    b: Sequence[float],
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Bootstrap interval of mean(a − b) over items, ``a[i]`` and ``b[i]`` being the same item.

    Raises:
        ValueError: the lengths differ, or are 0.
    """
    return mean_interval(_differences(a, b), seed, confidence, resamples)


def newcombe(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval of mean(a − b) of paired shares from both shares' Wilson intervals (Newcombe 1998, Statistics in
    Medicine 17, 2635–2650, method 10, without its correction of the correlation).

    Args:
        a, b: 0 or 1 for each item; ``a[i]`` and ``b[i]`` are the same item.

    Raises:
        ValueError: the lengths differ, or are 0.
    """
    difference = float(np.mean(_differences(a, b)))
    one, other = (wilson(round(sum(scores)), len(scores), confidence) for scores in (a, b))
    up = np.mean(a), one.low, one.high
    down = np.mean(b), other.low, other.high
    related = float(np.corrcoef(a, b)[0, 1]) if 0 < up[0] < 1 and 0 < down[0] < 1 else 0.0

    def margin(x: float, y: float) -> float:
        return sqrt(max(0.0, x * x - 2 * related * x * y + y * y))

    low = difference - margin(up[0] - up[1], down[2] - down[0])
    return Interval(low, difference + margin(up[2] - up[0], down[0] - down[1]))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p value of McNemar's test (McNemar 1947; exact binomial form).

    Args:
        only_a: items that only A got right.
        only_b: items that only B got right.
    """
    n = only_a + only_b
    ways = tail = 1
    for k in range(min(only_a, only_b)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def sign_flip(a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided p value of mean(a − b) = 0 by randomly flipping signs (Fisher's randomisation test).

    Raises:
        ValueError: the lengths differ, or are 0.
    """
    differences = _differences(a, b)
    differences = differences[differences != 0]
    if len(differences) == 0:
        return 1.0
    generator = np.random.default_rng(seed)
    seen = abs(differences.sum()) - 1e-12
    extreme = 0
    for size in _chunks(resamples, len(differences)):
        signs = generator.integers(0, 2, (size, len(differences))) * 2 - 1
        extreme += int((abs(signs @ differences) >= seen).sum())
    return (extreme + 1) / (resamples + 1)


def detectable_difference(
    n: int, discordant: float = 0.2, confidence: float = 0.95, power: float = 0.8
) -> float:
    """The smallest difference of two paired shares that ``n`` items show with the given power.

    δ = (z₁₋α⸝₂ + z_power) · √(discordant / n): the sample-size formula of McNemar's test (Miettinen
    1968, Biometrics 24; Connor 1987, Biometrics 43) without its small δ² term. ``discordant`` is
    the share of items that exactly one of the two gets right; with 0.2, 50 items show 18 points
    and 200 items 9. Few items show less than the formula says, because the test is exact: a gap of ``FEWEST`` items at
    least, and fewer items than that show none (1 then).

    Raises:
        ValueError: ``n`` is below 1.
    """
    if n < 1:
        raise ValueError("n must be at least 1")
    normal = NormalDist()
    z = normal.inv_cdf(0.5 + confidence / 2) + normal.inv_cdf(power)
    return min(1.0, max(z * sqrt(discordant / n), FEWEST / n))


def compare(
    samples_a: Sequence[Mapping[str, Any]],
    samples_b: Sequence[Mapping[str, Any]],
    name_a: str = "A",
    name_b: str = "B",
    seed: int = 0,
) -> Comparison:
    """Compare two runs by the data of their test samples, on the items that both answered.

    Shares are tested with McNemar's exact test, other scores by sign flipping.

    Raises:
        InvalidInput: no item was answered by both.
    """
    scores_b = {sample["item"]: float(sample["score"]) for sample in samples_b}
    pairs = [
        (float(sample["score"]), scores_b[sample["item"]])
        for sample in samples_a
        if sample["item"] in scores_b
    ]
    if not pairs:
        raise InvalidInput("The two runs have no test item in common, so they cannot be compared.")
    a, b = (list(scores) for scores in zip(*pairs, strict=True))
    difference = float(np.mean(_differences(a, b)))
    interval = paired_interval(a, b, seed)
    if set(a) | set(b) <= {0.0, 1.0}:
        test = "McNemar, exact"
        interval = newcombe(a, b) if interval.low == interval.high else interval
        p_value = mcnemar(sum(x > y for x, y in pairs), sum(x < y for x, y in pairs))
    else:
        test = "sign flip"
        p_value = sign_flip(a, b, seed)
    detected = p_value < 0.05 and (interval.low > 0 or interval.high < 0)
    return Comparison(
        n=len(pairs),
        difference=difference,
        low=interval.low,
        high=interval.high,
        p_value=p_value,
        test=test,
        detectable=detectable_difference(len(pairs)),
        verdict=_verdict(detected, difference, interval, len(pairs), name_a, name_b),
    )


def _verdict(detected: bool, difference: float, interval: Interval, n: int, a: str, b: str) -> str:
    items = f"{n} item{'' if n == 1 else 's'}"
    if n < FEWEST:
        return f"no detectable difference on {items} (at least {FEWEST} are needed to show any)"
    if not detected:
        return (
            f"no detectable difference on {items} "
            f"(with {items} only a gap of about {100 * detectable_difference(n):.0f} points shows)"
        )
    winner, sign = (a, 1) if difference > 0 else (b, -1)
    low, high = sorted((sign * interval.low, sign * interval.high))
    return (
        f"{winner} is better by {100 * abs(difference):.1f} points "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}, {items})"
    )


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"{len(a)} and {len(b)} scores cannot be paired")
    return np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)


def _resampled_means(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [
            values[generator.integers(0, len(values), (size, len(values)))].mean(axis=1)
            for size in _chunks(resamples, len(values))
        ]
    )


def _chunks(resamples: int, n: int) -> list[int]:
    """Parts of ``resamples`` whose index arrays stay below about 16 MB each."""
    size = max(1, 2_000_000 // n)
    return [min(size, resamples - start) for start in range(0, resamples, size)]
