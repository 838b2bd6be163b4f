"""The panel that takes a run away: what its buttons do, with real exports of a tiny run."""

from pathlib import Path

import fake_hub
import finished
import gradio as gr
import pytest

from playground.ui import build
from playground.ui.panels import export


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    opened = finished.home(tmp_path_factory.mktemp("panel"))
    opened.trained = opened.run("lora", epochs=1)
    opened.zero = opened.run("zero_shot")
    opened.store.close()
    return opened


@pytest.fixture
def session(home):
    opened = build.open_session(home.settings)
    yield opened
    opened.exports.close()
    opened.store.close()


def panel(session):
    """The panel's handlers by their name, or by the text of the button that starts them."""
    with gr.Blocks() as blocks:
        run, pulse = gr.Number(None), gr.Textbox("")
        export.build(session, run, pulse)
    found = {}
    for fn in blocks.fns.values():
        for target, event in fn.targets:
            block = blocks.blocks.get(target)
            if event == "click" and fn.fn is not None:
                found[block.value] = fn.fn
            elif event == "change" and fn.fn is not None:
                found[fn.fn.__name__] = fn.fn
        assert fn.api_visibility == "private"
    return found


@pytest.mark.parametrize(("button", "name"), [("Download adapter", "adapter.zip"), ("Make GGUF", "q80.gguf")])
def test_a_button_ends_with_a_file_to_download(session, home, button, name):
    steps = list(panel(session)[button](float(home.trained.id), "q8_0"))
    assert "pg-bar" in steps[0][0]
    words, _, file = steps[-1]
    assert Path(file).is_file() and file.endswith(name)
    assert f"{Path(file).name} is ready" in words
    assert gr.utils.is_static_file(Path(file))  # served where it lies
    assert not gr.utils.is_static_file(home.settings.database)
    status, _, ready = panel(session)["view"](float(home.trained.id))
    assert file in ready["value"] and "is ready" in status


def test_a_run_that_trains_nothing_has_a_sentence_instead(session, home):
    with pytest.raises(gr.Error, match="trains nothing"):
        list(panel(session)["Download adapter"](home.zero.id, "float16"))
    assert "trains nothing" in panel(session)["show_card"](home.zero.id)
    with pytest.raises(gr.Error, match="Choose a finished run"):
        list(panel(session)["Merge and download"](None, "float16"))


def test_the_card_is_shown_as_text(session, home):
    shown = panel(session)["show_card"](home.trained.id)
    assert "base\\_model" not in shown and "library_name" in shown
    assert "<b>" not in shown and "{" not in shown


def test_stopping_with_nothing_at_work_is_a_sentence(session, home):
    with pytest.raises(gr.Error, match="nothing to stop"):
        panel(session)["Stop"](home.trained.id)


def test_a_push_takes_the_visitors_token_only(session, home, monkeypatch):
    from dataclasses import replace

    from playground.models import sources

    server = fake_hub.FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    sources._hub_answer.clear()
    session.settings = session.exports.settings = replace(session.settings, offline=False)
    push = panel(session)["Push"]
    run = float(home.trained.id)
    try:
        with pytest.raises(gr.Error, match="needs a Hub token"):
            list(push(run, "adapter", "float16", "me/mine", "", False))
        assert server.repos == {}
        steps = list(push(run, "adapter", "float16", "me/mine", fake_hub.TOKEN, False))
        assert steps[0][2] == ""  # the box is emptied
        assert f"{server.url}/me/mine" in steps[-1][0]
        assert server.repos["me/mine"]["private"] is True
        assert fake_hub.TOKEN not in repr(steps)
    finally:
        server.close()
        sources._hub_answer.clear()
