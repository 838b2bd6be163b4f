"""Which layers "attention" and "mlp" mean, in families that name them in many ways."""

import pytest
import torch
from architectures import model_of, network
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny import logits
from tiny_settings import TUNERS
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from playground.errors import InvalidParams
from playground.methods.lora import LoRA, LoRAParams
from playground.methods.peft_tuner import full_names, target_layers
from playground.methods.registry import methods
from playground.training.checkpoints import trainable

USUAL = {
    "attention": ["k_proj", "o_proj", "q_proj", "v_proj"],
    "mlp": ["down_proj", "gate_proj", "up_proj"],
}
OTHERS = {
    ("gpt2", "attention"): ["attn.c_attn", "attn.c_proj"],
    ("gpt2", "mlp"): ["mlp.c_fc", "mlp.c_proj"],
    ("opt", "attention"): [f"self_attn.{name}_proj" for name in ("k", "out", "q", "v")],
    ("opt", "mlp"): ["fc1", "fc2"],
    ("phi", "attention"): [f"self_attn.{name}" for name in ("dense", "k_proj", "q_proj", "v_proj")],
    ("phi", "mlp"): ["mlp.fc1", "mlp.fc2"],
    ("gpt-neox", "attention"): ["attention.dense", "attention.query_key_value"],
    ("gpt-neox", "mlp"): ["mlp.dense_4h_to_h", "mlp.dense_h_to_4h"],
}
CHOOSING = [id for id in TUNERS if "layers" in methods()[id].Params.model_fields and id != "ia3"]


def adapted(wrapped):
    """The names in their blocks of the layers that a tuner has taken."""
    return sorted(
        {
            name.split("layers.")[-1].partition(".")[2]
            for name, layer in wrapped.named_modules()
            if isinstance(layer, BaseTunerLayer)
        }
    )


@pytest.mark.parametrize("kind", USUAL)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3"])
def test_usual_names_stay_short(family, kind):
    assert target_layers(network(family), kind) == USUAL[kind]


@pytest.mark.parametrize(("family", "kind"), OTHERS)
def test_no_layer_is_left_out_where_names_are_others(family, kind):
    model = network(family)
    found = full_names(model, target_layers(model, kind))
    assert len(found) == 2 * len(OTHERS[family, kind])
    assert {name for name in OTHERS[family, kind] for one in found if one.endswith(f".{name}")} == {
        *OTHERS[family, kind]
    }


@pytest.mark.parametrize("kind", USUAL)
@pytest.mark.parametrize("id", CHOOSING)
def test_every_tuner_takes_them_all(id, kind):
    params = methods()[id].Params.parse(TUNERS[id] | {"layers": kind})
    assert adapted(methods()[id].wrap(params, network("opt"))) == OTHERS["opt", kind]


def test_the_gate_of_an_expert_is_no_layer_of_the_mlp():
    sizes = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    more = {"num_experts": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**sizes, num_key_value_heads=2, **more))
    assert target_layers(model, "mlp") == USUAL["mlp"]


@pytest.mark.parametrize("top", [0, 1])
def test_an_adapter_of_such_layers_is_loaded_by_plain_peft(top, tmp_path):
    params = LoRAParams(rank=4, layers="attention", top_layers=top)
    wrapped = LoRA().wrap(params, network("gpt2")).eval()
    trained = trainable(wrapped)
    assert len(trained) == (2 - top) * 2 * 2
    with torch.no_grad():
        for value in trained.values():
            value += 0.1
    LoRA().write(wrapped, tmp_path)
    plain = PeftModel.from_pretrained(network("gpt2"), tmp_path).eval()
    torch.testing.assert_close(logits(plain), logits(wrapped), rtol=1e-4, atol=1e-4)


def test_a_model_without_such_layers_is_refused():
    model = model_of("llama").model
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(InvalidParams, match="no layers called q_proj"):
        target_layers(model, "attention")
