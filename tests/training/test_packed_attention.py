import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from playground.training import packed_attention
from playground.training.batches import pack, shared_prefix
from playground.training.text import row_loss

CONFIGS = {
    "grouped": LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=256),
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """Lengths of the queries that attention was computed for."""
    found = []
    real = functional.scaled_dot_product_attention

    def noted(query, *arguments, **more):
        found.append(query.shape[2])
        return real(query, *arguments, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)
    return found


def of(model, examples, prefix):
    """The loss of one packed row, and all gradients."""
    model.zero_grad()
    (row,) = pack(examples, prefix, 10_000, torch.device("cpu"), torch.float32, prompt_weight=0.5)
    loss = row_loss(model, row)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("shared", [True, False])
def test_part_by_part_is_the_same_as_the_whole_row(config, shared, make_examples, monkeypatch, calls):
    torch.manual_seed(0)
    model, examples = AutoModelForCausalLM.from_config(config).eval(), make_examples(6)
    prefix = shared_prefix(examples) if shared else 0
    own = [len(example.ids) - 1 - prefix for example in examples]
    loss, gradients = of(model, examples, prefix)
    assert calls == ([prefix] * shared + own) * 2
    calls.clear()
    monkeypatch.setattr(packed_attention, "PAYS", 1e9)
    wanted, theirs = of(model, examples, prefix)
    assert calls == [prefix + sum(own)] * 2
    torch.testing.assert_close(loss, wanted)
    for one, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_row_of_one_example_stays_whole(make_examples, calls):
    model = AutoModelForCausalLM.from_config(CONFIGS["grouped"])
    of(model, make_examples(1), 5)
    assert len(set(calls)) == 1 and len(calls) == 2


def test_other_masks_are_left_alone(calls):
    model = AutoModelForCausalLM.from_config(CONFIGS["grouped"]).eval()
    ids = torch.randint(0, 64, (2, 7))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    model(input_ids=ids, attention_mask=mask)
    model.generate(ids[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert calls == [7] * 2 + [7] * 2 + [1] * 4


def marked_row():
    """Queries, keys and values of a row of two examples behind two shared tokens, and its mask, marked."""
    sizes = [2, 3, 4]
    example = torch.tensor([0] * 2 + [1] * 3 + [2] * 4)
    seen = ((example[None] == example[:, None]) | (example == 0)[None]).tril()
    mask = packed_attention.mark(torch.zeros(1, 1, 9, 9).masked_fill(~seen, -1e9), sizes)
    return *(torch.randn(1, 2, 9, 8) for _ in range(3)), mask


def test_what_else_a_model_adds_to_its_scores_is_not_left_out(monkeypatch):
    monkeypatch.setattr(packed_attention, "PAYS", 0)
    query, key, value, mask = marked_row()
    bias = torch.randn(1, 2, 9, 9)
    found, _ = packed_attention.attention(torch.nn.Module(), query, key, value, mask, position_bias=bias)
    wanted = functional.scaled_dot_product_attention(query, key, value, mask + bias).transpose(1, 2)
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="softcap"):
        packed_attention.attention(torch.nn.Module(), query, key, value, mask, softcap=30.0)
