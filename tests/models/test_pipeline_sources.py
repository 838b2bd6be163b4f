"""Where text-to-image pipelines come from: whole or not at all, and no file too many."""

import json
import struct
from dataclasses import replace
from fnmatch import fnmatch

import huggingface_hub
import pytest

from playground.errors import ModelUnavailable
from playground.models import catalogue, sources
from playground.settings import Settings

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
}
FILES = {
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": None,
    "unet/diffusion_pytorch_model.fp16.safetensors": None,
    "unet/diffusion_pytorch_model.non_ema.safetensors": None,
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": None,
    "text_encoder/pytorch_model.bin": b"pickle",
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"",
    "safety_checker/model.safetensors": None,
    "all-in-one.safetensors": None,
    "unet/onnx/model.safetensors": None,
}
NEEDED = {
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
}


def tensors():
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


def write(folder, names=None):
    everything = {"model_index.json": json.dumps(INDEX).encode(), **FILES}
    for name in names or everything:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tensors() if everything[name] is None else everything[name])
    return folder


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", offline=True)


def entry(*where):
    return replace(catalogue.model("someone/drawing", modality="image"), sources=where)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one repository, as far as a download asks it. ``asked`` holds the patterns of each call."""
    asked, folder = [], tmp_path / "snapshots" / "abc"

    def download(repo, *, revision, allow_patterns, ignore_patterns=(), local_files_only=False, **_):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        asked.append((allow_patterns, ignore_patterns))
        names = ["model_index.json", *FILES]
        write(
            folder,
            [
                name
                for name in names
                if any(fnmatch(name, p) for p in allow_patterns)
                and not any(fnmatch(name, p) for p in ignore_patterns)
            ],
        )
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(sources, "hub_reachable", lambda settings: True)
    return asked


def test_a_whole_pipeline_needs_the_weights_of_every_component(tmp_path):
    folder = write(tmp_path / "whole")
    assert sources.whole(folder)
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
    ):
        (folder / name).unlink()
        assert not sources.whole(folder)
        write(folder, [name])
    (folder / "safety_checker" / "model.safetensors").unlink()  # left out anyway
    assert sources.whole(folder)
    with (folder / "text_encoder/model.safetensors").open("r+b") as file:
        file.truncate(20)
    assert not sources.whole(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"unet": []}', '{"../up": ["diffusers", "X"]}'])
def test_a_broken_index_is_not_whole(tmp_path, text):
    folder = write(tmp_path / "broken")
    (folder / "model_index.json").write_text(text)
    assert not sources.whole(folder)


def test_only_what_is_needed_comes_from_the_hub(settings, hub):
    folder = sources.locate(entry("hub:someone/drawing"), replace(settings, offline=False))
    got = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert got == NEEDED
    assert hub[0][0] == ["model_index.json"]


def test_a_repository_without_safetensors_is_refused(settings, hub, monkeypatch):
    monkeypatch.delitem(FILES, "unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelUnavailable, match="no weights in safetensors"):
        sources.locate(entry("hub:someone/drawing"), replace(settings, offline=False))


def test_a_repository_that_is_no_pipeline_is_refused(settings, hub, monkeypatch):
    monkeypatch.setitem(globals(), "write", lambda folder, names: folder.mkdir(parents=True, exist_ok=True))
    with pytest.raises(ModelUnavailable, match=r"model_index\.json"):
        sources.locate(entry("hub:someone/drawing"), replace(settings, offline=False))


def test_a_missing_model_is_refused_at_once_with_what_there_is(settings):
    with pytest.raises(ModelUnavailable, match="someone/drawing is not on this machine.*switched off"):
        sources.locate(entry("hub:someone/drawing"), settings)


def test_assets_are_found_in_the_project(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ASSETS", tmp_path)
    starter = catalogue.model("starter-stickers")
    with pytest.raises(ModelUnavailable, match="there is no folder starter-image"):
        sources.locate(starter, settings)
    write(tmp_path / "starter-image")
    assert sources.locate(starter, settings) == tmp_path / "starter-image"
    assert sources.at_hand(starter, settings)


def test_the_revision_is_that_of_all_weights(tmp_path):
    folder = write(tmp_path / "one")
    before = sources.revision(folder)
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(tensors()[:-4] + b"abcd")
    assert sources.revision(folder) != before


def test_a_pipeline_s_folder_makes_an_image_model(tmp_path):
    folder = write(tmp_path / "mine")
    found = catalogue.model(str(folder))
    assert (found.modality, found.sources) == ("image", (f"path:{folder.resolve()}",))
    assert catalogue.model("someone/drawing", modality="image").modality == "image"


def test_image_entries_say_what_they_are():
    entries = catalogue.models("image")
    assert next(iter(entries)) == "starter-stickers"
    assert all(entry.licence for entry in entries.values())
    assert all(entry.parameters for entry in entries.values())  # counted by tests/benchmarks/image_memory.py
