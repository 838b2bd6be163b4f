"""Plain models: what a configuration can say is kept, what it cannot is refused."""

import finished
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from playground.errors import AdapterError
from playground.training import export


def with_biases(network, names):
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in names:
            module.bias = nn.Parameter(torch.randn(module.out_features))
    return network


def logits(network):
    with torch.no_grad():
        return network(input_ids=torch.tensor([[1, 90, 12, 44, 45, 2]])).logits


@pytest.mark.parametrize(
    ("names", "attention", "mlp"),
    [
        ((), False, False),
        (("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), True, True),
        (("q_proj", "v_proj"), True, False),
        (("down_proj",), False, True),
    ],
)
def test_added_biases_stay_when_the_model_is_opened_elsewhere(tmp_path, names, attention, mlp):
    tokenizer = finished.bpe_tokenizer()
    network = with_biases(finished.llama(tokenizer), names)
    expected = logits(network)
    plain = export.plain(network, "BitFit")
    export.write(plain, tokenizer, tmp_path, "owner/tiny")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert (loaded.config.attention_bias, loaded.config.mlp_bias) == (attention, mlp)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)


def test_biases_without_a_place_in_the_configuration_are_refused():
    network = finished.llama(finished.bpe_tokenizer(), tie_word_embeddings=False)
    with pytest.raises(AdapterError, match="1 tensors have no place there, first lm_head.bias"):
        export.plain(with_biases(network, ("lm_head",)), "BitFit")


def test_parts_beside_the_weights_are_refused():
    class Beside(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.down = inner, nn.Linear(32, 4)

    network = finished.llama(finished.bpe_tokenizer())
    network.model.layers[0].mlp = Beside(network.model.layers[0].mlp)
    with pytest.raises(AdapterError, match="What Bottleneck trained works beside the model's weights"):
        export.plain(network, "Bottleneck")
    with pytest.raises(AdapterError, match="Download the adapter instead"):
        export.plain(nn.Sequential(network), "Prefix tuning")
