"""Following a field whose changes several handlers wait for.

A field's change event may start one handler of the server, no more. Gradio 6.31 puts off a handler that is still at
work when the field changes again, and then starts all handlers of the event anew: two of them put each other off, and
start each other, for ever. In the browser alone nothing is put off, so each handler here listens to an
echo of its own.
"""

from collections.abc import Callable

import gradio as gr


def echo(source: gr.Textbox | gr.Dropdown) -> gr.Textbox:
    """A hidden field that has the text of ``source``.

    What is drawn late needs one, too: in the browser, the listeners that come with a drawing replace all earlier ones
    of the same event.
    """
    return _copy(source, "value => value", source.value or "")


def changed(source: gr.components.Component) -> Callable:
    """An event like ``source.change``, for one handler alone."""
    return _copy(source, "value => JSON.stringify(value ?? null)", "").change


def _copy(source: gr.components.Component, js: str, start: str) -> gr.Textbox:
    field = gr.Textbox(start, visible="hidden")
    source.change(None, source, field, js=js, api_visibility="private")
    return field
