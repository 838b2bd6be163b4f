from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from architectures import CONFIGS
from peft import PromptTuningConfig
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    Gemma3Config,
    Lfm2Config,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
)

from playground.training.batches import Example, can_pack, pack, pad, shared_prefix
from playground.training.text import row_loss
from playground.training.virtual_tokens import VirtualTokens

ARCHITECTURE = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CPU, FLOAT = torch.device("cpu"), torch.float32


def reference(model, examples):
    """Plain transformers: one right-padded line an example, -100 on the prompt, mean over answer tokens."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for line, example in enumerate(examples):
        length = len(example.ids)
        ids[line, :length] = torch.tensor(example.ids)
        mask[line, :length] = 1
        labels[line, length - example.answer : length] = torch.tensor(example.ids[length - example.answer :])
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def mean_loss(model, rows):
    return sum(row_loss(model, row) for row in rows) / sum(row.answers for row in rows)


@pytest.mark.parametrize("layout", ["packed", "several rows", "no prefix", "padded"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_same_loss_and_gradient_as_plain_transformers(make_model, make_examples, layout, attention):
    model, examples = make_model(attn_implementation=attention), make_examples()
    prefix = shared_prefix(examples)
    rows = {
        "packed": lambda: pack(examples, prefix, 1000, CPU, FLOAT),
        "several rows": lambda: pack(examples, prefix, 20, CPU, FLOAT),
        "no prefix": lambda: pack(examples, 0, 1000, CPU, FLOAT),
        "padded": lambda: [pad(examples, CPU)],
    }[layout]()
    assert (len(rows) > 1) == (layout == "several rows")
    wanted = reference(model, examples)
    found = mean_loss(model, rows)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    ours, theirs = gradients(model, found), gradients(model, wanted)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("weight", [0.05, 1.0])
@pytest.mark.parametrize("layout", ["packed", "several rows", "padded"])
def test_prompts_count_their_weight_beyond_the_shared_beginning(make_model, make_examples, layout, weight):
    model, examples = make_model(), make_examples()
    prefix = shared_prefix(examples)
    rows = {
        "packed": lambda: pack(examples, prefix, 1000, CPU, FLOAT, prompt_weight=weight),
        "several rows": lambda: pack(examples, prefix, 20, CPU, FLOAT, prompt_weight=weight),
        "padded": lambda: [pad(examples, CPU, prefix=prefix, prompt_weight=weight)],
    }[layout]()
    answers, prompts = torch.zeros(()), torch.zeros(())
    for example in examples:
        logits = model(input_ids=torch.tensor([example.ids])).logits[0, :-1]
        losses = F.cross_entropy(logits, torch.tensor(example.ids[1:]), reduction="none")
        answers = answers + losses[-example.answer :].sum()
        prompts = prompts + losses[prefix : -example.answer].sum()
    found = sum(row_loss(model, row) for row in rows)
    wanted = answers + weight * prompts
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert sum(row.answers for row in rows) == sum(example.answer for example in examples)
    ours, theirs = gradients(model, found), gradients(model, wanted)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_shared_beginning_is_computed_once(make_examples):
    examples = make_examples()
    (row,) = pack(examples, shared_prefix(examples), 1000, CPU, FLOAT)
    assert shared_prefix(examples) == 5
    assert row.tokens == 5 + sum(len(example.ids) - 1 - 5 for example in examples)
    assert row.inputs["input_ids"].numel() == row.tokens  # no padding


def test_the_last_prompt_token_stays_outside_the_prefix():
    twins = [Example((1, 2, 3, 4), 1), Example((1, 2, 3, 5), 1)]
    assert shared_prefix(twins) == 2
    assert shared_prefix([Example((1, 2), 1)]) == 0


def test_logits_are_computed_for_answers_only(make_model, make_examples):
    model, examples = make_model(), make_examples()
    (row,) = pack(examples, 5, 1000, CPU, FLOAT)
    logits = model(**row.inputs, use_cache=False).logits
    assert logits.shape[:2] == row.labels.shape == (1, sum(example.answer for example in examples))


def test_an_example_alone_has_the_plain_log_probability(make_model, make_examples):
    model, (example,) = make_model(), make_examples(1)
    logits = model(input_ids=torch.tensor([example.ids])).logits[0, -example.answer - 1 : -1]
    wanted = F.cross_entropy(logits, torch.tensor(example.ids[-example.answer :]), reduction="sum")
    torch.testing.assert_close(row_loss(model, pad([example], CPU)), wanted)


def test_packing_is_refused_where_the_model_cannot(make_model, make_examples):
    examples = make_examples()
    assert can_pack(make_model(), examples, FLOAT)
    broken = make_model()
    forward = broken.forward
    broken.forward = lambda **inputs: forward(**{k: v for k, v in inputs.items() if k != "attention_mask"})
    assert not can_pack(broken, examples, FLOAT)


RECURRENT = {
    "falcon-h1": FalconH1Config(
        **ARCHITECTURE, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16, pad_token_id=0
    ),
    "lfm2": Lfm2Config(**ARCHITECTURE, layer_types=["conv", "conv", "full_attention"], pad_token_id=0),
}


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("initializer_range", [0.06, 0.2])
@pytest.mark.parametrize("name", RECURRENT)
def test_packing_is_refused_where_layers_remember_the_example_before(
    make_examples, name, initializer_range, kind
):
    torch.manual_seed(0)
    config = deepcopy(RECURRENT[name])
    config.initializer_range = initializer_range
    network = AutoModelForCausalLM.from_config(config, dtype=kind).eval()
    assert not can_pack(network, make_examples(), kind)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*CONFIGS, "mixtral"])
def test_transformers_of_any_precision_are_packed(make_examples, name, kind):
    torch.manual_seed(0)
    config = deepcopy(CONFIGS[name]) if name in CONFIGS else MixtralConfig(**ARCHITECTURE)
    config.vocab_size = 64
    network = AutoModelForCausalLM.from_config(config, dtype=kind).eval()
    assert can_pack(network, make_examples(), kind)
    assert can_pack(network, make_examples(1), kind)


def windowed(sliding_window):
    return MistralForCausalLM(MistralConfig(**ARCHITECTURE, sliding_window=sliding_window)).eval()


def test_packing_is_refused_beyond_a_sliding_window(make_examples):
    assert not can_pack(windowed(6), make_examples(), FLOAT)
    assert can_pack(windowed(64), make_examples(), FLOAT)


def test_the_window_is_that_of_all_that_is_packed(make_examples):
    examples, long = make_examples(), [Example((*range(1, 20), 19, 6), 2)]
    longest = max(len(example.ids) for example in examples)
    assert can_pack(windowed(longest), examples, FLOAT)
    assert not can_pack(windowed(longest), examples, FLOAT, long)
    assert can_pack(windowed(len(long[0].ids)), examples, FLOAT, long)
    for window, packed in ((longest + 2, False), (longest + 3, True)):
        tuned = VirtualTokens(
            windowed(window), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        )
        assert can_pack(tuned, examples, FLOAT) == packed


def test_the_window_of_a_nested_configuration_counts(make_examples):
    network = windowed(64)
    network.config = Gemma3Config(text_config={"sliding_window": 6})
    assert not can_pack(network, make_examples(), FLOAT)
