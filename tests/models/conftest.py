"""Tiny random language models, made on the spot."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from playground.models.catalogue import Model
from playground.models.text import LanguageModel

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
LLAMA = {**SIZE, "num_key_value_heads": 2, "intermediate_size": 64, "tie_word_embeddings": False}


def make_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Every byte is a token; two special ones mark the turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: id for id, piece in enumerate(["<|im_start|>", "<|im_end|>", *alphabet])}
    backend = Tokenizer(BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def make_network(kind: str = "llama") -> torch.nn.Module:
    torch.manual_seed(7)
    vocabulary = {"vocab_size": 258, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    if kind == "gpt2":
        network = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **vocabulary))
    elif kind == "qwen3":
        network = Qwen3ForCausalLM(Qwen3Config(**LLAMA, head_dim=8, **vocabulary))
    elif kind == "gemma3":  # one layer looks back 16 tokens only
        network = Gemma3ForCausalLM(
            Gemma3TextConfig(
                **LLAMA,
                head_dim=8,
                sliding_window=16,
                layer_types=["sliding_attention", "full_attention"],
                **vocabulary,
            )
        )
    else:
        network = LlamaForCausalLM(LlamaConfig(**LLAMA, **vocabulary))
    with torch.no_grad():  # wide enough that answers differ and few logits are nearly equal
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_(8)
    return network.eval()


def make_language_model(kind: str = "llama", template: str | None = CHATML) -> LanguageModel:
    entry = Model(
        id="tiny",
        title="Tiny",
        repo="tiny",
        revision="",
        licence="",
        parameters=None,
        modality="text",
        memory=None,
    )
    return LanguageModel(
        model=make_network(kind),
        tokenizer=make_tokenizer(template),
        entry=entry,
        device=torch.device("cpu"),
        dtype=torch.float32,
        load_seconds=0.0,
        revision="",
    )


@pytest.fixture
def tiny():
    """A function that makes a tiny LanguageModel: kind ("llama", "gpt2", "qwen3", "gemma3"), chat template."""
    return make_language_model


@pytest.fixture
def tiny_folder(tmp_path):
    """A folder with a tiny Llama as ``save_pretrained`` writes it."""
    folder = tmp_path / "tiny-llama"
    make_network().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
