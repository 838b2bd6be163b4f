"""Products in bfloat16: close to float32, only where wanted, and undone."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from playground.methods.lora import LoRA, LoRAParams
from playground.training.fused_lora import fuse
from playground.training.mixed import HALF, half_products

IDS = torch.arange(3, 27)[None]


def network(trained):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
    return made.requires_grad_(trained)


def gradients(model):
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(parts).clone()


def wrapped(kind):
    if kind == "full":
        return network(True)
    model = LoRA().wrap(
        LoRAParams(rank=4, alpha=8, dropout=0.1 if kind == "plain lora" else 0), network(False)
    )
    for name, parameter in model.named_parameters():  # zero at the start: no gradient would reach A
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    if kind == "fused lora":
        assert fuse(model) == 14
    return model.eval()


@pytest.mark.parametrize("kind", ["full", "plain lora", "fused lora"])
def test_loss_and_gradients_are_those_of_float32_but_for_rounding(kind):
    model = wrapped(kind)
    loss, exact = gradients(model)
    with half_products(model) as layers:
        near, rounded = gradients(model)
    assert layers == 14
    assert near != loss and near == pytest.approx(loss, rel=1e-2)
    assert nn.functional.cosine_similarity(rounded, exact, dim=0) > 0.999
    assert rounded.dtype == torch.float32


def test_everything_is_undone_even_after_an_error():
    model = wrapped("fused lora")
    before = gradients(model)
    with pytest.raises(ValueError), half_products(model):
        raise ValueError
    after = gradients(model)
    assert after[0] == before[0] and torch.equal(after[1], before[1])
    assert not any("rounded" in vars(layer) for layer in model.modules())


def test_head_thin_and_quantised_layers_stay_exact():
    model = wrapped("plain lora")
    with half_products(model):
        touched = [name for name, layer in model.named_modules() if "rounded" in vars(layer)]
        assert all(layer.rounded.dtype == HALF for name, layer in model.named_modules() if name in touched)
    assert len(touched) == 14
    assert not any("lora_" in name or "lm_head" in name for name in touched)


def test_frozen_bias_is_added():
    layer = nn.Sequential(nn.Linear(80, 70)).requires_grad_(False)
    x = torch.randn(3, 5, 80)
    exact = layer(x)
    with half_products(layer) as layers:
        rounded = layer(x)
    assert layers == 1 and rounded.shape == (3, 5, 70)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.02)
