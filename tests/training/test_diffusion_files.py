"""Finished image trainings on disk, read back here and by diffusers itself."""

import copy
import json
import pickle

import pytest
import tiny_image
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from playground.errors import AdapterError
from playground.training import adapter_files, diffusion_files
from playground.training.diffusion_files import LORA_FILE, lora_of, read_lora, read_lora_file, write_lora

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CLIP = ["q_proj", "k_proj", "v_proj", "out_proj"]
KINDS = ("sd", "sdxl", "sd3", "flux")
TEXT = {"sd": ["text_encoder"], "sdxl": ["text_encoder", "text_encoder_2"], "sd3": [], "flux": []}


def denoiser(pipeline):
    return "unet" if hasattr(pipeline, "unet") else "transformer"


def networks(pipeline, kind):
    return {name: getattr(pipeline, name) for name in [denoiser(pipeline), *TEXT[kind]]}


def with_lora(pipeline, kind, rank=4, alpha=10, seed=0, **more):
    """A copy with a LoRA in denoiser and text encoders, its weights random."""
    tuned = copy.deepcopy(pipeline)
    for name, network in networks(tuned, kind).items():
        targets = CLIP if name.startswith("text") else ATTENTION
        network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **more))
    randomise(networks(tuned, kind), seed)
    return tuned


def randomise(parts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in lora_of(parts)[0].values():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))


def answers(pipeline, kind):
    """What text encoders and denoiser say to fixed inputs: the whole of the pipeline that a LoRA changes."""
    generator = torch.Generator().manual_seed(1)

    def rand(*shape):
        return torch.randn(shape, generator=generator)

    times, wide = torch.tensor([300.0]), 2 * tiny_image.WIDTH
    if kind == "sd":
        given = (rand(1, 8, 8, 8), times, rand(1, 5, tiny_image.WIDTH))
        more = {}
    elif kind == "sdxl":
        given = (rand(1, 4, 8, 8), times, rand(1, 5, wide))
        added = {"text_embeds": rand(1, tiny_image.WIDTH), "time_ids": rand(1, 6)}
        more = {"added_cond_kwargs": added}
    elif kind == "sd3":
        given = (rand(1, 4, 8, 8), rand(1, 5, wide), rand(1, wide), times)
        more = {}
    else:
        given = (rand(1, 16, 16), rand(1, 5, wide), rand(1, tiny_image.WIDTH), times / 1000)
        more = {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(5, 3), "guidance": torch.ones(1)}
    ids = torch.tensor([[3, 5, 9, 2]])
    with torch.no_grad():
        said = [getattr(pipeline, denoiser(pipeline))(*given, **more, return_dict=False)[0]]
        said += [getattr(pipeline, name)(ids).last_hidden_state for name in TEXT[kind]]
    return said


def same(one, other):
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module", params=KINDS)
def family(request):
    base = getattr(tiny_image, request.param)()
    return request.param, base, with_lora(base, request.param)


@pytest.fixture(scope="module")
def base():
    return tiny_image.sd()


def test_diffusers_loads_the_lora_with_its_own_scale(family, tmp_path):
    kind, base, tuned = family
    write_lora(networks(tuned, kind), tmp_path)
    loaded = copy.deepcopy(base)
    loaded.load_lora_weights(str(tmp_path))
    assert not same(answers(loaded, kind), answers(base, kind))
    assert same(answers(loaded, kind), answers(tuned, kind))


def test_the_lora_is_read_back(family, tmp_path):
    kind, base, tuned = family
    write_lora(networks(tuned, kind), tmp_path)
    again = with_lora(base, kind, seed=9)
    assert not same(answers(again, kind), answers(tuned, kind))
    read_lora(networks(again, kind), tmp_path)
    assert same(answers(again, kind), answers(tuned, kind))


@pytest.mark.filterwarnings("ignore:The following")  # each pattern is for one of the networks
def test_layers_of_different_rank_and_alpha_keep_their_scales(base, tmp_path):
    pattern = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 3}
    tuned = with_lora(
        base, "sd", rank_pattern={"to_v": 2, "v_proj": 3}, alpha_pattern=pattern | {"layers.1.self_attn.q_proj": 7}
    )  # fmt: skip
    write_lora(networks(tuned, "sd"), tmp_path)
    loaded = copy.deepcopy(base)
    loaded.load_lora_weights(str(tmp_path))
    assert same(answers(loaded, "sd"), answers(tuned, "sd"))
    tensors, alphas = read_lora_file(tmp_path / LORA_FILE)
    assert alphas == lora_of(networks(tuned, "sd"))[1]
    assert set(alphas.values()) == {3.0, 7.0, 10.0}


def test_a_scale_by_the_ranks_root_is_kept(base, tmp_path):
    tuned = with_lora(base, "sd", use_rslora=True)
    write_lora(networks(tuned, "sd"), tmp_path)
    loaded = copy.deepcopy(base)
    loaded.load_lora_weights(str(tmp_path))
    assert same(answers(loaded, "sd"), answers(tuned, "sd"))


def test_what_is_no_plain_lora_is_not_written(base, tmp_path):
    with pytest.raises(ValueError, match="more than a plain LoRA"):
        write_lora(networks(with_lora(base, "sd", use_dora=True), "sd"), tmp_path)
    with pytest.raises(ValueError, match="no LoRA"):
        write_lora({"unet": base.unet}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["cut", "pickle", "nan", "alpha", "shape", "plain", "gone"])
def test_a_damaged_or_foreign_lora_is_refused_and_changes_nothing(base, tmp_path, harm, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    again = networks(with_lora(base, "sd", seed=9), "sd")
    write_lora(again, tmp_path)
    path = tmp_path / LORA_FILE
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif harm == "pickle":
        path.write_bytes(pickle.dumps({"unet": 1}))
    elif harm == "nan":
        with safe_open(path, framework="pt") as opened:
            told = opened.metadata()
        weights = load_file(path)
        weights[next(iter(weights))][0, 0] = float("nan")
        save_file(weights, path, metadata=told)
    elif harm == "alpha":
        write_lora(networks(with_lora(base, "sd", alpha=5), "sd"), tmp_path)
    elif harm == "shape":
        write_lora(networks(with_lora(base, "sd", rank=2), "sd"), tmp_path)
    elif harm == "plain":
        save_file(load_file(path), path)  # without the metadata
    else:
        path.unlink()
    before = {name: value.clone() for name, value in lora_of(again)[0].items()}
    with pytest.raises(AdapterError):
        read_lora(again, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in lora_of(again)[0].items())


def whole(pipeline, seed):
    """Other weights in the denoiser and the text encoder."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for network in (pipeline.unet, pipeline.text_encoder):
            for value in network.parameters():
                value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}


def saved(parts, folder):
    adapter_files.save(
        folder, lambda place: diffusion_files.write_networks(parts, place), {"method": "dreambooth"}
    )
    return folder


def test_whole_networks_are_read_back_here_and_by_diffusers(base, tmp_path):
    tuned = copy.deepcopy(base)
    folder = saved(whole(tuned, 3), tmp_path / "adapter")
    about = adapter_files.verify(folder, {"method": "dreambooth"})
    assert set(about["sha256"]) == {
        "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
    }  # fmt: skip
    again = copy.deepcopy(base)
    diffusion_files.read_networks({"unet": again.unet, "text_encoder": again.text_encoder}, folder)
    assert same(answers(again, "sd"), answers(tuned, "sd"))
    again.unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", use_safetensors=True)
    again.text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", use_safetensors=True)
    assert same(answers(again, "sd"), answers(tuned, "sd"))


def test_tied_weights_are_written_once(tmp_path):
    encoder = tiny_image.sd3().text_encoder_3
    diffusion_files.write_networks({"text_encoder_3": encoder}, tmp_path)
    kept = load_file(tmp_path / "text_encoder_3" / "model.safetensors")
    other = tiny_image.sd3(seed=5).text_encoder_3
    diffusion_files.read_networks({"text_encoder_3": other}, tmp_path)
    assert len(kept) < len(encoder.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))


def test_a_changed_or_missing_network_is_refused(base, tmp_path):
    folder = saved(whole(copy.deepcopy(base), 3), tmp_path / "adapter")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"][0, 0, 0, 0] = float("inf")
    save_file(weights, path)
    with pytest.raises(AdapterError, match="not the file that was saved"):
        adapter_files.verify(folder, {})
    parts = {"text_encoder": base.text_encoder, "unet": base.unet}
    before = answers(base, "sd")
    with pytest.raises(AdapterError, match="not finite"):
        diffusion_files.read_networks(parts, folder)
    path.unlink()
    with pytest.raises(AdapterError, match="missing"):
        adapter_files.verify(folder, {})
    with pytest.raises(AdapterError):
        diffusion_files.read_networks(parts, folder)
    assert same(answers(base, "sd"), before)


def test_a_list_of_files_does_not_lead_out_of_its_folder(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (folder / adapter_files.ABOUT).write_text(json.dumps({"sha256": {"../other.safetensors": "0"}}))
    with pytest.raises(AdapterError, match="outside"):
        adapter_files.verify(folder, {})
