"""The Runs tab: what the downloaded folder of a run holds."""

import zipfile
from types import SimpleNamespace

import pytest

from playground.errors import InvalidInput
from playground.jobs.local import run_folder
from playground.results.runs import Filing
from playground.ui import build, uploads
from playground.ui.components import run_card
from playground.ui.tabs import runs


@pytest.fixture
def session(settings, store, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(settings.uploads))
    return SimpleNamespace(settings=settings, store=store)


def run(session, status="done"):
    filed = session.store.submit(Filing("a", "lora", {}, "smollm2-135m", "support-desk"))
    session.store.transition(filed.id, "running", expect={"queued"})
    if status != "running":
        session.store.finish(filed.id, status)
    folder = run_folder(session.settings, filed.id)
    for name in (
        "log.txt",
        "adapter/adapter_model.safetensors",
        "exports/run-1-lora-merged.zip",
        "checkpoints/step-0000001/state.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return filed.id


def test_exports_and_checkpoints_stay_out_of_the_downloaded_folder(session):
    from playground.jobs.export_work import FOLDER as exports
    from playground.training.checkpoints import FOLDER as checkpoints

    assert {exports, checkpoints} == runs.LEFT_OUT
    file = runs.archive(session, run(session))
    with zipfile.ZipFile(file) as packed:
        assert packed.namelist() == ["adapter/adapter_model.safetensors", "log.txt"]


def test_a_run_has_one_archive_and_it_lies_where_it_is_swept(session):
    id = run(session)
    files = {runs.archive(session, id) for _ in range(2)}
    assert [path for path in uploads.folder().rglob("*") if path.is_file()] == list(files)


def test_what_a_link_points_to_is_not_downloaded(session, tmp_path):
    id = run(session)
    (tmp_path / "secret").write_text("s")
    (run_folder(session.settings, id) / "link").symlink_to(tmp_path / "secret")
    with zipfile.ZipFile(runs.archive(session, id)) as packed:
        assert "link" not in packed.namelist()


def test_the_folder_of_a_running_run_is_not_packed(session):
    with pytest.raises(InvalidInput, match="when it has ended"):
        runs.archive(session, run(session, "running"))


def test_a_run_is_deleted_only_after_one_was_asked(settings):
    opened = build.open_session(settings)
    try:
        one = run(opened)
        plain, asked = runs.listed(opened), runs.listed(opened, one)
        assert (plain.count('data-action="delete"'), plain.count('data-action="delete-yes"')) == (1, 0)
        assert (asked.count('data-action="delete"'), asked.count('data-action="delete-yes"')) == (0, 1)
        assert "removed for everyone" in asked
        other = opened.store.submit(Filing("b", "lora", {}, "smollm2-135m", "support-desk"))
        assert 'data-action="delete' not in run_card.card(opened, other, asked=True)
    finally:
        opened.store.close()


def test_the_seconds_of_a_resumed_run_are_of_its_last_attempt_and_say_so(session):
    again = session.store.refile(run(session, status="cancelled"))
    session.store.transition(again.id, "running", expect={"queued"})
    assert run_card.elapsed(session.store.get(again.id)).endswith(" since it was resumed")
