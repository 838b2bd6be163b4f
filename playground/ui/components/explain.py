"""Explainers: small pictures that follow the sliders beside them."""

import math

from playground.ui.components.markup import safe

SIDE = 132  # pixels of the longer side of W


def low_rank(d: float, n: float, k: float) -> str:
    """W = W0 + λ · A · B, to scale, with the counts for d × n weights and rank k.

    Args:
        d: rows of W.
        n: columns of W.
        k: rank: columns of A and rows of B.
    """
    d, n, k = int(d), int(n), int(k)
    full, thin = d * n, k * (d + n)
    height, width = _scaled(d, max(d, n)), _scaled(n, max(d, n))
    rank = max(4, round(SIDE * min(1.0, math.sqrt(k / max(d, n)))))
    saved = (
        f"{full / thin:,.0f} times fewer"
        if thin < full
        else "no fewer: the rank is too high to save anything"
    )
    return (
        '<div class="pg-rank">'
        f"{_box('W₀', d, n, height, width, 'frozen')}<span>+ λ ·</span>"
        f"{_box('A', d, k, height, min(rank, SIDE), 'trained')}<span>·</span>"
        f"{_box('B', k, n, min(rank, SIDE), width, 'trained')}</div>"
        '<dl class="pg-facts">'
        f"<div><dt>Whole matrix, d · n</dt><dd>{full:,}</dd></div>"
        f"<div><dt>LoRA, k · (d + n)</dt><dd>{thin:,}</dd></div>"
        f"<div><dt>Trained</dt><dd>{thin / full * 100:.2f} %, {saved}</dd></div></dl>"
        '<p class="pg-muted">W₀ stays as it is. A begins random and B at zero, so training starts from the model as it '
        "was; λ = alpha / rank says how much the update counts. Merged, A · B costs nothing when answering. The thin "
        "sides are drawn wider than to scale.</p>"
    )


def _scaled(side: int, longest: int) -> int:
    return max(20, round(SIDE * side / longest))


def _box(name: str, rows: int, columns: int, height: int, width: int, kind: str) -> str:
    return (
        f'<figure class="pg-{kind}"><div style="height:{height}px;width:{width}px"><b>{safe(name)}</b></div>'
        f"<figcaption>{rows:,} × {columns:,}</figcaption></figure>"
    )
