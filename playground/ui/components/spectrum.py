"""The spectrum of a trained LoRA update: how much of each layer's ΔW each rank holds."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from playground.ui.components.markup import facts, safe

SHOWN = 16  # ranks drawn one by one; what the others hold is drawn together
CELL, GAP, LEFT, TOP = 16, 26, 34, 8


def picture(layers: Sequence[Any]) -> str:
    """All layers × ranks, one field a kind of layer, and the figures below.

    Args:
        layers: ``training.spectrum.LayerSpectrum``.
    """
    kinds: dict[str, list[Any]] = {}
    for layer in layers:
        kinds.setdefault(layer.kind, []).append(layer)
    fields = "".join(_field(kind, own) for kind, own in kinds.items())
    ranks = [layer.effective_rank for layer in layers]
    strongest = max(layers, key=lambda layer: layer.norm)
    figures = facts(
        (
            ("Layers", f"{len(layers)}"),
            ("Rank", f"{max(len(layer.values) for layer in layers)}"),
            ("Effective rank, median", f"{median(ranks):.1f}"),
            ("Lowest and highest", f"{min(ranks):.1f} to {max(ranks):.1f}"),
            ("First rank holds, median", f"{median(layer.shares[0] for layer in layers) * 100:.0f} %"),
            ("Largest update", f"{strongest.name.removeprefix('model.')} (norm {strongest.norm:.3g})"),
        )
    )
    return (
        f'{figures}<div class="pg-spectra">{fields}</div>'
        '<p class="pg-muted">Each column is a transformer block, each row a rank, the strongest on top. The stronger a '
        "cell's colour, the more of that layer's ΔW (of its squared Frobenius norm) the rank holds. Effective rank: exp of the "
        "entropy of the singular values; near 1 a smaller rank would have done, near the rank a larger one might "
        "learn more.</p>"
    )


def _field(kind: str, layers: Sequence[Any]) -> str:
    most = max(len(layer.values) for layer in layers)
    rows = min(most, SHOWN) + (most > SHOWN)
    cells = "".join(
        f'<rect x="{LEFT + x * CELL}" y="{TOP + y * CELL}" style="--heat:{share * 100:.0f}%">'
        f"<title>{safe(layer.name)}: rank {_rank(y, most)} holds {share * 100:.1f} %</title></rect>"
        for x, layer in enumerate(layers)
        for y, share in enumerate(_shares(layer.shares))
    )
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{TOP + y * CELL + 12}" text-anchor="end">{_rank(y, most)}</text>'
        for y in range(rows)
        if y == 0 or y % 4 == 3 or rows <= 4 or y == rows - 1
    )
    blocks = "".join(
        f'<text x="{LEFT + x * CELL + CELL / 2}" y="{TOP + rows * CELL + 14}" text-anchor="middle">{layer.block}</text>'
        for x, layer in enumerate(layers)
        if layer.block is not None and x % 5 == 0
    )
    width, height = LEFT + len(layers) * CELL + 4, TOP + rows * CELL + GAP
    effective = median(layer.effective_rank for layer in layers)
    return (
        f"<figure><figcaption><b>{safe(kind)}</b> {layers[0].rows:,} × {layers[0].columns:,}, effective rank "
        f'{effective:.1f}</figcaption><svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="{safe(kind)}: share of each rank by block">{cells}{ticks}{blocks}</svg></figure>'
    )


def _shares(shares: Sequence[float]) -> list[float]:
    rest = [sum(shares[SHOWN:])] if len(shares) > SHOWN else []
    return [*shares[:SHOWN], *rest]


def _rank(row: int, most: int) -> str:
    return str(row + 1) if row < SHOWN else f"{SHOWN + 1}–{most}"
