"""kohya's names, held against diffusers' own converter, which reads them."""

import copy
import logging

import pytest
import tiny_image
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from playground.errors import AdapterError, InvalidInput
from playground.models.families import Family
from playground.training import kohya
from playground.training.diffusion_files import lora_of, module_names, write_lora

UNET = ["to_q", "to_k", "to_v", "to_out.0", *Family.wide_lora_targets]
CLIP = ["q_proj", "k_proj", "v_proj", "out_proj"]
TEXT = {"sd": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}
LAYERS = {"sd": None, "sdxl": 1}


def parts(pipeline, kind):
    return {name: getattr(pipeline, name) for name in ("unet", *TEXT[kind])}


@pytest.fixture(scope="module", params=("sd", "sdxl"))
def tuned(request):
    """The kind, the base pipeline, and a copy with a random LoRA whose alphas differ from its rank."""
    kind = request.param
    base = getattr(tiny_image, kind)()
    copied = copy.deepcopy(base)
    for at, (name, network) in enumerate(parts(copied, kind).items()):
        network.add_adapter(
            LoraConfig(r=4, lora_alpha=10 + at, target_modules=CLIP if name.startswith("text") else UNET)
        )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in lora_of(parts(copied, kind))[0].values():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return kind, base, copied


def answers(pipeline, kind):
    generator = torch.Generator().manual_seed(1)
    width = tiny_image.WIDTH * (2 if kind == "sdxl" else 1)
    channels = 4 if kind == "sdxl" else 8
    noisy = torch.randn(1, channels, 8, 8, generator=generator)
    words = torch.randn(1, 5, width, generator=generator)
    added = {"text_embeds": torch.ones(1, tiny_image.WIDTH), "time_ids": torch.ones(1, 6)}
    more = {"added_cond_kwargs": added} if kind == "sdxl" else {}
    ids = torch.tensor([[3, 5, 9, 2]])
    with torch.no_grad():
        said = [pipeline.unet(noisy, torch.tensor([300]), words, **more).sample]
        return said + [getattr(pipeline, name)(ids).last_hidden_state for name in TEXT[kind]]


def same(one, other):
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


@pytest.fixture
def file(tuned, tmp_path):
    kind, _, pipeline = tuned
    write_lora(parts(pipeline, kind), tmp_path)
    kohya.export(tmp_path, tmp_path / "kohya.safetensors", LAYERS[kind])
    return tmp_path / "kohya.safetensors"


def test_diffusers_own_reader_gets_the_same_network(tuned, file, caplog):
    kind, base, pipeline = tuned
    loaded = copy.deepcopy(base)
    with caplog.at_level(logging.WARNING, logger="diffusers"):
        loaded.load_lora_weights(str(file.parent), weight_name=file.name)
    assert not caplog.records
    assert not same(answers(loaded, kind), answers(base, kind))
    assert same(answers(loaded, kind), answers(pipeline, kind))
    assert lora_of(parts(loaded, kind), "default_0")[1] == lora_of(parts(pipeline, kind))[1]


def test_there_and_back_with_alphas_that_are_not_the_rank(tuned, file):
    kind, base, pipeline = tuned
    tensors, alphas = kohya.from_kohya(load_file(file), module_names(parts(base, kind)), LAYERS[kind])
    expected = lora_of(parts(pipeline, kind))
    assert alphas == expected[1]
    assert set(alphas.values()) == {10.0, 11.0, 12.0} if kind == "sdxl" else {10.0, 11.0}
    assert tensors.keys() == expected[0].keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected[0].items())


def test_names_and_alphas_are_kohyas(tuned, file):
    kind, _, _ = tuned
    tensors = load_file(file)
    inner = "transformer_blocks_0_attn1_to_q"
    if kind == "sd":
        unet = f"lora_unet_down_blocks_1_attentions_0_{inner}"
        text = ["lora_te_text_model_encoder_layers_0_self_attn_q_proj"]
    else:
        unet = f"lora_unet_input_blocks_3_1_{inner}"
        text = [f"lora_te{n}_text_model_encoder_layers_0_self_attn_q_proj" for n in (1, 2)]
    for at, name in enumerate([unet, *text]):
        assert tensors[f"{name}.alpha"].item() == 10 + at
        assert tensors[f"{name}.alpha"].shape == ()
        assert tensors[f"{name}.lora_down.weight"].shape[0] == 4
        assert tensors[f"{name}.lora_up.weight"].shape[1] == 4
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["ss_network_dim"] == "4"


@pytest.mark.parametrize(
    ("module", "name"),
    [  # as they stand in SDXL files that kohya's trainer wrote
        ("down_blocks.1.attentions.0.proj_in", "input_blocks_4_1_proj_in"),
        ("down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0",
         "input_blocks_8_1_transformer_blocks_9_attn2_to_out_0"),
        ("mid_block.attentions.0.proj_out", "middle_block_1_proj_out"),
        ("mid_block.resnets.1.conv1", "middle_block_2_in_layers_2"),
        ("up_blocks.0.attentions.2.transformer_blocks.0.ff.net.0.proj",
         "output_blocks_2_1_transformer_blocks_0_ff_net_0_proj"),
        ("up_blocks.1.attentions.0.proj_in", "output_blocks_3_1_proj_in"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks_2_2_conv"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
        ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks_8_0_skip_connection"),
        ("down_blocks.1.resnets.0.time_emb_proj", "input_blocks_4_0_emb_layers_1"),
        ("conv_in", "input_blocks_0_0"),
        ("add_embedding.linear_2", "label_emb_0_2"),
    ],
)  # fmt: skip
def test_sdxls_modules_have_the_names_of_stabilitys_code(module, name):
    assert kohya.kohya_name(f"unet.{module}", 2) == f"lora_unet_{name}"
    assert kohya.kohya_name(f"unet.{module}") == f"lora_unet_{module.replace('.', '_')}"


def test_a_layer_without_alpha_has_its_rank_for_it(tuned, file):
    kind, base, _ = tuned
    tensors = {name: value for name, value in load_file(file).items() if not name.endswith("alpha")}
    _, alphas = kohya.from_kohya(tensors, module_names(parts(base, kind)), LAYERS[kind])
    assert set(alphas.values()) == {4.0}


def test_files_of_others_are_refused_in_words(tuned, file):
    kind, base, _ = tuned
    modules = module_names(parts(base, kind))
    tensors = load_file(file)
    first = next(name for name in tensors if name.endswith("lora_up.weight"))
    with pytest.raises(AdapterError, match="incomplete"):
        kohya.from_kohya({n: v for n, v in tensors.items() if n != first}, modules, LAYERS[kind])
    with pytest.raises(AdapterError, match="has no lora_unet_elsewhere"):
        kohya.from_kohya({"lora_unet_elsewhere.alpha": torch.ones(())}, modules, LAYERS[kind])


def test_a_transformer_has_no_name_there():
    with pytest.raises(InvalidInput, match="diffusers and ComfyUI"):
        kohya.kohya_name("transformer.transformer_blocks.0.attn.to_q")


def test_only_our_own_files_are_exported(tmp_path):
    save_file({"unet.x.lora_A.weight": torch.ones(1, 1)}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(AdapterError, match="not a LoRA that the playground wrote"):
        kohya.export(tmp_path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
