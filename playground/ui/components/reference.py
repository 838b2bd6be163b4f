"""The race that was recorded for this project: what a visitor may expect before the first run is done."""

import json
from functools import lru_cache
from typing import Any

from playground.methods.registry import methods
from playground.results.comparison import text
from playground.settings import ASSETS
from playground.ui.components.markup import safe
from playground.ui.components.table import interval_bar

RACE = ASSETS / "reference" / "race.json"


@lru_cache(maxsize=1)
def race() -> str:
    """The recorded race as lanes, with machine and date; empty where none was recorded."""
    if not RACE.is_file():
        return ""
    body = json.loads(RACE.read_text(encoding="utf-8"))
    figure = body["rows"][0]
    return (
        '<section class="pg-reference"><h4 class="pg-small-head">A race that was recorded</h4>'
        f'<p class="pg-muted">{safe(figure["what"])}: {safe(text(figure["ours"], figure["unit"]))} in all '
        f"({safe(body['date'])}, on {safe(body['machine'])}). The lines are 95 % intervals.</p>"
        f'<div class="pg-lanes">{"".join(_lane(row) for row in body["race"])}</div></section>'
    )


def _lane(row: dict[str, Any]) -> str:
    known = methods().get(row["method"])
    spent = f"adapted in {text(row['adapt_seconds'], 's')}, {text(row['query_seconds_p50'], 's')} a question"
    return (
        f'<article class="pg-lane" data-family="{safe(known.family if known else "")}">'
        f'<div class="pg-lane-name"><i class="pg-dot"></i><b>{safe(row["title"])}</b></div>'
        f'<div class="pg-lane-steps">{interval_bar(row)}<small>{safe(spent)}</small></div>'
        f'<div class="pg-lane-result"><div class="pg-result"><strong>{safe(text(row["quality"], ""))}</strong>'
        "<span>right</span></div></div></article>"
    )
