"""The training data as the model will see it: tokens with the loss mask, lengths, what is odd."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from playground.results.comparison import text
from playground.ui.components import charts
from playground.ui.components.markup import facts, safe

if TYPE_CHECKING:
    from playground.training.data_view import DataView, Finding, Shown, Token

MOST_TOKENS = 1_200  # of one example that are drawn

_LEGEND = (
    '<p class="pg-token-keys"><span class="pg-token">read</span> context, no loss {weighted}'
    '<span class="pg-token pg-learnt">learnt</span> the answer, the loss is taken here '
    '<span class="pg-token pg-special">mark</span> special token '
    '<span class="pg-token pg-unknown">unknown</span> not in the vocabulary</p>'
)
_WEIGHTED = (
    '<span class="pg-token pg-weighted">weighted</span> the input, each token counts {weight:g} in the loss '
)


def tokens(shown: "Shown") -> str:
    """One example as chips, one a token; the learnt ones stand out."""
    chips = "".join(_chip(token) for token in shown.tokens[:MOST_TOKENS])
    rest = len(shown.tokens) - MOST_TOKENS
    more = f'<p class="pg-muted">… and {rest:,} more tokens.</p>' if rest > 0 else ""
    learnt = sum(token.role == "learnt" for token in shown.tokens)
    head = f"{safe(shown.item)}: {len(shown.tokens):,} tokens, {learnt:,} of them learnt"
    left_out = (
        '<p class="pg-reason">Longer than the maximum length: the training leaves it out.</p>'
        if shown.left_out
        else ""
    )
    kind = " pg-left-out" if shown.left_out else ""
    weighted = _WEIGHTED.format(weight=shown.prompt_weight) if shown.prompt_weight else ""
    legend = _LEGEND.format(weighted=weighted)
    return f'<p class="pg-muted">{head}</p>{left_out}<div class="pg-tokens{kind}" dir="auto">{chips}</div>{more}{legend}'


def _chip(token: "Token") -> str:
    kinds = [name for name, on in (("special", token.special), ("unknown", token.unknown)) if on]
    kinds += [token.role] if token.role != "context" else []
    words = safe(token.text).replace(" ", '<i aria-hidden="true">·</i>')
    after = "<br>" if token.text.endswith("\n") else ""
    words = words.replace("\r", "").replace("\n", '<i aria-label="new line">⏎</i>').replace("\t", "<i>⇥</i>")
    classes = "".join(f" pg-{kind}" for kind in kinds)
    return f'<span class="pg-token{classes}" title="token {token.id}, {token.role}">{words}</span>{after}'


def overview(view: "DataView") -> str:
    """Counts, the histogram of lengths, and the findings, the worst first."""
    ordered = sorted(view.lengths)
    pairs = facts(
        (
            ("Training examples", f"{view.examples:,}"),
            ("Shortest, median, longest", _three(ordered)),
            (
                "Left out",
                f"{len(view.left_out):,}" + (" of those looked at" if view.looked_at < view.examples else ""),
            ),
            ("Answer tokens", _share(view)),
        )
    )
    chart = charts.histogram(view.lengths, "Tokens of an example", (view.max_length, "maximum length"))
    return f'<section class="pg-data">{findings(view.findings)}{pairs}{chart}</section>'


def findings(found: "Sequence[Finding]") -> str:
    """What is odd about the data; one calm sentence where nothing is."""
    if not any(finding.tone != "info" for finding in found):
        calm = "No example is too long, copied, contradictory, or in the test or dev split as well."
        calm = calm if not found else "Nothing to worry about."
        head = f'<li class="pg-notice pg-good">{calm}</li>'
    else:
        head = ""
    order = {"bad": 0, "warn": 1, "info": 2}
    lines = "".join(_finding(one) for one in sorted(found, key=lambda one: order[one.tone]))
    return f'<ul class="pg-findings" role="status">{head}{lines}</ul>'


def _finding(finding: "Finding") -> str:
    names = ", ".join(finding.items)
    more = finding.count - len(finding.items)
    named = f"<small>{safe(names)}{f' and {more:,} more' if more > 0 else ''}</small>" if names else ""
    return f'<li class="pg-notice pg-{safe(finding.tone)}">{safe(finding.text)}{named}</li>'


def _three(ordered: list[int]) -> str:
    if not ordered:
        return ""
    return f"{ordered[0]:,}, {ordered[len(ordered) // 2]:,}, {ordered[-1]:,} tokens"


def _share(view: "DataView") -> str:
    whole = view.learnt + view.context
    return f"{view.learnt:,} of {whole:,} ({text(view.learnt / whole, '')})" if whole else ""
