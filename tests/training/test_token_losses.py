"""Losses of prompts' tokens in bfloat16: the answers' exact, all gradients near, one room for the head's."""

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from playground.training import gradients, token_losses
from playground.training.batches import Example, pack, pad
from playground.training.mixed import HALF, half_products
from playground.training.text import objective, row_loss
from playground.training.whole import lean_gradients, prepare

CPU, FLOAT, PREFIX = torch.device("cpu"), torch.float32, 3
SIZES = {"vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


def network(tied=True, **more):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4, tie_word_embeddings=tied, **more))


def examples():
    torch.manual_seed(1)
    return [Example((5, 6, 7, *torch.randint(1, 200, (n,)).tolist()), 3) for n in (20, 31, 17, 44)]


def packed(found=None):
    (row,) = pack(found or examples(), PREFIX, 1000, CPU, FLOAT, prompt_weight=0.1)
    return row


def learnt(model, rows, prompts):
    """The losses of all and of the answers, and every gradient."""
    gradients.clear(model.parameters())
    with half_products(model, prompts):
        parts = [objective(model, row) for row in rows]
        sum(part[0] for part in parts).backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return sum(part[0].item() for part in parts), sum(part[1].item() for part in parts), found


def near(one, other):
    return nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("block", [64, 4096])
def test_the_answers_losses_are_exact_and_the_gradients_near(monkeypatch, tied, block):
    monkeypatch.setattr(token_losses, "BLOCK", block)  # 200 rows: several blocks, the last one smaller; one
    monkeypatch.setattr(token_losses, "ROWS", 7)
    model = network(tied)
    loss, answers, exact = learnt(model, [packed()], False)
    near_loss, same, rounded = learnt(model, [packed()], True)
    assert same == pytest.approx(answers, rel=1e-6)
    assert near_loss != loss and near_loss == pytest.approx(loss, rel=1e-3)
    assert rounded.keys() == exact.keys() and "model.embed_tokens.weight" in exact
    assert all(near(rounded[name], exact[name]) for name in exact)


def test_padded_rows_give_the_same():
    model, padded = network(), pad(examples(), CPU, prefix=PREFIX, prompt_weight=0.1)
    assert (padded.labels == -100).any()
    loss, answers, wanted = learnt(model, [packed()], True)
    found = learnt(model, [padded], True)
    assert found[:2] == pytest.approx((loss, answers), rel=1e-3)
    assert all(near(found[2][name], wanted[name]) for name in wanted)


def test_gradients_of_several_rows_add_up_in_one_room():
    model, (first, *rest) = network(False), examples()
    parts = [packed([first]), packed(rest)]
    apart = [learnt(model, [part], True)[2]["lm_head.weight"] for part in parts]
    together = learnt(model, parts, True)[2]["lm_head.weight"]
    torch.testing.assert_close(together, sum(apart), rtol=1e-3, atol=1e-5)
    with half_products(model, True):
        rooms = []
        for part in parts:
            gradients.clear(model.parameters())
            row_loss(model, part).backward()
            rooms.append(model.lm_head.weight.grad)
    assert rooms[0].data_ptr() == rooms[1].data_ptr()
    torch.testing.assert_close(rooms[1], apart[1], rtol=1e-3, atol=1e-5)


def test_with_lean_gradients_the_tied_embedding_adds_its_own():
    model = prepare(network())
    _, _, exact = learnt(model, [packed()], False)
    lean_gradients(model, True)
    _, _, rounded = learnt(model, [packed()], True)
    assert near(rounded["model.embed_tokens.weight"], exact["model.embed_tokens.weight"])
    lean_gradients(model, False)


def test_a_frozen_head_is_left_as_it_is():
    model = network(False)
    model.lm_head.requires_grad_(False)
    with half_products(model, True):
        assert token_losses.of(model) is None
    assert learnt(model, [packed()], True)[:2] == learnt(model, [packed()], False)[:2]


def test_a_network_that_does_more_with_its_logits_is_asked_for_them():
    sizes = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    model = Gemma2ForCausalLM(
        Gemma2Config(**sizes, final_logit_softcapping=1.0, attention_dropout=0.5)
    ).train()
    row = pad(examples(), CPU, prefix=PREFIX, prompt_weight=0.1)

    def losses(prompts):
        torch.manual_seed(0)
        with half_products(model, prompts):
            assert (token_losses.of(model) is not None) == prompts
            found = [row_loss(model, row).item() for _ in range(2)]  # dropout: the second differs
            assert token_losses.of(model) is None
        return found

    wanted = losses(False)
    assert wanted[0] != wanted[1] and losses(True) == wanted


def test_only_a_plain_head_without_a_bias_is_made_ready_and_all_is_undone():
    for head in (None, nn.Linear(4, 9), nn.Linear(4, 9, bias=False, dtype=HALF), nn.Embedding(4, 9)):
        with token_losses.ready(head):
            assert head is None or token_losses.NAME not in vars(head)
    model = network()
    before = row_loss(model, packed()).item()
    with pytest.raises(ValueError), half_products(model, True):
        raise ValueError
    assert token_losses.of(model) is None and "forward" not in vars(model.lm_head)
    with half_products(model):
        assert token_losses.of(model) is None
    assert row_loss(model, packed()).item() == before
