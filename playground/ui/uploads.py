"""Files on their way through the browser: uploads, and what is made for a download. None of them stays."""

import os
from collections.abc import Iterable
from pathlib import Path

import gradio as gr

from playground.settings import Settings

SWEEP = (3600, 86_400)  # seconds between two of Gradio's sweeps; seconds after which a file goes


def settle(settings: Settings) -> None:
    """Let Gradio hold its files in the playground's home, apart from other programs' files. Before the page is built."""
    os.environ["GRADIO_TEMP_DIR"] = str(settings.uploads.resolve())


def adopt(blocks: gr.Blocks, settings: Settings) -> None:
    """Hand what a killed server left to Gradio's sweep, which knows the files of its own process only."""
    blocks.upload_file_set.update(str(path) for path in settings.uploads.rglob("*") if path.is_file())


def folder() -> Path:
    """Where Gradio holds files; what is served from here is swept."""
    return Path(gr.utils.get_upload_folder()).resolve()


def forget(paths: Iterable[str | Path]) -> None:
    """Remove uploads; whatever a browser names, only files in ``folder`` go."""
    for path in map(Path, paths):
        if path.resolve().is_relative_to(folder()):
            path.unlink(missing_ok=True)
