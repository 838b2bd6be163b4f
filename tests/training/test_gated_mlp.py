"""The gated MLP in one piece: what its layers give one by one, less what autograd keeps."""

import pytest
import torch
from torch import nn
from transformers import FalconH1Config, FalconH1ForCausalLM, GemmaConfig, LlamaConfig
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.llama.modeling_llama import LlamaMLP

from playground.training import gated_mlp
from playground.training.mixed import half_products

SIZES = {"hidden_size": 64, "intermediate_size": 96}


def mlp(**more):
    torch.manual_seed(0)
    return LlamaMLP(LlamaConfig(**SIZES, **more))


def passed(module):
    """Result, gradient of the input, gradients of the weights and bytes that autograd keeps."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    x = torch.randn(2, 7, 64, requires_grad=True)
    module.zero_grad()
    with half_products(module) as layers:
        assert layers == 3
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = module(x)
        result.square().sum().backward()
    weights = [module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight]
    return (result, x.grad, *(weight.grad for weight in weights)), sum(kept.values())


def test_result_and_gradients_are_those_of_the_layers_and_less_is_kept(monkeypatch):
    together, few = passed(mlp())
    monkeypatch.setattr(gated_mlp, "parts", lambda module: None)
    apart, many = passed(mlp())
    for found, expected in zip(together, apart, strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
    torch.testing.assert_close(together[0], apart[0], rtol=0, atol=0)
    weights = 3 * 64 * 96 * 4
    assert few - weights < 0.4 * (many - weights)


class Clamped(LlamaMLP):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=7) * self.up_proj(x))


class Dropping(LlamaMLP):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.1, self.training)


class Two(LlamaMLP):
    def forward(self, x):
        return super().forward(x), None


class Scaled(LlamaMLP):
    def __init__(self, config):
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * super().forward(x)


@pytest.mark.parametrize("kind", [Clamped, Dropping, Two, Scaled])
def test_modules_that_compute_something_else_are_left_alone(kind):
    module = kind(LlamaConfig(**SIZES)).eval()
    before = torch.get_rng_state()
    assert gated_mlp.parts(module) is None
    assert not module.training and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("multipliers", "replaced"), [([0.5, 0.25], 0), ([1.0, 1.0], 2)])
def test_multipliers_inside_are_not_lost(multipliers, replaced):
    torch.manual_seed(0)
    config = FalconH1Config(
        **SIZES,
        vocab_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mamba_d_ssm=64,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=16,
        mlp_multipliers=multipliers,
        initializer_range=0.2,
        pad_token_id=0,
    )
    network = FalconH1ForCausalLM(config).eval()
    ids = torch.arange(1, 13)[None]

    def log_probabilities():
        with torch.no_grad():
            return network(input_ids=ids, use_cache=False).logits.log_softmax(-1)

    exact = log_probabilities()
    with half_products(network):
        assert sum("forward" in vars(layer.feed_forward) for layer in network.model.layers) == replaced
        torch.testing.assert_close(log_probabilities(), exact, rtol=0, atol=0.3)


def test_a_network_without_weights_is_judged_alike():
    assert gated_mlp.parts(mlp().to("meta")) is not None
    assert gated_mlp.parts(Clamped(LlamaConfig(**SIZES)).to("meta")) is None


def test_other_modules_are_left_alone():
    assert gated_mlp.parts(mlp()) is not None
    assert gated_mlp.parts(mlp(mlp_bias=True)) is None
    assert gated_mlp.parts(mlp(hidden_act="gelu")) is None
    assert gated_mlp.parts(GemmaMLP(GemmaConfig(**SIZES))) is None
    assert gated_mlp.parts(nn.Linear(3, 3)) is None


@pytest.mark.parametrize("name", ["gate_proj", "up_proj", "down_proj"])
def test_a_frozen_layer_keeps_the_module_as_it_is(name):
    module = mlp()
    getattr(module, name).requires_grad_(False)
    with half_products(module):
        assert "forward" not in vars(module)


def test_it_is_undone():
    module = mlp()
    with half_products(module):
        assert "forward" in vars(module)
    assert "forward" not in vars(module)
