"""Small pieces of HTML. Every text that comes from a person or a model goes through ``safe``."""

import html
from collections.abc import Iterable
from typing import Any

LONG = 60  # characters of a fact that are too many for a narrow column

# gr.HTML reads its value as a template, so braces and dollar signs must not reach it as such.
_TEMPLATE = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})


def safe(value: Any) -> str:
    """Text that is shown as text, whatever is in it."""
    return html.escape("" if value is None else str(value)).translate(_TEMPLATE)


def notice(text: str, tone: str = "info", field: str = "") -> str:
    """A sentence in a box. ``tone`` is "info", "good", "warn" or "bad"; ``field`` the id of a field to mark with it."""
    marks = f' data-field="{safe(field)}"' if field else ""
    return f'<div class="pg-notice pg-{safe(tone)}" role="status"{marks}>{safe(text)}</div>' if text else ""


def bar(share: float | None, tone: str = "", label: str = "") -> str:
    """A progress bar; ``share`` 0..1, None = under way without a known end."""
    kind = " pg-bar-open" if share is None else ""
    width = 100 if share is None else max(0.0, min(1.0, share)) * 100
    value = "" if share is None else f' aria-valuenow="{width:.0f}"'
    return (
        f'<div class="pg-bar{kind} {safe(tone)}" role="progressbar" aria-valuemin="0" aria-valuemax="100"'
        f'{value} aria-label="{safe(label)}"><span style="width:{width:.1f}%"></span></div>'
    )


def heading(title: str, text: str = "", level: int = 2) -> str:
    """A section's heading with a line that says what it is for."""
    below = f"<p>{safe(text)}</p>" if text else ""
    return f'<header class="pg-heading"><h{level}>{safe(title)}</h{level}>{below}</header>'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Label and value pairs; those without a value are left out, long ones take a line of their own."""
    cells = "".join(_fact(name, str(value)) for name, value in pairs if value not in (None, ""))
    return f'<dl class="pg-facts">{cells}</dl>' if cells else ""


def _fact(name: str, value: str) -> str:
    wide = ' class="pg-wide"' if len(value) > LONG else ""
    return f"<div{wide}><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>"


def empty(title: str, text: str) -> str:
    """What stands where there is nothing yet, and what to do about it."""
    return f'<div class="pg-empty"><strong>{safe(title)}</strong><span>{safe(text)}</span></div>'
