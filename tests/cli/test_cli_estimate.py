"""``estimate`` on the command line, with a tiny model and a bundled task."""

import json

import pytest
import tiny

from playground import cli
from playground.methods import presets


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PLAYGROUND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLAYGROUND_DEVICE", "cpu")
    monkeypatch.setenv("PLAYGROUND_THREADS", "1")
    model = tiny.language_model()
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    capsys.readouterr()

    def run(*more, method="lora", task="support-desk"):
        try:
            code = cli.main(
                ["estimate", "--method", method, "--task", task, "--model", str(tmp_path / "model"), *more]
            )
        except SystemExit as end:
            code = end.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_one_json_object_with_estimate_and_data(call):
    code, out, _ = call("--set", "rank=4", "--set", "batch-size=2", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["params"]["rank"] == 4 and found["params"]["batch_size"] == 2
    told = found["estimate"]
    assert (told["examples"], told["steps"], told["speed"]) == (120, 300, "probe")
    # per layer: q and o 32→32, k and v 32→16, gate and up 32→48, down 48→32
    assert told["trainable_parameters"] == 2 * 4 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)
    parts = {name: size for name, size in told["memory"].items() if name != "total"}
    assert told["memory"]["total"] == sum(parts.values())
    assert told["verdict"] == "fits"
    assert found["data"]["examples"] == 120
    assert any(finding["kind"] == "unknown" for finding in found["data"]["findings"])


def test_a_preset_is_begun_with(call):
    preset = presets.preset("full", "135m-cpu").values
    code, out, _ = call("--preset", "135m-cpu", "--set", "epochs=3", "--json", method="full")
    assert code == 0
    assert json.loads(out)["params"].items() >= (dict(preset) | {"epochs": 3}).items()


def test_readable_lines(call):
    code, out, _ = call("--set", "max_length=16")
    assert code == 0
    assert "Trainable" in out and "Memory     about" in out
    assert "No training example fits into 16 tokens" in out


@pytest.mark.parametrize(
    ("more", "how", "words"),
    [
        (("--set", "rank=0"), {}, "Rank cannot be '0'"),
        (("--preset", "none"), {}, "none"),
        (("--set", "ranks=4"), {}, "no parameter “ranks”"),
        (("--set", "rank"), {}, "wants NAME=VALUE"),
        ((), {"task": "nowhere"}, "nowhere"),
        ((), {"method": "zero_shot"}, "trains nothing"),
        ((), {"method": "lore"}, "There is no method"),
    ],
)
def test_bad_input_is_refused_with_exit_code_two(call, more, how, words):
    code, out, err = call(*more, **how)
    assert (code, out) == (2, "")
    assert words in err
