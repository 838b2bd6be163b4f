"""Full fine-tuning on tiny random models."""

import json

import pytest
import tiny
import torch
from architectures import model_of, network
from tiny import context, language_model, logits
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from playground.errors import AdapterError, InvalidParams
from playground.methods.full import Full, FullParams
from playground.methods.lora import LoRA
from playground.training import checkpoints, structure

PARAMS = FullParams(learning_rate=3e-3, epochs=12, batch_size=7)
FAMILIES = ["llama", "llama-tied", "qwen2", "gemma", "gpt2", "gpt-neox"]


def adapt(folder, params=PARAMS, **changes):
    return tiny.adapt(Full(), params, folder, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return adapt(tmp_path_factory.mktemp("run"))


def test_answers_are_learnt(finished):
    after = [e.data for e in finished.events if e.kind == "sample" and e.data["stage"] == "after"]
    assert all(sample["correct"] for sample in after) and len(after) == 3


def test_every_parameter_is_trained(finished):
    base = language_model().model
    count = sum(parameter.numel() for parameter in base.parameters())
    assert finished.adapted.trainable_parameters == finished.adapted.total_parameters == count
    trained = dict(finished.adapted.model.model.named_parameters())
    assert trained.keys() == dict(base.named_parameters()).keys()
    assert all(not torch.equal(value, trained[name]) for name, value in base.named_parameters())


def test_result_is_a_plain_transformers_folder(finished):
    folder = finished.context.folder / "adapter"
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "playground.json",
    }
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is LlamaForCausalLM
    assert torch.equal(logits(loaded), logits(finished.adapted.model.model))
    assert finished.adapted.stored_bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert checkpoints.checkpoints(finished.context.folder) == []


def test_tokenizer_goes_with_a_model_that_was_loaded_from_a_folder(tmp_path):
    base = language_model()
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    wrapped = Full().wrap(PARAMS, AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    (tmp_path / "out").mkdir()
    Full().write(wrapped, tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == base.tokenizer.chat_template
    assert again("say north")["input_ids"] == base.tokenizer("say north")["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_restored_gives_the_same_logits_and_off_is_the_base(family, tmp_path):
    params = PARAMS.model_copy(update={"epochs": 1})
    tried = adapt(tmp_path, params, model=model_of(family))
    restored = Full().restore(params, context(tmp_path, model=model_of(family))).model.model
    adapted = logits(tried.adapted.model.model)
    assert torch.equal(logits(restored), adapted)
    Full().switch(restored, False)
    base = logits(network(family))
    assert torch.equal(logits(restored), base) and not torch.allclose(adapted, base, atol=0.1)
    Full().switch(restored, True)
    assert torch.equal(logits(restored), adapted)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")), adapted)


def test_trained_in_place_cannot_be_switched():
    wrapped = Full().wrap(PARAMS, language_model().model)
    with pytest.raises(AdapterError, match="base model's weights are gone"):
        Full().switch(wrapped, False)
    with pytest.raises(AdapterError, match="was merged"):
        Full().switch(Full().merge(wrapped), False)


def test_reduced_weights_are_trained_in_float32_and_stored_as_they_came(tmp_path):
    base = model_of("llama-tied", dtype=torch.bfloat16)
    tried = adapt(tmp_path, PARAMS.model_copy(update={"epochs": 2}), model=base)
    assert {value.dtype for value in tried.adapted.model.model.parameters()} == {torch.bfloat16}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert loaded.dtype == torch.bfloat16 and loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(logits(loaded), logits(tried.adapted.model.model))
    count = sum(value.numel() for value in loaded.parameters())
    assert (tmp_path / "adapter/model.safetensors").stat().st_size < 2 * count + 5_000
    model = model_of("llama-tied", dtype=torch.bfloat16)
    wanted = logits(model.model)
    restored = Full().restore(PARAMS.model_copy(update={"epochs": 2}), context(tmp_path, model=model)).model
    assert torch.equal(logits(restored.model), logits(loaded))
    Full().switch(restored.model, False)
    assert torch.equal(logits(restored.model), wanted)


def test_counts_on_the_meta_device():
    with torch.device("meta"):
        empty = LlamaForCausalLM(language_model().model.config)
        wrapped = Full().wrap(PARAMS, empty)
    assert all(value.requires_grad and value.is_meta for value in wrapped.parameters())


def test_quantised_weights_are_refused():
    model = language_model().model
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(
        torch.zeros(48, 32, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(InvalidParams, match="not quantised"):
        Full().wrap(PARAMS, model)


@pytest.mark.parametrize("family", ["llama-tied", "llama", "gpt2"])
def test_embedding_gradient_is_the_same_in_the_fast_form(family):
    ids = torch.tensor([[2, 6, 7, 1, 3, 12, 12, 1, 4]])
    gradients = []
    for fast in (False, True):
        wrapped = Full().wrap(PARAMS, network(family))
        Full().faster(wrapped, fast)
        wrapped(input_ids=ids, labels=ids).loss.backward()
        assert not any(value.grad.is_sparse for value in wrapped.parameters())
        gradients.append({name: value.grad for name, value in wrapped.named_parameters()})
        Full().faster(wrapped, False)
        assert not wrapped.get_input_embeddings().sparse
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def stop_at(folder, step, **changes):
    """Close a training after some steps, as a killed worker would end it."""
    generator = Full().adapt(PARAMS, context(folder, **changes))
    for event in generator:
        if event.kind == "progress" and event.data["done"] == step:
            generator.close()
            return


@pytest.mark.parametrize("family", ["llama-tied", "gpt2"])
def test_resumed_training_ends_with_the_same_weights(family, tmp_path, monkeypatch):
    from dataclasses import replace

    plan = Full.plan
    monkeypatch.setattr(Full, "plan", lambda *args: replace(plan(*args), checkpoint_seconds=0.0))
    whole = adapt(tmp_path / "whole", model=model_of(family))
    stop_at(tmp_path / "cut", 9, model=model_of(family))
    resumed = adapt(tmp_path / "cut", model=model_of(family), resume=True)
    assert any("Going on from step" in e.data["text"] for e in resumed.events if e.kind == "log")
    assert torch.equal(logits(resumed.adapted.model.model), logits(whole.adapted.model.model))


def test_damaged_and_foreign_files_are_refused(finished, tmp_path):
    copy = tmp_path / "adapter"
    copy.mkdir()
    for file in (finished.context.folder / "adapter").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(AdapterError, match="does not fit"):
        Full().restore(PARAMS, context(tmp_path, model=language_model(num_hidden_layers=3)))
    with pytest.raises(AdapterError, match="params"):
        Full().restore(PARAMS.model_copy(update={"epochs": 3}), context(tmp_path))
    about = json.loads((copy / "playground.json").read_text())
    (copy / "playground.json").write_text(json.dumps(about | {"method": "lora"}))
    with pytest.raises(AdapterError, match="method"):
        Full().restore(PARAMS, context(tmp_path))
    (copy / "playground.json").write_text(json.dumps(about))
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-2] ^= 0x40
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match="damaged"):
        Full().restore(PARAMS, context(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_decay_slows_what_lies_lower(family):
    model = Full().wrap(FullParams(layer_decay=0.5), network(family))
    groups = Full().groups(FullParams(layer_decay=0.5), model)
    factors = {value: factor for parameters, factor in groups for value in parameters}
    assert factors.keys() == set(model.parameters())
    count = len(structure.blocks(model))
    for at, block in enumerate(structure.blocks(model)):
        assert {factors[value] for value in block.layer.parameters()} == {0.5 ** (count - 1 - at)}
    assert {factors[value] for value in model.get_input_embeddings().parameters()} == {0.5**count}
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert factors[head] == (0.5**count if head is embedding else 1)
    last_norm = [value for name, value in model.named_parameters() if "norm" in name or "ln_f" in name][-1]
    assert factors[last_norm] == 1


def test_layer_decay_moves_lower_weights_less(tmp_path):
    base = dict(language_model().model.named_parameters())
    moved = {}
    for decay in (1.0, 0.1):
        trained = adapt(tmp_path / str(decay), PARAMS.model_copy(update={"layer_decay": decay, "epochs": 2}))
        moved[decay] = {
            name: (value - base[name]).abs().mean().item()
            for name, value in trained.adapted.model.model.named_parameters()
        }
    low, high = "model.embed_tokens.weight", "model.norm.weight"
    assert moved[0.1][low] < 0.2 * moved[1.0][low] and moved[0.1][high] > 0.5 * moved[1.0][high]


def test_without_layer_decay_all_learn_at_one_rate():
    assert Full().groups(FullParams(), network("llama")) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_takes_both_sets_of_weights_and_those_of_16_bits_in_float32(dtype):
    base = model_of("llama", dtype=dtype).model
    numbers = sum(value.numel() for value in base.parameters())
    assert Full().merging_bytes(base) == 8 * numbers
    assert LoRA().merging_bytes(base) == dtype.itemsize * numbers
