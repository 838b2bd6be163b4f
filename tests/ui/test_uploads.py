"""What browsers send and fetch: where it lies, what goes at once, and that the rest is swept."""

import time
from pathlib import Path

import gradio as gr
import pytest
from gradio.route_utils import delete_files_created_by_app

from playground.results.runs import Filing
from playground.settings import Settings
from playground.ui import build, uploads
from playground.ui.indexes import Indexes
from playground.ui.tabs import compare

VISITOR = "1" * 32


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "elsewhere"))  # and put back afterwards
    made = Settings(home=tmp_path / "home", offline=True, device="cpu")
    uploads.settle(made)
    return made


@pytest.fixture
def session(settings):
    opened = build.open_session(settings)
    yield opened
    opened.store.close()


def upload(settings, name, text="x"):
    path = settings.uploads / "digest" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_they_lie_in_the_home(settings):
    assert uploads.folder() == settings.uploads
    assert str(settings.uploads) == gr.File(render=False).GRADIO_CACHE


def test_only_uploads_are_forgotten(settings, tmp_path):
    mine, foreign = upload(settings, "a.png"), tmp_path / "keep.txt"
    foreign.write_text("x")
    uploads.forget([str(mine), str(foreign), str(settings.uploads / ".." / ".." / "keep.txt"), str(mine)])
    assert not mine.exists()
    assert foreign.exists()


def test_the_page_has_old_files_swept_and_what_a_killed_server_left(session, settings, monkeypatch):
    left = upload(settings, "left.png")
    blocks = build.page(session)
    uploads.adopt(blocks, settings)
    every, age = blocks.delete_cache
    assert (every, age) == uploads.SWEEP
    delete_files_created_by_app(blocks, age)
    assert left.exists()  # another page of this home may still be at it
    time.sleep(0.01)
    delete_files_created_by_app(blocks, 0)
    assert not left.exists()


def test_what_is_made_for_a_download_lies_where_it_is_swept(session, settings):
    run = session.store.submit(Filing("k", "zero_shot", {}, "smollm2-135m", "support-desk"))
    session.store.transition(run.id, "running", expect={"queued"})
    session.store.finish(run.id, "done")
    blocks = build.page(session)
    exports = [fn for fn in blocks.fns.values() if fn.fn is not None and fn.name == "write"]
    assert len(exports) == len(compare.DOWNLOADS)
    for export in exports:
        made = Path(export.fn("Text", compare.ALL, compare.ALL, "newest", ""))
        assert uploads.folder() in made.parents
        assert made.read_text(encoding="utf-8")


def test_an_index_takes_the_uploads_that_it_was_built_from_with_it(settings):
    old, new = upload(settings, "old.md"), upload(settings, "new.md")
    held = Indexes(settings)
    held.folder(VISITOR).mkdir(parents=True)
    held.built_from(VISITOR, [str(old)])
    held.built_from(VISITOR, [str(new)])  # updated: the old one is in it no more
    assert (old.exists(), new.exists()) == (False, True)
    assert held.delete(VISITOR)
    assert not new.exists()
