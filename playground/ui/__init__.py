"""The page. Only this package and app.py import gradio."""

import inspect
import sys
from typing import Any


def _import_gradio() -> None:
    """Import gradio without its rewriting of type stubs: a third of the time that the import takes.

    Gradio renders a stub for each component beside its source, on every import, for editors. It leaves out
    classes whose file is not known, and that is what it is told here.
    """
    find = inspect.getfile

    def getfile(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError("no stub wanted")
        return find(thing)

    inspect.getfile = getfile
    try:
        import gradio  # noqa: F401
    finally:
        inspect.getfile = find


if "gradio" not in sys.modules:
    _import_gradio()
