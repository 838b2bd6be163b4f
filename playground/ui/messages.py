"""How an error reaches the visitor: a plain sentence in a notice, never a traceback."""

import html
import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError
from playground.ui.components import markup

UNEXPECTED = "Something went wrong in the playground itself. Try again; the server's log has the details."

log = logging.getLogger(__name__)


def shown(action: Callable) -> Callable:
    """Wrap a handler: a ``PlaygroundError``'s message is shown, any other error is logged and owned up to."""
    if inspect.isgeneratorfunction(action):

        @wraps(action)
        def stream(*args: Any, **values: Any):
            try:
                yield from action(*args, **values)
            except Exception as error:
                raise notice(error) from None

        return stream

    @wraps(action)
    def call(*args: Any, **values: Any):
        try:
            return action(*args, **values)
        except Exception as error:
            raise notice(error) from None

    return call


def placed(action: Callable, outputs: int, at: int = 0) -> Callable:
    """Wrap a handler so that an error's message stands on the page, in the output number ``at``.

    The other of its ``outputs`` stay as they are. Nothing is raised, so Gradio puts no "Error" of its own
    on the outputs.
    """

    def told(error: Exception) -> Any:
        message = markup.notice(sentence(error), "bad")
        return (
            tuple(message if place == at else gr.skip() for place in range(outputs))
            if outputs > 1
            else message
        )

    if inspect.isgeneratorfunction(action):

        @wraps(action)
        def stream(*args: Any, **values: Any):
            try:
                yield from action(*args, **values)
            except Exception as error:
                yield told(error)

        return stream

    @wraps(action)
    def call(*args: Any, **values: Any):
        try:
            return action(*args, **values)
        except Exception as error:
            return told(error)

    return call


def notice(error: Exception) -> gr.Error:
    """The notice for an error. Its text is escaped: the page shows notices as HTML."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, PlaygroundError):
        return gr.Error(html.escape(str(error)), title="Not possible", print_exception=False)
    log.exception("A handler of the page failed", exc_info=error)
    return gr.Error(UNEXPECTED, title="Sorry", print_exception=False)


def sentence(error: Exception) -> str:
    """The message of an error as a plain sentence, for a place on the page."""
    if isinstance(error, PlaygroundError):
        return str(error)
    log.exception("A handler of the page failed", exc_info=error)
    return UNEXPECTED
