"""Taking a finished image run away: its files one by one, or its whole folder."""

from pathlib import Path

import gradio as gr

from playground.errors import InvalidInput
from playground.jobs.local import run_folder
from playground.ui.components.echo import changed
from playground.ui.components.markup import heading
from playground.ui.messages import shown
from playground.ui.session import Session
from playground.ui.tabs.runs import archive

MOST_FILES = 30
QUICK = {"api_visibility": "private", "show_progress": "hidden"}


def build(session: Session, run: gr.Number, name: str) -> None:
    """Draw the panel for the finished run in ``run``. ``name`` begins the ids."""
    gr.HTML(heading("Take it with you", "Files of this run that work without the playground.", 3))
    files = gr.File(
        label="Files", file_count="multiple", interactive=False, visible=False, elem_id=f"{name}-files",
        elem_classes="pg-made",
    )  # fmt: skip
    with gr.Row(elem_classes="pg-buttons"):
        whole = gr.Button("Download the run's folder", size="md", elem_id=f"{name}-get")
    packed = gr.DownloadButton(visible="hidden", elem_id=f"{name}-packed")

    def view(run_id):
        found = made(session, run_id)
        _serve(found)
        return gr.update(value=[str(path) for path in found] or None, visible=bool(found))

    def pack(run_id):
        if run_id is None:
            raise InvalidInput("Choose a finished run first.")
        return str(archive(session, int(run_id)))

    changed(run)(shown(view), run, files, queue=False, **QUICK)
    whole.click(shown(pack), run, packed, api_visibility="private", show_progress="minimal").success(
        None, js=f"() => window.playground.download('{name}-packed')", api_visibility="private"
    )


def made(session: Session, run_id: float | None) -> list[Path]:
    """The files that the run says it made, of a folder those in it; only what lies in the run's own folder."""
    if run_id is None:
        return []
    folder = run_folder(session.settings, int(run_id)).resolve()
    found: dict[Path, None] = {}
    for event in session.store.events(int(run_id), kinds={"artifact"}):
        path = (folder / event.data["path"]).resolve()
        if not path.is_relative_to(folder):
            continue
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not file.is_symlink():
                found[file] = None
    return list(found)[:MOST_FILES]


def _serve(files: list[Path]) -> None:
    """Let Gradio serve these files where they lie, instead of a copy of each."""
    gr.set_static_paths([path for path in files if not gr.utils.is_static_file(path)])
