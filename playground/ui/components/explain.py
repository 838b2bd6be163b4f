"""Explainers: small pictures that follow the fields beside them."""

import math
from collections.abc import Sequence
from decimal import Decimal

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
# of the drawing to scale, in its own units: longest side, thinnest strip, between them, a character of the words below
SIDE, THIN, GAP, CHARACTER = 150, 2, 37, 7


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
        fewer, times = Decimal(full - thin) / full * 100, Decimal(full) / thin
        less = (
            f"{_apart(fewer, 2, min(fewer, 100 - fewer))} % fewer: "
            f"1 number instead of {_apart(times, 2 - times.adjusted(), times - 1)}"
        )
    else:
        less = f"no fewer: a rank of {-(-full // (d + n)):,} or more saves nothing here"
    shown = facts(
        (("Whole matrix, d · n", f"{full:,}"), ("LoRA, k · (d + n)", f"{thin:,}"), ("Trained", less))
    )
    share = min(1.0, thin / full)
    part = f'<div class="pg-part" role="img" aria-label="{safe(less)}"><i style="width:{share * 100:.3f}%"></i></div>'
    return f"{shown}{part}{_to_scale(d, n, k)}"


def _apart(value: Decimal, decimals: int, distance: Decimal) -> str:
    """A number with so many decimals, or as many as it takes to see its ``distance`` from what it must not be taken for."""
    return f"{value:,.{max(0, decimals, -distance.adjusted())}f}"


def _to_scale(d: int, n: int, k: int) -> str:
    """The whole matrix beside A and B, as large as they are to each other; too thin ones are drawn thicker."""
    scale = SIDE / max(d, n, k)
    parts, edges, thick, left = [], [], [], 0.0
    for name, *sides in (("ΔW", d, n), ("A", d, k), ("B", k, n)):
        height, width = (max(THIN, side * scale) for side in sides)
        size = f"{sides[0]:,} × {sides[1]:,}"
        room = max(width, CHARACTER * len(size))
        at = left + (room - width) / 2
        parts.append(_matrix(name, size, "pg-strip-of" if parts else "pg-whole", at, width, height))
        edges.append((at, at + width))
        left += room + GAP
        if min(sides) * scale < THIN:
            thick.append(name)
    signs = "".join(
        f'<text class="pg-sign" x="{(before[1] + after[0]) / 2:.1f}" y="{SIDE / 2 + 5:.0f}">{sign}</text>'
        for sign, before, after in zip("=·", edges[:-1], edges[1:], strict=True)
    )
    whole = f"{left - GAP:.0f}"
    return (
        f'<figure class="pg-shapes"><svg viewBox="0 0 {whole} {SIDE + 44}" style="max-width:{whole}px" role="img" '
        f'aria-label="ΔW, A and B to scale">{"".join(parts)}{signs}</svg>'
        f"<figcaption>{safe(_scale_words(thick, THIN / (min(d, n, k) * scale)))}.</figcaption></figure>"
    )


def _scale_words(thick: Sequence[str], times: float) -> str:
    """Whether all is drawn to scale; a side that is too thin belongs to two of the matrices, or to all."""
    if not thick:
        return "Drawn to scale"
    names = f"{', '.join(thick[:-1])} and {thick[-1]}"
    much = f"{times:,.{1 if times < 100 else 0}f}"
    return f"Drawn to scale, but {names} up to {much} times too thick: else nobody could see them"


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
