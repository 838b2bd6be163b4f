"""Loading text-to-image models from folders, and drawing with them."""

import json

import pytest
import tiny_image
import torch
from peft import LoraConfig

from playground.errors import InvalidInput, ModelUnavailable, OutOfMemory
from playground.models import image
from playground.models.catalogue import model as find
from playground.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", device="cpu", threads=1, offline=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-sd"
    tiny_image.sd().save_pretrained(folder)
    return folder


@pytest.fixture
def exact(monkeypatch):
    """In float32, where a batch changes next to nothing."""
    monkeypatch.setattr(image, "half", lambda device: False)


def test_a_saved_pipeline_is_loaded_frozen_and_draws_the_same(saved, settings, exact):
    model = image.load(find(str(saved), settings), settings)
    assert (model.family.id, model.size, model.entry.modality) == ("stable-diffusion", 32, "image")
    assert not any(p.requires_grad for p in model.denoiser.parameters())
    assert model.weight_bytes == 4 * sum(
        p.numel()
        for part in ("unet", "vae", "text_encoder")
        for p in getattr(model.pipeline, part).parameters()
    )
    assert len(model.revision) == 64
    original = image.of(tiny_image.sd())
    one, other = (m.generate(["a robot"], [3], steps=2) for m in (model, original))
    assert one.shape == (1, 3, 32, 32) and torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("maker", [tiny_image.sd, tiny_image.sdxl, tiny_image.sd3, tiny_image.flux])
def test_a_picture_alone_is_the_one_in_a_batch(maker, exact):
    model = image.of(maker())
    prompts, seeds = ["a robot", "a cat", "a mug"], [7, 8, 7]
    together = model.generate(prompts, seeds, steps=2, guidance=2.0, batch=2)
    alone = torch.cat(
        [model.generate([p], [s], steps=2, guidance=2.0) for p, s in zip(prompts, seeds, strict=True)]
    )
    assert together.shape == (3, 3, 32, 32) and together.abs().max() <= 1
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_drawing_in_bfloat16_stays_near(exact, monkeypatch):
    model = image.of(tiny_image.sd())
    exactly = model.generate(["a robot"], [1], steps=4)
    monkeypatch.setattr(image, "half", lambda device: True)
    roughly = model.generate(["a robot"], [1], steps=4)
    assert not torch.equal(exactly, roughly)
    assert (exactly - roughly).abs().mean() < 0.02


def test_the_denoiser_draws_as_it_was_adapted(exact):
    model = image.of(tiny_image.sd())
    before = model.generate(["a robot"], [1], steps=2)
    model.denoiser.add_adapter(LoraConfig(r=2, target_modules=list(model.family.lora_targets)))
    model.denoiser.train()
    assert torch.allclose(model.generate(["a robot"], [1], steps=2), before, atol=1e-5)
    for name, value in model.denoiser.named_parameters():
        if "lora_B" in name:
            value.data.normal_()
    assert not torch.allclose(model.generate(["a robot"], [1], steps=2), before, atol=1e-3)
    assert model.denoiser.training


def test_another_denoiser_can_be_put_in(exact):
    model, other = image.of(tiny_image.sd()), image.of(tiny_image.sd(seed=1))
    model.denoiser = other.denoiser
    assert model.pipeline.unet is other.denoiser is model.denoiser


def test_every_prompt_needs_a_seed():
    with pytest.raises(InvalidInput, match="2 prompts need as many seeds, not 1"):
        image.of(tiny_image.sd()).generate(["a", "b"], [1])


def test_no_prompts_no_pictures():
    assert image.of(tiny_image.sd()).generate([], []).shape == (0, 3, 32, 32)


def test_out_of_memory_says_what_to_lower(monkeypatch):
    model = image.of(tiny_image.sd())

    def fails(*more, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.denoiser, "forward", fails)
    with pytest.raises(OutOfMemory, match="4 pictures of 32×32 at once. Draw fewer"):
        model.generate(["a robot"], [1])


def damaged(saved, tmp_path, change):
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    index = json.loads((folder / "model_index.json").read_text())
    change(folder, index)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder, index: index.update(_class_name="WanPipeline"), "WanPipeline cannot be adapted here"),
        (lambda folder, index: index.update(unet=["my_unet", "Evil"]), "code of its own for unet"),
        (
            lambda folder, index: index.update(_class_name=["pipeline", "Mine"]),
            "code of its own for its pipeline",
        ),
        (lambda folder, index: index.update({"../x": ["diffusers", "X"]}), "cannot be read"),
        (lambda folder, index: (folder / "text_encoder" / "adapter_config.json").write_text("{}"), "adapter"),
        (lambda folder, index: (folder / "unet" / "config.json").write_text("{"), "text-to-image model"),
    ],
)
def test_a_pipeline_that_is_not_plain_is_refused(saved, tmp_path, settings, change, message):
    folder = damaged(saved, tmp_path, change)
    entry = find(str(folder), settings)
    with pytest.raises(ModelUnavailable, match=message):
        image.load(entry, settings, folder=folder)


def test_a_language_model_is_no_pipeline(tmp_path, settings):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="no text-to-image pipeline"):
        image.load(find(str(tmp_path), settings), settings, folder=tmp_path)


def test_pickled_weights_are_not_read(saved, tmp_path, settings, monkeypatch):
    def pickled(folder, index):
        network = folder / "unet" / "diffusion_pytorch_model.safetensors"
        network.rename(network.with_suffix(".bin"))

    folder = damaged(saved, tmp_path, pickled)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    with pytest.raises(ModelUnavailable):
        image.load(find(str(folder), settings), settings, folder=folder)
    with pytest.raises(ModelUnavailable, match="is not on this machine"):
        image.load(find(str(folder), settings), settings)
