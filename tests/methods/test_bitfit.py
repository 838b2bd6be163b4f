"""BitFit on tiny random models."""

import json

import pytest
import tiny
import torch
from architectures import model_of, network
from tiny import context, language_model, logits
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from playground.errors import AdapterError, InvalidParams
from playground.methods.bitfit import BitFit, BitFitParams
from playground.training import checkpoints
from playground.training.batches import can_pack, encode
from playground.training.biases import load_biases, targets

PARAMS = BitFitParams(learning_rate=5e-2, epochs=30, batch_size=7)
SHORT = BitFitParams(learning_rate=5e-2, epochs=2, batch_size=7)


def adapt(folder, params=PARAMS, **changes):
    return tiny.adapt(BitFit(), params, folder, **changes)


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
    # q 32, k 16, v 16, o 32, gate 48, up 48, down 32
    added = 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32)
    base = sum(parameter.numel() for parameter in language_model().model.parameters())
    assert finished.adapted.trainable_parameters == added
    assert finished.adapted.total_parameters == base + added
    folder = finished.context.folder / "adapter"
    assert {file.name for file in folder.iterdir()} == {
        "bitfit.safetensors",
        "bitfit_config.json",
        "playground.json",
    }
    assert finished.adapted.stored_bytes == sum(file.stat().st_size for file in folder.iterdir())


def test_the_log_says_what_was_added(finished):
    texts = [event.data["text"] for event in finished.events if event.kind == "log"]
    assert (
        "The chosen layers have no biases; 14 linear layers had none and get one that starts at zero."
        in texts
    )


def test_the_log_says_what_was_there(tmp_path):
    texts = [
        e.data["text"] for e in adapt(tmp_path, SHORT, model=model_of("qwen2")).events if e.kind == "log"
    ]
    assert any(text.startswith("6 biases of the model are trained; 8 linear layers") for text in texts)


@pytest.mark.parametrize(
    ("family", "layers", "existing", "missing"),
    [
        ("llama", "attention", 0, 8),
        ("llama", "mlp", 0, 6),
        ("qwen2", "attention", 6, 2),
        ("qwen2", "existing", 6, 0),
        ("gpt2", "all-linear", 2 * (4 + 2) + 1, 0),  # norms, too
        ("gpt2", "attention", 4, 0),
        ("gemma", "all-linear", 0, 14),
        ("opt", "mlp", 4, 0),
        ("llama", "query-intermediate", 0, 6),  # a block's q_proj, gate_proj, up_proj
        ("gpt2", "query-intermediate", 2, 0),  # c_fc: queries are part of a layer for keys and values, too
        ("opt", "query-intermediate", 4, 0),
    ],
)
def test_the_chosen_biases_are_found(family, layers, existing, missing):
    found = targets(network(family), layers)
    assert tuple(map(len, found)) == (existing, missing)
    wrapped = BitFit().wrap(BitFitParams(layers=layers), network(family))
    assert checkpoints.trainable(wrapped).keys() == {*found[0], *found[1]}


def test_a_model_without_biases_cannot_train_existing_ones():
    with pytest.raises(InvalidParams, match="has no biases to train"):
        BitFit().wrap(BitFitParams(layers="existing"), language_model().model)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2", "opt"])
def test_saved_restored_and_loaded_give_the_same_logits_and_off_is_the_base(family, tmp_path):
    tried = adapt(tmp_path, SHORT, model=model_of(family))
    adapted = logits(tried.adapted.model.model)
    restored = BitFit().restore(SHORT, context(tmp_path, model=model_of(family))).model.model
    assert torch.equal(logits(restored), adapted)
    BitFit().switch(restored, False)
    base = logits(network(family))
    assert torch.equal(logits(restored), base) and not torch.allclose(adapted, base, atol=0.05)
    BitFit().switch(restored, True)
    assert torch.equal(logits(restored), adapted)
    loaded = load_biases(network(family), tmp_path / "adapter")
    assert torch.equal(logits(loaded), adapted)
    assert not checkpoints.trainable(loaded)
    BitFit().merge(loaded)
    assert torch.equal(logits(loaded), adapted)


def test_a_fresh_one_changes_nothing():
    wrapped = BitFit().wrap(PARAMS, language_model().model)
    assert torch.equal(logits(wrapped), logits(language_model().model))


@pytest.mark.parametrize("layers", ["all-linear", "attention", "mlp", "query-intermediate"])
def test_merged_llama_is_saved_and_loaded_by_plain_transformers(layers, tmp_path):
    params = SHORT.model_copy(update={"layers": layers})
    merged = adapt(tmp_path, params).adapted.model.model
    assert type(merged) is LlamaForCausalLM
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(loaded), logits(merged))
    assert loaded.config.attention_bias == (layers != "mlp")
    assert loaded.config.mlp_bias == (layers != "attention")
    with pytest.raises(AdapterError, match="merged"):
        BitFit().switch(merged, False)


def test_merging_fills_missing_biases_of_a_kind_with_zeros(tmp_path):
    from safetensors.torch import load_file, save_file

    adapt(tmp_path, SHORT.model_copy(update={"layers": "attention"}))
    folder = tmp_path / "adapter"
    gone = "model.layers.1.self_attn.o_proj.bias"
    weights = load_file(folder / "bitfit.safetensors")
    save_file({name: value for name, value in weights.items() if name != gone}, folder / "bitfit.safetensors")
    about = json.loads((folder / "bitfit_config.json").read_text())
    about["trained"].remove(gone)
    (folder / "bitfit_config.json").write_text(json.dumps(about))
    merged = BitFit().merge(load_biases(language_model().model, folder))
    wanted = logits(merged)
    assert not merged.get_parameter(gone).any()
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), wanted)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_short_number_types_are_trained_in_float32_and_merged_as_they_came(family, tmp_path):
    tried = adapt(tmp_path, SHORT, model=model_of(family, dtype=torch.bfloat16))
    merged = tried.adapted.model.model
    assert {value.dtype for value in merged.parameters()} == {torch.bfloat16}
    loaded = load_biases(network(family, dtype=torch.bfloat16), tmp_path / "adapter")
    assert {value.dtype for name, value in loaded.named_parameters() if "bias" in name} == {torch.float32}
    assert torch.equal(logits(loaded), logits(merged))
    BitFit().switch(loaded, False)
    assert torch.equal(logits(loaded), logits(network(family, dtype=torch.bfloat16)))
    assert not torch.equal(logits(loaded), logits(merged))


def test_counts_on_the_meta_device():
    with torch.device("meta"):
        wrapped = BitFit().wrap(PARAMS, LlamaForCausalLM(language_model().model.config))
    assert sum(value.numel() for value in wrapped.parameters() if value.requires_grad) == 448
    assert all(value.is_meta for value in wrapped.parameters())


def test_packed_rows_stay_right():
    model = language_model()
    wrapped = BitFit().wrap(PARAMS, model.model)
    for value in checkpoints.trainable(wrapped).values():
        torch.nn.init.normal_(value, std=0.3)
    examples = encode(model, tiny.task(), tiny.task().train)
    assert can_pack(wrapped, examples, torch.float32)


def test_resumed_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    from dataclasses import replace

    plan = BitFit.plan
    monkeypatch.setattr(BitFit, "plan", lambda *args: replace(plan(*args), checkpoint_seconds=0.0))
    whole = adapt(tmp_path / "whole")
    generator = BitFit().adapt(PARAMS, context(tmp_path / "cut"))
    for event in generator:
        if event.kind == "progress" and event.data["done"] == 9:
            generator.close()
            break
    resumed = adapt(tmp_path / "cut", resume=True)
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
        BitFit().restore(PARAMS, context(copy.parent, model=language_model(num_hidden_layers=3)))
    with pytest.raises(AdapterError, match="does not fit"):
        load_biases(network("gpt2"), copy)
    file = copy / "bitfit.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    for act in (
        lambda: BitFit().restore(PARAMS, context(copy.parent)),
        lambda: load_biases(language_model().model, copy),
    ):
        with pytest.raises(AdapterError, match="damaged"):
            act()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "damaged"),
        ("[]", "not one of bitfit"),
        ('{"method": "lora"}', "not one of bitfit"),
        ('{"method": "bitfit", "trained": 3}', "does not say"),
        (
            '{"method": "bitfit", "trained": ["model.embed_tokens.bias"]}',
            "no place for model.embed_tokens.bias",
        ),
    ],
)
def test_foreign_descriptions_are_refused(copy, text, match):
    (copy / "bitfit_config.json").write_text(text)
    with pytest.raises(AdapterError, match=match):
        load_biases(language_model().model, copy)
