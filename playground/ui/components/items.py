"""Test answers item by item, before and after; and which label was taken for which."""

from collections.abc import Mapping, Sequence

from playground.results.items import CHANGES, NOW, Answer, Confusion, Item
from playground.ui.components.markup import empty, safe

TONES = {"was-right-is-wrong": "bad", "was-wrong-is-right": "good"}


def summary(counts: Mapping[str, int], compared: bool) -> str:
    """How many items are of each kind."""
    names = CHANGES if compared else NOW
    cells = "".join(
        f'<div class="pg-{TONES.get(name, "even")}"><b>{counts[name]}</b><span>{safe(words)}</span></div>'
        for name, words in names.items()
    )
    return f'<div class="pg-flips">{cells}</div>'


def page(items: Sequence[Item], before: str, after: str) -> str:
    """Some items, before and after side by side.

    Args:
        before: what the base model's answers are called, "Zero-shot, #3".
        after: what the run's answers are called.
    """
    if not items:
        return empty("No item is left", "Choose another kind, part or label.")
    return "".join(_item(item, before, after) for item in items)


def _item(item: Item, before: str, after: str) -> str:
    group = f'<span class="pg-pill">{safe(item.group)}</span>' if item.group else ""
    told = [(before, item.before), (after, item.after)] if item.before else [(after, item.after)]
    cells = "".join(_said(name, answer) for name, answer in told)
    return (
        f'<article class="pg-answer pg-{"good" if item.after.correct else "bad"}"><p>{safe(item.input)}</p>'
        f"<dl>{cells}</dl><small>Expected: {safe(item.target)}</small> {group}</article>"
    )


def _said(name: str, answer: Answer) -> str:
    mark = "right" if answer.correct else "wrong"
    if not answer.valid:
        mark += ", not in the form asked for"
    tone = "good" if answer.correct else "bad"
    return (
        f'<div><dt>{safe(name)} <span class="pg-{tone}">{mark}</span></dt>'
        f"<dd>{safe(answer.text) or '<i>nothing</i>'}</dd></div>"
    )


def confusion(found: Confusion, caption: str) -> str:
    """Targets down, predictions across; the diagonal is right."""
    most = max(found.counts.values())
    heads = "".join(f'<th scope="col">{_name(column)}</th>' for column in found.columns)
    lines = []
    for row in found.rows:
        cells = "".join(
            _cell(found.counts.get((row, column), 0), most, row == column) for column in found.columns
        )
        lines.append(f'<tr><th scope="row">{safe(row)}</th>{cells}</tr>')
    return (
        f'<figure class="pg-confusion"><figcaption>{safe(caption)}</figcaption>'
        '<div class="pg-table-scroll" tabindex="0" role="region" aria-label="Confusion"><table>'
        f"<thead><tr><td>Target ↓ Answer →</td>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></figure>"
    )


def _name(column: str | None) -> str:
    return "<i>none of them</i>" if column is None else safe(column)


def _cell(count: int, most: int, right: bool) -> str:
    if not count:
        return "<td></td>"
    tone = "good" if right else "bad"
    return f'<td class="pg-{tone}" style="--share:{count / most:.2f}">{count}</td>'
