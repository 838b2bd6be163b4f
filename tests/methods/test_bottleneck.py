"""Bottleneck adapters on tiny random models."""

import json

import pytest
import tiny
import torch
from architectures import model_of, network
from tiny import context, language_model, logits
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, LlamaForCausalLM

from playground.errors import AdapterError, InvalidParams
from playground.methods.bottleneck import Bottleneck, BottleneckParams
from playground.training import bottleneck, checkpoints
from playground.training.batches import can_pack, encode
from playground.training.bottleneck import load_bottlenecks

PARAMS = BottleneckParams(reduction=4, learning_rate=2e-2, epochs=12, batch_size=7)
SHORT = BottleneckParams(reduction=4, learning_rate=2e-2, epochs=2, batch_size=7)
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3", "gpt2", "gpt-neox", "phi"]
PLACEMENTS = ["houlsby", "pfeiffer", "attention", "parallel"]


def adapt(folder, params=PARAMS, **changes):
    return tiny.adapt(Bottleneck(), params, folder, **changes)


def wrapped(family="llama", **changes):
    """A network with adapters that do something."""
    made = Bottleneck().wrap(BottleneckParams(**({"reduction": 4} | changes)), network(family))
    for value in checkpoints.trainable(made).values():
        nn.init.normal_(value, std=0.3)
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return adapt(tmp_path_factory.mktemp("run"))


def test_loss_falls_and_answers_are_learnt(finished):
    losses = [
        e.data["value"]
        for e in finished.events
        if e.kind == "metric" and e.data["name"] == "dev_loss" and e.data["step"] is not None
    ]
    assert losses[-1] < 0.3 * losses[0]
    after = [e.data for e in finished.events if e.kind == "sample" and e.data["stage"] == "after"]
    assert all(sample["correct"] for sample in after)


def test_counts_and_bytes_are_exact(finished):
    each = 2 * 32 * 8 + 32 + 8  # Houlsby et al.: 2md + d + m
    base = sum(parameter.numel() for parameter in language_model().model.parameters())
    assert finished.adapted.trainable_parameters == 2 * 2 * each
    assert finished.adapted.total_parameters == base + 2 * 2 * each
    folder = finished.context.folder / "adapter"
    assert {file.name for file in folder.iterdir()} == {
        "bottleneck.safetensors",
        "bottleneck_config.json",
        "playground.json",
    }
    assert finished.adapted.stored_bytes == sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("placement", "blocks"), [("houlsby", 4), ("pfeiffer", 2), ("attention", 2), ("parallel", 2)]
)
def test_placement_says_where_they_stand(family, placement, blocks):
    made = Bottleneck().wrap(BottleneckParams(reduction=4, placement=placement), network(family))
    count = sum(value.numel() for value in checkpoints.trainable(made).values())
    assert count == blocks * (2 * 32 * 8 + 32 + 8)
    assert torch.equal(logits(made), logits(network(family)))  # a fresh one changes nothing


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_switched_off_and_removed_is_exactly_the_base(family, placement):
    base = logits(network(family))
    made = wrapped(family, placement=placement)
    changed = logits(made)
    assert not torch.allclose(changed, base, atol=0.1)
    Bottleneck().switch(made, False)
    assert torch.equal(logits(made), base)
    Bottleneck().switch(made, True)
    assert torch.equal(logits(made), changed)
    names = [name for name, _ in network(family).named_modules()]
    bottleneck.remove(made)
    assert torch.equal(logits(made), base) and [name for name, _ in made.named_modules()] == names
    with pytest.raises(AdapterError, match="removed"):
        Bottleneck().switch(made, True)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_what_is_added_is_the_formula(activation):
    made = wrapped(activation=activation, placement="pfeiffer", scale=2.0)
    (adapter, *_) = [module for module in made.modules() if isinstance(module, bottleneck.Bottleneck)]
    block = made.model.layers[0].mlp
    x = torch.randn(1, 3, 32)
    out = block(x)
    adapter.enabled = False
    plain = block(x)
    function = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu}[activation]
    inner = function(plain @ adapter.down.weight.T + adapter.down.bias)
    wanted = plain + 2.0 * (inner @ adapter.up.weight.T + adapter.up.bias)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_a_parallel_one_reads_what_the_block_reads():
    made = wrapped(placement="parallel", scale=4.0)
    (adapter, *_) = [module for module in made.modules() if isinstance(module, bottleneck.Bottleneck)]
    block, x = made.model.layers[0].mlp, torch.randn(1, 3, 32)
    out = block(x)
    adapter.enabled = False
    inner = torch.relu(x @ adapter.down.weight.T + adapter.down.bias)
    wanted = block(x) + 4.0 * (inner @ adapter.up.weight.T + adapter.up.bias)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only():
    made = wrapped(dropout=0.5)
    assert torch.equal(logits(made), logits(made))
    made.train()
    assert not torch.equal(logits(made), logits(made))


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_restored_and_loaded_give_the_same_logits(family, tmp_path):
    tried = adapt(tmp_path, SHORT, model=model_of(family))
    adapted = logits(tried.adapted.model.model)
    restored = Bottleneck().restore(SHORT, context(tmp_path, model=model_of(family))).model.model
    assert torch.equal(logits(restored), adapted)
    assert not torch.allclose(adapted, logits(network(family)), atol=0.05)
    loaded = load_bottlenecks(network(family), tmp_path / "adapter")
    assert torch.equal(logits(loaded), adapted) and not checkpoints.trainable(loaded)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_packed_rows_and_caches_stay_right(family, placement):
    made = wrapped(family, placement=placement)
    model = model_of(family)
    model.model = made
    examples = encode(model, tiny.task(), tiny.task().train)
    assert can_pack(made, examples, torch.float32) == can_pack(network(family), examples, torch.float32)
    prompts = [model.encode(tiny.task().messages(item.input)) for item in tiny.task().dev]
    fast = {at: answer.text for at, answer in model.generate(prompts, 5)}
    for at, ids in enumerate(prompts[:3]):
        out = made.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False, use_cache=False)
        assert model.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip() == fast[at]


def test_short_number_types_get_adapters_in_float32():
    made = Bottleneck().wrap(PARAMS, network("llama", dtype=torch.bfloat16))
    assert {value.dtype for value in checkpoints.trainable(made).values()} == {torch.float32}
    assert logits(made).dtype == torch.bfloat16


def test_counts_on_the_meta_device():
    with torch.device("meta"):
        made = Bottleneck().wrap(PARAMS, LlamaForCausalLM(language_model().model.config))
    assert sum(value.numel() for value in made.parameters() if value.requires_grad) == 4 * 552
    assert all(value.is_meta for value in made.parameters())


def test_same_seed_same_start():
    one, two, other = (Bottleneck().wrap(PARAMS, network("llama"), seed).state_dict() for seed in (0, 0, 1))
    name = "model.layers.0.mlp.bottleneck.down.weight"
    assert torch.equal(one[name], two[name]) and not torch.equal(one[name], other[name])


def test_models_that_do_not_fit_are_refused_with_the_reason():
    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(InvalidParams, match="adds the layer's input by itself"):
        Bottleneck().wrap(PARAMS, bloom)
    with pytest.raises(InvalidParams, match="feed-forward block in each layer.*OPTForCausalLM"):
        Bottleneck().wrap(PARAMS, network("opt"))
    with pytest.raises(InvalidParams, match="No layers with an attention block"):
        Bottleneck().wrap(PARAMS, _Flat())


class _Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = language_model().model.config
        self.layer = nn.Linear(32, 32)


def test_resumed_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    from dataclasses import replace

    params = PARAMS.model_copy(update={"dropout": 0.1})
    plan = Bottleneck.plan
    monkeypatch.setattr(Bottleneck, "plan", lambda *args: replace(plan(*args), checkpoint_seconds=0.0))
    whole = adapt(tmp_path / "whole", params)
    generator = Bottleneck().adapt(params, context(tmp_path / "cut"))
    for event in generator:
        if event.kind == "progress" and event.data["done"] == 9:
            generator.close()
            break
    resumed = adapt(tmp_path / "cut", params, resume=True)
    assert any("Going on from step" in e.data["text"] for e in resumed.events if e.kind == "log")
    assert torch.equal(logits(resumed.adapted.model.model), logits(whole.adapted.model.model))


@pytest.fixture
def copy(finished, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in (finished.context.folder / "adapter").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_damaged_files_are_refused(copy):
    with pytest.raises(AdapterError, match="does not fit"):
        Bottleneck().restore(PARAMS, context(copy.parent, model=language_model(num_hidden_layers=3)))
    with pytest.raises(AdapterError, match="does not fit"):
        load_bottlenecks(network("gpt2"), copy)
    with pytest.raises(AdapterError, match="does not fit"):
        load_bottlenecks(network("opt"), copy)
    file = copy / "bottleneck.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    base = language_model().model
    for act in (
        lambda: Bottleneck().restore(PARAMS, context(copy.parent)),
        lambda: load_bottlenecks(base, copy),
    ):
        with pytest.raises(AdapterError, match="damaged"):
            act()
    assert torch.equal(logits(base), logits(language_model().model))  # and nothing is left in the model


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"method": "lora"}, "not one of bottleneck"),
        ({"size": "8"}, "does not exist"),
        ({"size": 10**9}, "does not exist"),
        ({"placement": "everywhere"}, "does not exist"),
        ({"unknown": 1}, "damaged"),
        ({"size": 4}, "does not fit"),
    ],
)
def test_foreign_descriptions_are_refused(copy, changes, match):
    about = json.loads((copy / "bottleneck_config.json").read_text())
    (copy / "bottleneck_config.json").write_text(json.dumps(about | changes))
    with pytest.raises(AdapterError, match=match):
        load_bottlenecks(language_model().model, copy)
