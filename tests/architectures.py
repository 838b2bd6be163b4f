"""Tiny random models of several families, all with the vocabulary of ``tiny.tokenizer``."""

from copy import deepcopy

import torch
from tiny import language_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "initializer_range": 0.2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT2 = {
    "vocab_size": 32,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}

CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "llama-tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mistral": MistralConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=64),
    "gpt2": GPT2Config(**GPT2),
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "phi": PhiConfig(**SIZES),
    "opt": OPTConfig(**(SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32})),
}


def network(name, seed=0, dtype=torch.float32):
    """A random model of that family, ready to answer."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name]), dtype=dtype).eval()


def model_of(name, seed=0, dtype=torch.float32):
    """The same with the tiny tokenizer."""
    made = language_model(seed)
    made.model, made.dtype = network(name, seed, dtype), dtype
    return made
