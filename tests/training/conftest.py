"""A tiny random Llama and examples with a shared beginning."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from playground.events import result_of
from playground.training.batches import Example

VOCABULARY = 64


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are slower with more, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_model():
    def make(seed: int = 0, **changes) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        sizes = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "initializer_range": 0.2,
        }
        return LlamaForCausalLM(LlamaConfig(**(sizes | changes))).eval()

    return make


@pytest.fixture
def make_examples():
    """Prompts of different lengths after five shared tokens; the answer is the prompt's last token, twice."""

    def make(count: int = 8, seed: int = 0) -> list[Example]:
        rng = random.Random(seed)
        made = []
        for _ in range(count):
            prompt = [1, 2, 3, 4, 5, *(rng.randrange(8, VOCABULARY) for _ in range(rng.randrange(2, 9)))]
            made.append(Example((*prompt, prompt[-1], 6), 2))
        return made

    return make


@pytest.fixture
def drain():
    """Run a generator to its end: its events and what it returns."""

    def run(generator):
        events = []
        return events, result_of(generator, events.append)

    return run
