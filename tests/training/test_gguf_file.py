"""GGUF files of tiny networks, read back by transformers and by the gguf package."""

import finished
import gguf
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from playground.errors import AdapterError, InvalidInput
from playground.training import gguf_file
from playground.training.gguf_file import Origin

ORIGIN = Origin("Tiny run 1", "Tiny adapted", "apache-2.0", "Tiny", "owner/tiny")


def network_of(kind, tokenizer, **changes):
    torch.manual_seed(3)
    made = {
        "llama": lambda: finished.llama(tokenizer, **changes),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**finished.sizes(tokenizer, **changes))),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**finished.sizes(tokenizer, head_dim=128, **changes))),
    }[kind]().eval()
    with torch.no_grad():  # norms and biases that are not all alike
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def write(network, tokenizer, folder, precision="float32", origin=ORIGIN):
    file = folder / "model.gguf"
    events = list(gguf_file.write(network, tokenizer, file, precision, origin))
    assert events[-1].data["done"] == events[-1].data["total"] > 10
    return file


def read(file):
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype="float32", quantization_config=GgufConfig(dequantize=True)
    )


def logits(network):
    with torch.no_grad():
        return network(input_ids=torch.tensor([[1, 90, 12, 44, 45, 2, 1, 70, 71, 72, 73, 74]])).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_numbers_read_back_are_those_written(tmp_path, kind, tied):
    tokenizer = finished.bpe_tokenizer() if kind == "llama" else finished.qwen_tokenizer()
    network = network_of(kind, tokenizer, tie_word_embeddings=tied)
    file = write(network, tokenizer, tmp_path)
    again = read(file)
    torch.testing.assert_close(logits(again), logits(network), rtol=1e-5, atol=1e-5)
    assert again.config.tie_word_embeddings == tied
    assert type(again) is type(network)


def test_eight_bits_are_close_and_a_quarter_of_the_size(tmp_path):
    tokenizer = finished.bpe_tokenizer()
    network = network_of("llama", tokenizer, hidden_size=64, intermediate_size=256)
    (tmp_path / "8").mkdir()
    full, eight = write(network, tokenizer, tmp_path), write(network, tokenizer, tmp_path / "8", "q8_0")
    difference = (logits(read(eight)) - logits(network)).abs().max()
    assert 0 < difference < 0.1 * logits(network).abs().max()
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(eight).tensors}
    assert kinds["blk.0.ffn_up.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    weights = [sum(t.n_bytes for t in gguf.GGUFReader(file).tensors) for file in (full, eight)]
    assert 0.26 < weights[1] / weights[0] < 0.28


def test_rows_that_are_no_blocks_of_32_are_kept_in_float16(tmp_path):
    tokenizer = finished.bpe_tokenizer()
    network = network_of("llama", tokenizer, intermediate_size=48)
    kinds = {
        t.name: t.tensor_type.name
        for t in gguf.GGUFReader(write(network, tokenizer, tmp_path, "q8_0")).tensors
    }
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_the_tokenizer_reads_back_with_its_template_and_marks(tmp_path):
    tokenizer = finished.bpe_tokenizer()
    file = write(network_of("llama", tokenizer), tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    assert again.chat_template == finished.CHATML
    messages = [{"role": "user", "content": "train word of the task, and the rest ß €"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (again.bos_token, again.eos_token) == ("<|im_start|>", "<|im_end|>")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["general.license"] == "apache-2.0"
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/owner/tiny"


def test_a_larger_embedding_than_vocabulary_is_filled(tmp_path):
    tokenizer = finished.bpe_tokenizer()
    network = network_of("llama", tokenizer, vocab_size=len(tokenizer) + 13)
    fields = gguf.GGUFReader(write(network, tokenizer, tmp_path)).fields
    assert len(fields["tokenizer.ggml.tokens"].data) == len(tokenizer) + 13
    assert fields["tokenizer.ggml.token_type"].contents()[-13:] == [5] * 13


def test_biases_of_a_llama_are_written_in_the_order_of_their_rows(tmp_path):
    tokenizer = finished.bpe_tokenizer()
    network = network_of("llama", tokenizer, attention_bias=True, mlp_bias=True)
    file = write(network, tokenizer, tmp_path)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    bias = network.model.layers[1].self_attn.q_proj.bias.detach()
    heads = bias.reshape(4, 2, 4)  # heads, halves, half a head
    expected = torch.stack([heads[:, 0], heads[:, 1]], dim=-1).reshape(-1)
    torch.testing.assert_close(torch.tensor(tensors["blk.1.attn_q.bias"]), expected)
    assert {"blk.0.ffn_down.bias", "blk.0.attn_output.bias"} <= tensors.keys()


def test_llama_3s_long_context_is_written_as_frequencies(tmp_path):
    tokenizer = finished.bpe_tokenizer()
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    network = network_of("llama", tokenizer, rope_parameters=rope)
    tensors = {t.name: t.data for t in gguf.GGUFReader(write(network, tokenizer, tmp_path)).tensors}
    factors = torch.tensor(tensors["rope_freqs.weight"])
    plain = 1 / 500000.0 ** (torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(plain / factors, network.model.rotary_emb.inv_freq)
    assert factors[0] == 1 and factors[-1] == 8


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_act": "gelu"}, "activation is gelu"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "“linear”"),
    ],
)
def test_a_network_that_would_be_read_wrongly_is_refused(tmp_path, changes, match):
    tokenizer = finished.bpe_tokenizer()
    with pytest.raises(AdapterError, match=match):
        write(finished.llama(tokenizer, **changes), tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_would_be_read_wrongly_is_refused(tmp_path):
    import tiny
    from tokenizers import pre_tokenizers

    network = finished.llama(finished.bpe_tokenizer())
    with pytest.raises(AdapterError, match="this one is a WordLevel"):
        write(network, tiny.tokenizer(), tmp_path)
    odd = finished.bpe_tokenizer(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(AdapterError, match="by which rule"):
        write(network, odd, tmp_path)
    spaced = finished.bpe_tokenizer([pre_tokenizers.ByteLevel(add_prefix_space=True)])
    with pytest.raises(AdapterError, match="by which rule"):
        write(network, spaced, tmp_path)


def test_numbers_too_large_for_float16_are_refused(tmp_path):
    tokenizer = finished.bpe_tokenizer()
    network = finished.llama(tokenizer)
    with torch.no_grad():
        network.model.layers[0].mlp.up_proj.weight[0, 0] = 70000.0
    with pytest.raises(AdapterError, match="too large for float16"):
        write(network, tokenizer, tmp_path, "float16")


def test_an_unknown_precision_is_refused(tmp_path):
    tokenizer = finished.bpe_tokenizer()
    with pytest.raises(InvalidInput, match="float32, float16, q8_0"):
        write(finished.llama(tokenizer), tokenizer, tmp_path, "q2_k")


def test_every_known_architecture_is_one_of_transformers():
    import transformers

    for name in gguf_file.ARCHITECTURES:
        assert hasattr(transformers, name)
    assert LlamaConfig.model_type == "llama"
