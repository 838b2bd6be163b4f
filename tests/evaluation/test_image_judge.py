"""Judges on tiny random networks, in the layouts of the starter CLIP and of the Hub's cache."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model

from playground.errors import ModelUnavailable
from playground.evaluation import image
from playground.evaluation.image import View, load_judge
from playground.models import sources
from playground.settings import Settings
from playground.starter import networks

EDGE = 16
COMMIT = "1" * 40
CPU = SimpleNamespace(device=torch.device("cpu"))
WORDS = ["apple", "robot", "cat"]


def write_clip(folder, seed=0):
    torch.manual_seed(seed)
    tokens = networks.tokenizer(WORDS)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **size,
        "vocab_size": len(tokens),
        "max_position_embeddings": networks.TOKENS,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    vision = {**size, "image_size": EDGE, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def write_dino(folder):
    torch.manual_seed(1)
    config = Dinov2Config(
        hidden_size=20, num_hidden_layers=1, num_attention_heads=2, image_size=EDGE, patch_size=8
    )
    Dinov2Model(config).save_pretrained(folder)
    told = {
        "size": {"shortest_edge": 20}, "crop_size": {"height": EDGE, "width": EDGE}, "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


def cached(hub, repo):
    """A repository's folder in a Hub cache."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return folder / "snapshots" / COMMIT


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", offline=True, device="cpu")


@pytest.fixture
def starter(tmp_path):
    return write_clip(tmp_path / "clip")


@pytest.fixture
def judge(settings, hub, starter):
    return load_judge(settings, CPU, starter=starter)


def pictures(count, seed=0, edge=EDGE):
    return torch.rand(count, 3, edge, edge, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_without_the_hub_the_starter_clip_judges_and_says_why(judge):
    assert judge.name == "starter CLIP"
    assert "DINOv2" in judge.note
    assert judge.models[0].startswith("starter CLIP@")
    vectors = judge.embed_pictures(pictures(5))
    assert vectors.shape == (5, 12)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(5))
    assert judge.embed_texts(["a cat", "a robot on a blue background", "word " * 99]).shape == (3, 12)
    assert torch.equal(judge.embed_for_texts(pictures(5)), vectors)


def test_the_starter_clip_sees_pictures_as_it_was_trained_on_them(judge, starter):
    clip = CLIPModel.from_pretrained(starter).eval()
    seen = pictures(3)
    with torch.no_grad():
        ids = networks.ids(CLIPTokenizer.from_pretrained(starter), ["a cat", "an apple"])
        expected = clip(input_ids=ids, pixel_values=seen)
    assert torch.allclose(judge.embed_pictures(seen), expected.image_embeds, atol=1e-5)
    assert torch.allclose(judge.embed_texts(["a cat", "an apple"]), expected.text_embeds, atol=1e-5)


def test_pictures_of_any_size_and_number_are_judged(judge, monkeypatch):
    whole = judge.embed_pictures(pictures(5, edge=40))
    monkeypatch.setattr(image, "BATCH", 2)
    assert torch.allclose(judge.embed_pictures(pictures(5, edge=40)), whole, atol=1e-6)
    assert judge.embed_pictures(pictures(0)).shape == (0, 12)
    assert judge.embed_pictures(torch.zeros(1, 3, 30, 50)).shape == (1, 12)


def test_dino_and_clip_of_the_hubs_cache_go_first(settings, hub, starter):
    write_dino(cached(hub, "facebook/dinov2-small"))
    assert load_judge(settings, CPU, starter=starter).name == "starter CLIP"  # both or none
    write_clip(cached(hub, "openai/clip-vit-base-patch16"), seed=5)
    judge = load_judge(settings, CPU, starter=starter)
    assert (judge.name, judge.note) == ("DINOv2 + CLIP", "")
    assert judge.models == (f"facebook/dinov2-small@{COMMIT}", f"openai/clip-vit-base-patch16@{COMMIT}")
    assert judge.embed_pictures(pictures(2)).shape == (2, 20)  # DINO's
    assert judge.embed_for_texts(pictures(2)).shape == judge.embed_texts(["a", "b"]).shape == (2, 12)


def test_pickles_are_not_a_judge(settings, hub, starter, monkeypatch):
    write_dino(cached(hub, "facebook/dinov2-small"))
    folder = write_clip(cached(hub, "openai/clip-vit-base-patch32"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    assert load_judge(settings, CPU, starter=starter).name == "starter CLIP"


def test_a_damaged_cache_is_passed_over_and_said(settings, hub, starter):
    write_dino(cached(hub, "facebook/dinov2-small"))
    folder = write_clip(cached(hub, "openai/clip-vit-base-patch32"))
    (folder / "config.json").write_text("{")
    judge = load_judge(settings, CPU, starter=starter)
    assert judge.name == "starter CLIP"
    assert "cannot be read" in judge.note


def test_settings_that_say_offline_ask_nobody(settings, hub, starter, monkeypatch):
    monkeypatch.setattr(sources, "_answers", lambda endpoint: pytest.fail("the Hub was asked"))
    assert load_judge(settings, CPU, starter=starter).name == "starter CLIP"


def test_without_any_judge_the_message_says_so(settings, hub, tmp_path):
    with pytest.raises(ModelUnavailable, match="Nothing can judge"):
        load_judge(settings, CPU, starter=tmp_path / "nothing")


def test_half_precision_weights_compute_in_float32(starter, settings, hub):
    weights = {name: value.half() for name, value in load_file(starter / "model.safetensors").items()}
    save_file(weights, starter / "model.safetensors", metadata={"format": "pt"})
    judge = load_judge(settings, CPU, starter=starter)
    assert judge.embed_pictures(pictures(2)).dtype == torch.float32


def test_a_view_scales_crops_and_normalises():
    view = View(8, 4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    flat = view(torch.full((2, 3, 20, 30), 0.5))
    assert flat.shape == (2, 3, 4, 4)
    assert torch.allclose(flat, torch.ones(1))
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., :2, :] = edge[..., 6:, :] = 1  # cut off by the crop
    assert torch.allclose(view(edge), torch.zeros(1))


class Eye:
    """A judge whose vectors are given: the picture's first two numbers, made one long."""

    def embed_pictures(self, pictures):
        return torch.nn.functional.normalize(pictures.flatten(1)[:, :2], dim=1)

    embed_for_texts = embed_pictures

    def embed_texts(self, texts):
        return torch.tensor([[1.0, 0.0] if text == "right" else [0.0, 1.0] for text in texts])


def at(*degrees):
    """One-row pictures whose vectors lie at these angles."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return torch.stack([angles.cos(), angles.sin(), torch.zeros(len(degrees))], 1).view(-1, 3, 1, 1)


def near(value):
    return pytest.approx(value, abs=1e-6)


def test_fidelity_is_the_mean_over_all_pairs():
    assert image.fidelity(Eye(), at(0, 90), at(0, 60)) == near((1 + 0.5 + 0 + 3**0.5 / 2) / 4)
    assert image.fidelity(Eye(), at(0), at()) is None


def test_prompt_fidelity_pairs_each_picture_with_its_text():
    assert image.prompt_fidelity(Eye(), at(0, 60), ["right", "up"]) == near((1 + 3**0.5 / 2) / 2)
    assert image.prompt_fidelity(Eye(), at(), []) is None


def test_drift_is_nothing_for_an_unchanged_model_and_pairs_by_seed():
    assert image.drift(Eye(), at(10, 80), at(10, 80)) == near(0)
    assert image.drift(Eye(), at(10, 80), at(70, 140)) == near(0.5)
    assert image.drift(Eye(), at(), at()) is None


def test_diversity_leaves_a_picture_and_itself_out():
    assert image.diversity(Eye(), at(0, 60)) == near(0.5)
    assert image.diversity(Eye(), at(0, 0, 0)) == near(0)
    assert image.diversity(Eye(), at(0)) is None


def test_the_nearest_training_picture_is_found():
    found = image.nearest(Eye(), at(5, 80), at(90, 0))
    assert [index for index, _ in found] == [1, 0]
    assert found[0][1] == near(0.99619469)
    assert image.nearest(Eye(), at(5), at()) == []


def test_bounds_come_from_real_pictures_and_the_base_models():
    vectors = Eye().embed_pictures
    bounds = image.bounds_of(vectors(at(0, 60, 90)), vectors(at(0, 90)))
    assert bounds.memorisation == near((1 + 3**0.5 / 2) / 2)
    assert bounds.class_drift == near(0.5)
    usual = image.bounds_of(vectors(at(0)), vectors(at(0)))
    assert usual == image.Bounds()
