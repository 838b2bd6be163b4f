import dataclasses
from copy import deepcopy

import pytest
import torch
from architectures import CONFIGS
from peft import LNTuningConfig, LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from playground.training import lower_blocks, text
from playground.training.batches import pack, shared_prefix
from playground.training.noise import embedding_noise, state_noise
from playground.training.text import Plan, evaluate_loss, row_loss, train

CPU, FLOAT = torch.device("cpu"), torch.float32
LIMIT = 40  # tokens of a pass: the examples need several
WHOLE = {"gpt2", "opt"}  # they add places to what goes in


def top_lora(model, blocks=(2,), **changes):
    torch.manual_seed(7)
    config = LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, **changes
    )
    wrapped = get_peft_model(model, config)
    for name, value in wrapped.named_parameters():
        inside = any(f".{at}." in name for at in blocks)
        value.requires_grad_(value.requires_grad and inside)
    return wrapped.train()


def loss_and_gradients(model, rows, lower=None):
    model.zero_grad(set_to_none=True)
    loss = sum(row_loss(model, row, lower) for row in rows)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]


def three_blocks(name):
    config = deepcopy(CONFIGS[name])
    config.num_hidden_layers = 3
    config.vocab_size = 64
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * 3
    for dropout in ("attn_pdrop", "resid_pdrop", "embd_pdrop", "dropout"):
        if hasattr(config, dropout):
            setattr(config, dropout, 0.0)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


@pytest.mark.parametrize("name", CONFIGS)
def test_same_loss_and_gradient_from_kept_states(make_examples, name):
    model, examples = top_lora(three_blocks(name)), make_examples(6)
    lower = lower_blocks.keep(model, examples, LIMIT, FLOAT)
    assert (lower is None) == (name in WHOLE)
    assert model.training
    if lower is None:
        return
    assert lower.count == 2
    prefix = shared_prefix(examples)
    wanted, theirs = loss_and_gradients(model, pack(examples, prefix, LIMIT, CPU, FLOAT))
    rows = pack(examples, prefix, LIMIT, CPU, FLOAT, lower.hidden)
    assert len(rows) > 1 and not any("input_ids" in row.inputs for row in rows)
    found, ours = loss_and_gradients(model, rows, lower)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    whole = evaluate_loss(model, examples, packed=True)
    assert evaluate_loss(model, examples, packed=True, lower=lower) == pytest.approx(whole, rel=1e-5)
    assert len(lower_blocks.blocks(model)) == 3  # the network is whole again


def test_a_training_learns_the_same_with_kept_states(make_model, make_examples, tmp_path, drain, monkeypatch):
    plan = Plan(mixed=False, epochs=3, batch_size=4, learning_rate=1e-2, threads=None, evals=3)
    curves, told = [], []
    for room in (lower_blocks.MOST_BYTES, 0):
        monkeypatch.setattr(lower_blocks, "MOST_BYTES", room)
        model = top_lora(make_model(num_hidden_layers=3), blocks=(1, 2))
        events, _ = drain(
            train(model, make_examples(12), make_examples(5, seed=1), plan, tmp_path / str(room))
        )
        curves.append([e.data["value"] for e in events if e.data.get("name") in {"train_loss", "dev_loss"}])
        told.append(any("1 blocks below" in e.data.get("text", "") for e in events))
    assert told == [True, False]
    assert len(curves[0]) > 10 and curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_chance_below_keeps_nothing(make_model, make_examples):
    examples = make_examples(4)
    model = top_lora(make_model(num_hidden_layers=3))
    with embedding_noise(model, 5.0, 10.0):
        assert lower_blocks.keep(model, examples, LIMIT, FLOAT) is None
    assert lower_blocks.keep(model, examples, LIMIT, FLOAT) is not None
    dropped = make_model(num_hidden_layers=3, attention_dropout=0.3)
    assert lower_blocks.keep(top_lora(dropped), examples, LIMIT, FLOAT) is None


def test_chance_above_is_no_hindrance(make_model, make_examples):
    model = top_lora(make_model(num_hidden_layers=3), lora_dropout=0.3)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.3
    lower = [block for block in lower_blocks.blocks(model)[:2]]
    for block in lower:
        for layer in block.layer.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
    assert lower_blocks.keep(model, make_examples(4), LIMIT, FLOAT) is not None


def test_what_is_trained_below_or_nowhere_leaves_nothing_to_keep(make_model):
    tied = make_model(num_hidden_layers=3, tie_word_embeddings=True)
    assert lower_blocks.frozen_below(tied) == 0  # all is trained
    tied.requires_grad_(False)
    assert lower_blocks.frozen_below(tied) == 0  # nothing is
    tied.model.layers[2].mlp.up_proj.weight.requires_grad_(True)
    tied.model.norm.weight.requires_grad_(True)
    assert lower_blocks.frozen_below(tied) == 2
    tied.lm_head.weight.requires_grad_(True)  # the embeddings, too
    assert lower_blocks.frozen_below(tied) == 0
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert lower_blocks.frozen_below(get_peft_model(make_model(), prompts)) == 0
    norms = LNTuningConfig(target_modules=["norm"], task_type="CAUSAL_LM")
    assert lower_blocks.frozen_below(get_peft_model(make_model(), norms)) == 0


def test_too_many_states_are_not_kept(make_model, make_examples, monkeypatch):
    monkeypatch.setattr(lower_blocks, "MOST_BYTES", 100)
    assert lower_blocks.keep(top_lora(make_model(num_hidden_layers=3)), make_examples(), LIMIT, FLOAT) is None


def test_an_example_longer_than_a_pass(make_model, make_examples):
    examples = make_examples(5)
    model = top_lora(make_model(num_hidden_layers=3))
    lower = lower_blocks.keep(model, examples, 3, FLOAT)
    assert {len(lower.hidden[e]) - len(e.ids) for e in examples} == {-1}


def test_the_rows_of_a_step_start_from_kept_states(make_model, make_examples, tmp_path, drain, monkeypatch):
    """Not only the same numbers: the lower blocks are really not run."""
    model = top_lora(make_model(num_hidden_layers=3))
    calls = []
    for at, block in enumerate(lower_blocks.blocks(model)):
        block.layer.register_forward_hook(lambda *_, at=at: calls.append(at))
    plan = dataclasses.replace(Plan(mixed=False, threads=None), epochs=5, batch_size=2, evals=1)
    monkeypatch.setattr(text, "can_pack", lambda *_: True)
    drain(train(model, make_examples(8), [], plan, tmp_path))
    assert calls.count(2) >= 20 and calls.count(0) <= 10


def test_noise_above_is_no_hindrance_and_is_not_kept(make_model, make_examples):
    examples = make_examples(4)
    model = top_lora(make_model(num_hidden_layers=3))
    exact = lower_blocks.keep(model, examples, LIMIT, FLOAT)
    with state_noise(model, 0.5):
        lower = lower_blocks.keep(model, examples, LIMIT, FLOAT)
        assert all(torch.equal(lower.hidden[one], exact.hidden[one]) for one in examples)
        (row,) = pack(examples, 5, 1000, CPU, FLOAT, lower.hidden)
        first, second = (row_loss(model, row, lower).item() for _ in range(2))
    assert first != second  # drawn anew at each step
