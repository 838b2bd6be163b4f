"""Exports in a process of their own: progress, stop, one at a time, and a token that stays nowhere."""

import os
import time
import zipfile

import fake_hub
import finished
import pytest

from playground.errors import QueueError
from playground.jobs import exports, hub, local, processes
from playground.jobs.export_work import Order
from playground.jobs.exports import Exports


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    opened = finished.home(tmp_path_factory.mktemp("exports"))
    opened.trained = opened.run("lora", epochs=1)
    yield opened
    opened.store.close()


@pytest.fixture
def at_work(home):
    opened = Exports(home.settings, home.store)
    yield opened
    opened.close()


def wait(at_work, run, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        made = at_work.newest(run.id)
        if made.status != "working":
            return made
        time.sleep(0.05)
    raise AssertionError(f"still {at_work.newest(run.id)}")


def files(home):
    folder = local.run_folder(home.settings, home.trained.id) / "exports"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_an_export_ends_with_a_whole_file_and_is_there_at_once_the_next_time(home, at_work):
    run = home.trained
    before = at_work.stamp()
    at_work.start(Order(run.id, "merged"))
    with pytest.raises(QueueError, match="Another export is being made .merged of run"):
        at_work.start(Order(run.id, "adapter"))
    made = wait(at_work, run)
    assert (made.status, made.error) == ("done", None)
    assert made.progress["phase"] == "pack" and at_work.stamp() != before
    assert made.file == at_work.ready(run.id)[0]
    assert zipfile.ZipFile(made.file).testzip() is None
    assert files(home) == [f"run-{run.id}-lora-merged.zip"]
    assert at_work.start(Order(run.id, "merged")).status == "done"
    assert Exports(home.settings, home.store).ready(run.id) == [made.file]  # after a restart, too
    made.file.unlink()


def test_a_stopped_export_leaves_nothing_and_the_next_one_works(home, at_work):
    run = home.trained
    at_work.start(Order(run.id, "gguf"))
    process = at_work._work[1]
    assert at_work.stop(run.id).status == "cancelled"
    assert processes.started(process.pid) is None
    end = time.monotonic() + 10
    while at_work._work is not None and time.monotonic() < end:
        time.sleep(0.02)
    assert files(home) == []
    assert at_work.newest(run.id).error == exports.STOPPED
    with pytest.raises(QueueError, match="nothing to stop"):
        at_work.stop(run.id)
    at_work.start(Order(run.id, "adapter"))
    assert wait(at_work, run).status == "done"


def test_a_killed_one_is_told_and_tidied(home, at_work):
    run = home.trained
    at_work.start(Order(run.id, "merged"))
    partial = local.run_folder(home.settings, run.id) / "exports" / ".half.partial"
    partial.write_bytes(b"half")
    os.kill(at_work._work[1].pid, 9)
    made = wait(at_work, run)
    assert (made.status, made.error) == ("failed", exports.KILLED)
    assert not partial.exists()


def test_a_reason_reaches_the_page_as_a_sentence(home, at_work):
    run = home.run("lora", epochs=1, rank=1)
    weights = local.run_folder(home.settings, run.id) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    at_work.start(Order(run.id, "adapter"))
    made = wait(at_work, run)
    assert made.status == "failed"
    assert made.error == "The adapter is damaged: adapter_model.safetensors is not the file that was saved."
    assert at_work.ready(run.id) == []


def test_a_push_goes_through_and_its_token_is_kept_nowhere(home, monkeypatch, capfd):
    server = fake_hub.FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    settings = finished.with_settings(home, offline=False).settings
    at_work = Exports(settings, home.store)
    run = home.trained
    try:
        for token, status in ((fake_hub.TOKEN, "done"), ("hf_wrong_token_0123456789", "failed")):
            made = at_work.start(Order(run.id, "adapter"), hub.Push("me/mine", token))
            command = "".join(_read(at_work, name) for name in ("cmdline", "environ"))
            assert token not in command  # where other users of the machine could read it
            made = wait(at_work, run)
            assert (made.status, made.repo) == (status, "me/mine"), made.error
            assert token not in repr(made)
            assert made.file is None
            everything = b"".join(p.read_bytes() for p in home.settings.home.rglob("*") if p.is_file())
            assert token.encode() not in everything
            said = capfd.readouterr()
            assert token not in said.out + said.err
        assert server.repos["me/mine"]["private"] is True
        assert "adapter_model.safetensors" in server.repos["me/mine"]["files"]
        assert not [name for name in files(home) if "push" in name]
    finally:
        at_work.close()
        server.close()


def _read(at_work, name):
    with open(f"/proc/{at_work._work[1].pid}/{name}", errors="replace") as file:
        return file.read()


def test_closing_ends_what_is_at_work(home, at_work):
    at_work.start(Order(home.trained.id, "merged"))
    process = at_work._work[1]
    at_work.close()
    assert processes.started(process.pid) is None
