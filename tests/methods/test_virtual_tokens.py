"""Prompt and prefix tuning: the forward pass with virtual tokens is PEFT's own, and what they start from."""

import warnings
from dataclasses import replace

import pytest
import tiny
import torch
from tiny import context, language_model, task
from transformers import DynamicCache

from playground.methods.p_tuning import PTuning
from playground.methods.prefix_tuning import PrefixTuning, PrefixTuningParams
from playground.methods.prompt_tuning import PromptTuning, PromptTuningParams
from playground.training.batches import encode, pack, pad, shared_prefix

METHODS = {"prefix": PrefixTuning(), "prompt": PromptTuning(), "encoder": PTuning()}
IDS = torch.tensor([[2, 6, 7, 1, 3, 12, 19, 1, 4], [0, 0, 2, 6, 7, 3, 20, 1, 4]])
MASK = (IDS != 0).long()


@pytest.fixture(params=METHODS)
def network(request):
    method = METHODS[request.param]
    return method.wrap(method.Params(virtual_tokens=5), language_model().model, seed=1).eval()


def peft(network, **inputs):
    """The logits of PEFT's own forward for the real tokens."""
    from peft import PeftModelForCausalLM

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = PeftModelForCausalLM.forward(network, **inputs).logits
    return logits[:, -inputs["input_ids"].shape[1] :]


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_forward_is_that_of_peft(network):
    with torch.no_grad():
        close(network(input_ids=IDS).logits, peft(network, input_ids=IDS))


def test_padded_rows_are_as_alone(network):
    positions = (MASK.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        together = network(input_ids=IDS, attention_mask=MASK, position_ids=positions).logits
    close(together[1, 2:], peft(network, input_ids=IDS[1:, 2:])[0])


def test_a_cache_of_the_callers_is_filled_once(network):
    cache = DynamicCache(config=network.config)
    ids = IDS[:1]
    with torch.no_grad():
        first = network(input_ids=ids[:, :4], past_key_values=cache, use_cache=True).logits
        assert cache.get_seq_length() == 4 + 5
        mask, positions = torch.ones(1, 9, dtype=torch.long), torch.arange(4, 9)[None]
        rest = network(
            input_ids=ids[:, 4:],
            past_key_values=cache,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
        ).logits
    assert cache.get_seq_length() == 9 + 5
    close(torch.cat([first, rest], dim=1), peft(network, input_ids=ids))


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 2, 8])])
def test_chosen_logits_are_those_of_the_real_tokens(network, keep):
    with torch.no_grad():
        chosen = network(input_ids=IDS, logits_to_keep=keep).logits
    places = keep if isinstance(keep, torch.Tensor) else slice(-keep, None)
    close(chosen, peft(network, input_ids=IDS)[:, places])


def test_a_packed_row_has_the_gradient_of_padded_lines(network):
    from playground.training.text import row_loss

    model = language_model()
    examples = encode(model, task(), task().train[:5])
    device, dtype = torch.device("cpu"), torch.float32
    gradients = []
    for rows in (pack(examples, shared_prefix(examples), 1024, device, dtype), [pad(examples, device)]):
        network.zero_grad()
        sum(row_loss(network, row) for row in rows).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.requires_grad])
    assert gradients[0] and all(gradient.abs().max() > 0 for gradient in gradients[0])
    for one, other in zip(*gradients, strict=True):
        close(one, other)


def embedding(method, params, folder, **changes):
    """What a run's virtual tokens are before the first step."""
    given = context(folder, **changes)
    network = method.wrap(params, given.model.model, seed=3)
    method.prepare(params, network, given)
    return network, network.prompt_encoder["default"].embedding.weight


def test_prompt_starts_as_the_instruction(tmp_path):
    network, start = embedding(PromptTuning(), PromptTuningParams(virtual_tokens=5), tmp_path)
    words = language_model().model.get_input_embeddings().weight
    assert torch.equal(start, words[[6, 7, 6, 7, 6]])  # "say where", repeated
    assert start.requires_grad and not network.get_input_embeddings().weight.requires_grad


def test_prompt_starts_as_examples(tmp_path):
    params = PromptTuningParams(virtual_tokens=9, start="examples")
    start = embedding(PromptTuning(), params, tmp_path)[1]
    model, first = language_model(), task().train[0]
    chat = [*task().messages(first.input), {"role": "assistant", "content": first.target}]
    ids = model.encode(chat, add_generation_prompt=False)[:9]
    assert torch.equal(start, model.model.get_input_embeddings().weight[ids])


def test_one_example_is_enough_to_start_from(tmp_path):
    params = PromptTuningParams(virtual_tokens=4, start="examples")
    few = replace(task(), train=task().train[:1])
    assert embedding(PromptTuning(), params, tmp_path, task=few)[1].shape == (4, 32)


def test_random_start_depends_on_the_seed_alone(tmp_path):
    params = PromptTuningParams(virtual_tokens=5, start="random")
    one = embedding(PromptTuning(), params, tmp_path)[1]
    other = embedding(PromptTuning(), params, tmp_path)[1]
    assert torch.equal(one, other)


def test_prefix_starts_as_if_the_text_had_been_read(tmp_path):
    network, _ = embedding(PrefixTuning(), PrefixTuningParams(virtual_tokens=4), tmp_path)
    text = torch.tensor([[6, 7, 6, 7]])
    with torch.no_grad():
        read = language_model().model(input_ids=torch.cat([text, IDS[:1]], dim=1)).logits[:, 4:]
        close(network(input_ids=IDS[:1]).logits, read)


def test_a_restored_encoder_can_be_written_again(tmp_path):
    from safetensors.torch import load_file

    params = PTuning.Params(virtual_tokens=4, epochs=1)
    tiny.adapt(PTuning(), params, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    PTuning().write(PTuning().restore(params, context(tmp_path)).model.model, again)
    files = [folder / "adapter_model.safetensors" for folder in (tmp_path / "adapter", again)]
    assert torch.equal(*(load_file(file)["prompt_embeddings"] for file in files))


def test_the_context_is_shorter_by_the_virtual_tokens(tmp_path):
    given = context(tmp_path)
    whole = given.model.context_length
    given.model.model = PromptTuning().wrap(PromptTuningParams(virtual_tokens=5), given.model.model)
    assert given.model.context_length == whole - 5
