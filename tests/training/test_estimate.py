import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from playground.training.estimate import estimate, skeleton
from playground.training.text import Plan, train

PLAN = Plan(epochs=3, batch_size=4, threads=None)


def wrap(model):
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


@pytest.fixture
def folder(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_counts_equal_those_of_the_training(folder, make_examples, tmp_path, drain):
    examples = make_examples(10)
    told = estimate(skeleton(folder), wrap, examples, PLAN)
    model = wrap(LlamaForCausalLM.from_pretrained(folder))
    _, result = drain(train(model, examples, [], PLAN, tmp_path))
    assert (told.steps, told.tokens) == (result.steps, result.tokens)
    assert told.trainable_parameters == result.trainable_parameters
    assert told.total_parameters == result.total_parameters
    assert (told.examples, told.left_out, told.effective_batch) == (10, 0, 4)


def test_no_weights_are_loaded(folder):
    assert {parameter.device.type for parameter in skeleton(folder).parameters()} == {"meta"}


def test_time_is_unknown_until_a_speed_was_measured(folder, make_examples):
    assert estimate(skeleton(folder), wrap, make_examples(), PLAN).seconds is None
    told = estimate(skeleton(folder), wrap, make_examples(), PLAN, tokens_per_second=10.0)
    assert told.seconds == told.tokens / 10


def test_memory_is_the_sum_of_its_parts_and_follows_the_batch(folder, make_examples):
    small = estimate(skeleton(folder), wrap, make_examples(), PLAN)
    large = estimate(skeleton(folder), wrap, make_examples(), dataclasses.replace(PLAN, batch_size=8))
    assert small.memory.total == sum(dataclasses.astuple(small.memory))
    assert small.memory.optimizer == 8 * small.trainable_parameters
    assert large.memory.activations > small.memory.activations
    assert (
        large.memory.weights
        == small.memory.weights
        == 4 * (small.total_parameters - small.trainable_parameters)
    )
    half = estimate(skeleton(folder), wrap, make_examples(), PLAN, dtype=torch.bfloat16, device="cuda")
    assert half.memory.weights * 2 == small.memory.weights and half.memory.runtime == 0


def test_too_long_examples_are_counted(folder, make_examples):
    examples = make_examples(8)
    limit = max(len(example.ids) for example in examples) - 1
    told = estimate(skeleton(folder), wrap, examples, dataclasses.replace(PLAN, max_length=limit))
    assert told.left_out > 0 and told.examples + told.left_out == 8
    none = estimate(skeleton(folder), wrap, examples, dataclasses.replace(PLAN, max_length=3))
    assert (none.steps, none.tokens, none.left_out) == (0, 0, 8)
