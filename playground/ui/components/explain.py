"""Explainers: small pictures that follow the fields beside them."""

import math
from collections.abc import Sequence

from playground.errors import InvalidInput
from playground.ui.components.markup import facts, safe

Matrix = list[list[float]]

# The guide's case: W0 is 4 × 5, A is 4 × 2, B is 2 × 5.
W0: Matrix = [[1, 0, -1, 2, 0], [0, 2, 1, -1, 1], [-2, 1, 0, 1, 0], [1, -1, 2, 0, -1]]
A: Matrix = [[1, 0], [0, 1], [1, -1], [0.5, 2]]
B: Matrix = [[1, 0, -1, 0, 2], [0, 1, 0.5, -1, 0]]
LARGEST = 1e6  # of a number in the small matrices

# d, n, k of matrices that people meet, for the counter
SIZES = {
    "The guide's case": (10_000, 10_000, 32),
    "An MLP layer of SmolLM2 135M": (576, 1_536, 8),
    "An MLP layer of Llama 3 8B": (4_096, 14_336, 16),
}
SIDE, THIN, GAP = (
    150,
    2,
    74,
)  # of the drawing to scale, in its own units: longest side, thinnest strip, between them


def low_rank(w0: Sequence, a: Sequence, b: Sequence, scale: float) -> str:
    """W = W0 + λ · A · B with every number drawn, coloured by sign and size.

    Args:
        w0: d × n, frozen.
        a: d × k, trained.
        b: k × n, trained.
        scale: λ.

    Raises:
        InvalidInput: a cell is empty, no number, or too large; the message says which.
    """
    w0, a, b = numbers(w0, "W₀"), numbers(a, "A"), numbers(b, "B")
    scale = numbers([[scale]], "λ")[0][0]
    update = [[scale * value for value in row] for row in product(a, b)]
    whole = [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(w0, update, strict=True)]
    top = max((abs(value) for matrix in (w0, update, whole) for row in matrix for value in row), default=0)
    d, k, n = len(a), len(b), len(b[0])
    return (
        '<div class="pg-heats">'
        f"{_heat('W₀', w0, top, 'frozen')}<span>+</span>{_heat('λ · A · B', update, top, 'trained')}"
        f"<span>=</span>{_heat('W', whole, top, '')}</div>"
        f'<p class="pg-muted">A and B hold {d} · {k} + {k} · {n} = {k * (d + n)} numbers, W₀ holds {d * n}: '
        "next to nothing is saved in so small a matrix, nearly everything in a large one, as below. "
        f"Every row of λ · A · B is a mixture of B's {k} rows: that is what “rank {k}” means. "
        "The paper and its files call the left matrix B and the right one A; the product is the same.</p>"
    )


def product(a: Matrix, b: Matrix) -> Matrix:
    """a · b."""
    return [
        [sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a
    ]


def numbers(cells: Sequence[Sequence], name: str) -> Matrix:
    """The cells of an editable grid as numbers.

    Raises:
        InvalidInput: a cell is empty, no number, or too large.
    """
    return [
        [_number(cell, f"{name}, row {i}, column {j}") for j, cell in enumerate(row, 1)]
        for i, row in enumerate(cells, 1)
    ]


def _number(cell: object, place: str) -> float:
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InvalidInput(f"{place}: “{'' if cell is None else cell}” is not a number.") from None
    if not abs(value) <= LARGEST:
        raise InvalidInput(f"{place}: give a number between {-LARGEST:,.0f} and {LARGEST:,.0f}.")
    return value


def _heat(name: str, matrix: Matrix, top: float, kind: str) -> str:
    rows = "".join(f"<tr>{''.join(_cell(value, top) for value in row)}</tr>" for row in matrix)
    size = f"{len(matrix)} × {len(matrix[0])}"
    words = {"frozen": " · frozen", "trained": " · trained", "": ""}[kind]
    return (
        f'<figure><table class="pg-heat" aria-label="{safe(name)}">{rows}</table>'
        f"<figcaption><b>{safe(name)}</b> {size}{words}</figcaption></figure>"
    )


def _cell(value: float, top: float) -> str:
    sign = "pg-above" if value > 0 else "pg-below" if value < 0 else ""
    share = abs(value) / top * 100 if top else 0
    return f'<td class="{sign}" style="--heat:{share:.0f}%">{value:.3g}</td>'


def count(d: float | None, n: float | None, k: float | None) -> str:
    """How many numbers LoRA trains instead of a whole d × n matrix, for rank k.

    Raises:
        InvalidInput: one of them is no whole number of at least 1.
    """
    d, n, k = (_whole(value, name) for value, name in ((d, "d"), (n, "n"), (k, "k")))
    full, thin = d * n, k * (d + n)
    if thin < full:
        less = f"{(1 - thin / full) * 100:.2f} % fewer: 1 number instead of {full / thin:,.3g}"
    else:
        less = f"no fewer: a rank of {math.ceil(full / (d + n)):,} or more saves nothing here"
    shown = facts(
        (("Whole matrix, d · n", f"{full:,}"), ("LoRA, k · (d + n)", f"{thin:,}"), ("Trained", less))
    )
    share = min(1.0, thin / full)
    part = f'<div class="pg-part" role="img" aria-label="{safe(less)}"><i style="width:{share * 100:.3f}%"></i></div>'
    return f"{shown}{part}{_to_scale(d, n, k)}"


def _to_scale(d: int, n: int, k: int) -> str:
    """The whole matrix beside A and B, as large as they are to each other; too thin ones are drawn thicker."""
    scale = SIDE / max(d, n)
    width, height, strip = (max(THIN, size * scale) for size in (n, d, k))
    left_a = width + GAP
    left_b = left_a + strip + GAP
    parts = (
        _matrix("ΔW", f"{d:,} × {n:,}", "pg-whole", 0, width, height),
        _matrix("A", f"{d:,} × {k:,}", "pg-strip-of", left_a, strip, height),
        _matrix("B", f"{k:,} × {n:,}", "pg-strip-of", left_b, width, strip),
    )
    signs = "".join(
        f'<text class="pg-sign" x="{at:.1f}" y="{SIDE / 2 + 5:.0f}">{sign}</text>'
        for at, sign in ((width + GAP / 2, "="), (left_a + strip + GAP / 2, "·"))
    )
    words = "Drawn to scale"
    if k * scale < THIN:
        words += f", but the strips {THIN / (k * scale):,.1f} times too thick: else nobody could see them"
    side = 40  # room for the words below a thin strip at the edge
    box = f"{-side} 0 {left_b + width + 2 * side:.0f} {SIDE + 44}"
    return (
        f'<figure class="pg-shapes"><svg viewBox="{box}" style="max-width:{left_b + width + 2 * side:.0f}px" role="img" '
        f'aria-label="ΔW, A and B to scale">{"".join(parts)}{signs}</svg><figcaption>{safe(words)}.</figcaption></figure>'
    )


def _matrix(name: str, size: str, kind: str, left: float, width: float, height: float) -> str:
    middle, top = left + width / 2, (SIDE - height) / 2
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1"/>'
        f'<text x="{middle:.1f}" y="{SIDE + 18}"><tspan class="pg-name">{name}</tspan>'
        f'<tspan x="{middle:.1f}" dy="16">{size}</tspan></text>'
    )


def _whole(value: float | None, name: str) -> int:
    if value is None or not math.isfinite(value) or value != int(value) or not 1 <= value <= 10**9:
        raise InvalidInput(f"{name} must be a whole number from 1 to a thousand million.")
    return int(value)
