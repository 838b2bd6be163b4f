"""Taking a run away on the command line, with a real run of a tiny model."""

import json

import fake_hub
import finished
import pytest
from transformers import AutoModelForCausalLM

from playground import cli
from playground.jobs import local
from playground.models import sources


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    opened = finished.home(tmp_path_factory.mktemp("cli"))
    opened.trained = opened.run("lora", epochs=1)
    opened.store.close()
    return opened


@pytest.fixture
def playground(home, monkeypatch, capsys):
    """Call the command line in this process; returns exit code, output, messages."""
    for name, value in local.environment(home.settings).items():
        if name.startswith("PLAYGROUND_") and name != local.PARENT:
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def call(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_three_forms_are_written_where_asked(playground, home, tmp_path):
    run = home.trained.id
    code, out, _ = playground("export", run, "--format", "merged", "--out", tmp_path / "plain")
    assert (code, out.strip()) == (0, str(tmp_path / "plain"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    code, out, _ = playground("export", run, "--format", "adapter", "--out", tmp_path / "a.zip")
    assert code == 0 and (tmp_path / "a.zip").is_file()
    code, out, _ = playground(
        "export", run, "--format", "gguf", "--precision", "q8_0", "--out", tmp_path / "m.gguf"
    )
    assert code == 0 and (tmp_path / "m.gguf").read_bytes()[:4] == b"GGUF"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "m.gguf", "plain"]


def test_the_card_is_printed(playground, home):
    code, out, _ = playground("card", home.trained.id)
    assert code == 0 and out.startswith("---\n") and "## Provenance" in out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("export", 99, "--format", "merged", "--out", "x"), "no run 99"),
        (("export", 1, "--format", "onnx", "--out", "x"), "invalid choice"),
        (("push", 1, "--repo", "mine"), "owner/name"),
        (("push", 1, "--repo", "me/mine"), "HF_TOKEN"),
        (("card", 99), "no run 99"),
    ],
)
def test_wrong_input_is_one_line(playground, arguments, match):
    code, out, err = playground(*arguments)
    assert code in (1, 2) and out == "" and match in err.lower().replace("hf_token", "HF_TOKEN")
    assert len(err.strip().splitlines()) == 1


def test_below_a_plain_file_nothing_is_written(playground, home, tmp_path):
    (tmp_path / "file").write_text("my own")
    code, out, err = playground(
        "export", home.trained.id, "--format", "adapter", "--out", tmp_path / "file/x"
    )
    assert (code, out) == (2, "") and "is a file" in err


def test_a_push_takes_the_environments_token(playground, home, monkeypatch):
    server = fake_hub.FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    monkeypatch.setenv("PLAYGROUND_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    sources._hub_answer.clear()
    try:
        code, out, err = playground("push", home.trained.id, "--repo", "me/mine")
        assert (code, out.strip()) == (0, f"{server.url}/me/mine"), err
        assert fake_hub.TOKEN not in out + err
        repo = server.repos["me/mine"]
        assert repo["private"] and json.loads(repo["files"]["adapter_config.json"])["peft_type"] == "LORA"
        monkeypatch.setenv("HF_TOKEN", "hf_wrong_token_0123456789")
        code, out, err = playground("push", home.trained.id, "--repo", "me/other")
        assert code == 1 and "does not know this token" in err
    finally:
        server.close()
        sources._hub_answer.clear()
