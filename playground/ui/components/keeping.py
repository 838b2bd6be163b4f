"""Fields that keep what a visitor chose when the page is loaded anew, in the browser alone."""

import json
from collections.abc import Sequence

import gradio as gr
from gradio.components.base import Component

SOON = 0.05  # seconds


def once_drawn(inputs: Sequence[Component], outputs: Sequence[Component], js: str) -> None:
    """Fill ``outputs`` once as soon as they are there, with the list that ``js`` makes of ``inputs`` in the browser."""
    soon = gr.Timer(SOON)
    once = f"(...given) => [...({js})(...given), {{'__type__': 'update', 'active': false}}]"
    soon.tick(None, list(inputs), [*outputs, soon], js=once, api_visibility="private")


def keep(name: str, fields: Sequence[Component]) -> None:
    """Fill a form once with what it held before the page was loaded anew, and keep what it holds from now on.

    Args:
        name: of the form; one whose fields have become more or fewer begins afresh.
    """
    form = f"{json.dumps(name)}, {fields[0]._id}"  # another number each time that it is drawn
    once_drawn(fields, fields, f"(...now) => window.playground.kept({form}, now)")
    gr.on(
        [field.change for field in fields], None, list(fields), None,
        js=f"(...values) => {{ window.playground.keep({form}, values); }}", api_visibility="private",
    )  # fmt: skip


def kept(name: str) -> str:
    """JavaScript that gives the choice that ``keep_choice`` kept before the page was loaded anew; without one, ``now``."""
    return f"now => window.playground.kept({json.dumps(name)}, 0, [now])[0]"


def keep_choice(name: str) -> str:
    """JavaScript that keeps a choice, and gives it on."""
    return f"now => {{ window.playground.keep({json.dumps(name)}, 0, [now]); return now; }}"


def draw_chosen(
    name: str, which: gr.Textbox | gr.Dropdown | gr.Radio, tab: gr.Tab, drawn: gr.Textbox
) -> None:
    """Set ``drawn`` to the choice in ``which`` when ``tab`` is opened, and when another is made, and keep that.

    Both at once, because a form that is drawn anew too soon leaves events behind that no server function has.
    """
    ids = [id for _, id in which.choices] if hasattr(which, "choices") else [which.value]
    opened = (
        f"now => {{ const found = ({kept(name)})(now);"
        f" return Array(2).fill({json.dumps(ids)}.includes(found) ? found : now); }}"
    )
    tab.select(None, which, [which, drawn], js=opened, api_visibility="private")
    which.change(None, which, drawn, js=keep_choice(name), api_visibility="private")
