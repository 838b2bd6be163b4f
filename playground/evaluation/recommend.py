"""Which step of an image model's training to keep, from what was measured while it trained.

Training longer brings the subject closer, and takes the class and the prompts away: the highest subject
fidelity alone picks a model that copies its training pictures. So fidelity decides only among the looks
that stay within bounds of drift and of memorisation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TIE = 0.01  # fidelities that differ by less are equal: a look draws few pictures


@dataclass(frozen=True)
class Point:
    """What one look measured; the names are those of the metrics, None = not measured."""

    step: int
    subject_fidelity: float | None = None
    prompt_fidelity: float | None = None
    class_drift: float | None = None
    diversity: float | None = None
    memorisation: float | None = None


@dataclass(frozen=True)
class Bounds:
    """The highest drift of the class, and the highest similarity to a training picture, of a step to keep.

    Both depend on who judges: ``playground.evaluation.image.bounds_of`` takes them from real pictures and
    from the base model's. The defaults are for where that cannot be done.
    """

    class_drift: float = 0.25
    memorisation: float = 0.95


@dataclass(frozen=True)
class Advice:
    """The step to keep, and why in one sentence. ``within`` is whether that step stays within the bounds."""

    step: int
    within: bool
    reason: str


def advise(points: Sequence[Point], bounds: Bounds | None = None) -> Advice:
    """The step to keep.

    The rule: of the looks after step 0 whose drift and memorisation are within the bounds, the one with the
    highest subject fidelity; of those less than ``TIE`` below it, the earliest. When none is within the
    bounds, the one that oversteps them least, measured as a share of the bound. A value that was not
    measured oversteps nothing. Step 0, the base model, is kept only where there is no other look.

    Raises:
        ValueError: no point has a subject fidelity.
    """
    bounds = bounds or Bounds()
    known = sorted((p for p in points if _finite(p.subject_fidelity)), key=lambda point: point.step)
    if not known:
        raise ValueError("No look has measured the subject's fidelity.")
    trained = [point for point in known if point.step > 0] or known
    inside = [point for point in trained if _excess(point, bounds) <= 1]
    if not inside:
        least = min(trained, key=lambda point: _excess(point, bounds))
        return Advice(
            least.step,
            False,
            f"No look stays within the bounds ({_words(bounds)}); step {least.step} oversteps them least. "
            "Train with a lower learning rate, or with prior preservation.",
        )
    best = max(point.subject_fidelity for point in inside)
    kept = next(
        point for point in inside if best - point.subject_fidelity < TIE or point.subject_fidelity == best
    )
    return Advice(
        kept.step,
        True,
        f"Step {kept.step} has a subject fidelity of {kept.subject_fidelity:.3f}, the highest (or less than {TIE} "
        f"below it, and earlier) of the {len(inside)} of {len(trained)} looks within the bounds ({_words(bounds)}).",
    )


def recommend(points: Sequence[Point], bounds: Bounds | None = None) -> int:
    """The step that ``advise`` advises.

    Raises:
        ValueError: no point has a subject fidelity.
    """
    return advise(points, bounds).step


def _excess(point: Point, bounds: Bounds) -> float:
    """The larger of drift and memorisation as a share of its bound; above 1 it is overstepped."""
    told = ((point.class_drift, bounds.class_drift), (point.memorisation, bounds.memorisation))
    shares = [_share(value, bound) for value, bound in told if value is not None]
    return max(shares, default=0.0)


def _share(value: float, bound: float) -> float:
    if not math.isfinite(value):
        return math.inf
    if bound > 0:
        return value / bound
    return math.inf if value > bound else 0.0


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _words(bounds: Bounds) -> str:
    return f"drift up to {bounds.class_drift:.3f}, similarity to a training picture up to {bounds.memorisation:.3f}"
