"""LoRA on a tiny random Llama with a tiny tokenizer: no downloads."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from architectures import model_of
from tiny import context, language_model, logits, task
from transformers import LlamaForCausalLM

from playground.data.tasks import Item
from playground.errors import AdapterError, InvalidParams, RunFailed
from playground.methods.lora import LoRA, LoRAParams
from playground.training import checkpoints
from playground.training.batches import encode

PARAMS = LoRAParams(rank=4, alpha=8, learning_rate=2e-2, epochs=12, batch_size=7)


def adapt(folder, params=PARAMS, **changes):
    return tiny.adapt(LoRA(), params, folder, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run, for the tests that only read it."""
    return adapt(tmp_path_factory.mktemp("run"))


def test_answers_are_learnt(finished):
    samples = [event.data for event in finished.events if event.kind == "sample"]
    after = [sample for sample in samples if sample["stage"] == "after"]
    assert {sample["stage"] for sample in samples} == {"before", "during", "after"}
    assert all(sample["correct"] for sample in after) and len(after) == 3
    assert [s["item"] for s in samples if s["stage"] == "before"] == [s["item"] for s in after]
    assert {"step"} <= samples[0].keys()


def test_counts_and_bytes_are_exact(finished):
    # per layer: q and o 32→32, k and v 32→16, gate and up 32→48, down 48→32, rank 4
    per_layer = 4 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)
    base = sum(parameter.numel() for parameter in language_model().model.parameters())
    assert finished.adapted.trainable_parameters == 2 * per_layer
    assert finished.adapted.total_parameters == base + 2 * per_layer
    files = list((finished.context.folder / "adapter").iterdir())
    assert {file.name for file in files} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "playground.json",
    }
    assert finished.adapted.stored_bytes == sum(file.stat().st_size for file in files)
    (artifact,) = [event.data for event in finished.events if event.kind == "artifact"]
    assert artifact == {"name": "adapter", "path": "adapter", "bytes": finished.adapted.stored_bytes}


def test_merged_model_is_a_plain_one_and_checkpoints_are_gone(finished):
    assert isinstance(finished.adapted.model.model, LlamaForCausalLM)
    assert checkpoints.checkpoints(finished.context.folder) == []


def test_saved_reloaded_and_merged_give_the_same_logits(finished):
    restored = LoRA().restore(PARAMS, context(finished.context.folder)).model
    torch.testing.assert_close(
        logits(restored.model), logits(finished.adapted.model.model), rtol=1e-4, atol=1e-4
    )


def test_adapter_can_be_switched_off_and_on(finished):
    restored = LoRA().restore(PARAMS, context(finished.context.folder)).model
    adapted = logits(restored.model)
    LoRA().switch(restored.model, False)
    torch.testing.assert_close(logits(restored.model), logits(language_model().model))
    assert not torch.allclose(adapted, logits(restored.model), atol=0.1)
    LoRA().switch(restored.model, True)
    torch.testing.assert_close(logits(restored.model), adapted)
    with pytest.raises(AdapterError, match="no adapter"):
        LoRA().switch(finished.adapted.model.model, True)


def test_peft_itself_can_load_the_adapter(finished):
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(language_model().model, finished.context.folder / "adapter")
    torch.testing.assert_close(logits(loaded), logits(finished.adapted.model.model), rtol=1e-4, atol=1e-4)


def test_same_seed_same_adapter(tmp_path):
    params = PARAMS.model_copy(update={"epochs": 1})
    one, two = adapt(tmp_path / "1", params), adapt(tmp_path / "2", params)
    other = adapt(tmp_path / "3", params, seed=1)
    read = [
        (tried.context.folder / "adapter/adapter_model.safetensors").read_bytes()
        for tried in (one, two, other)
    ]
    assert read[0] == read[1] != read[2]


def test_resuming_a_finished_run_uses_its_adapter_and_clears_its_checkpoints(finished):
    left = finished.context.folder / checkpoints.FOLDER / "step-0000001"  # it ended before they were removed
    left.mkdir(parents=True)
    again = adapt(finished.context.folder, resume=True)
    assert not [event for event in again.events if event.kind == "progress"]
    torch.testing.assert_close(logits(again.adapted.model.model), logits(finished.adapted.model.model))
    assert not left.parent.exists()


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"task": replace(tiny.task(), data_hash="of other data")}], ids=["seed", "data"]
)
def test_a_result_of_other_data_or_another_seed_is_not_taken_for_this_trainings(tmp_path, other):
    params = PARAMS.model_copy(update={"epochs": 1})
    adapt(tmp_path / "run", params)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    resumed = adapt(tmp_path / "again", params, resume=True, **other)
    anew = adapt(tmp_path / "anew", params, **other)
    assert not any("finished before" in event.data.get("text", "") for event in resumed.events)
    assert torch.equal(logits(resumed.adapted.model.model), logits(anew.adapted.model.model))


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished adapter that a test may damage."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in (finished.context.folder / "adapter").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def refuse(copy, match, params=PARAMS, **changes):
    with pytest.raises(AdapterError, match=match):
        LoRA().restore(params, context(copy.parent, **changes))


def test_missing_adapter_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="did not finish"):
        LoRA().restore(PARAMS, context(tmp_path))


@pytest.mark.parametrize("name", ["playground.json", "adapter_model.safetensors"])
def test_incomplete_adapter_is_refused(copy, name):
    (copy / name).unlink()
    refuse(copy, f"incomplete: {name} is missing")


def test_cut_adapter_is_refused(copy):
    file = copy / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    refuse(copy, "damaged")


def test_changed_bytes_are_refused(copy):
    file = copy / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x40
    file.write_bytes(content)
    refuse(copy, "damaged")


def test_pickled_weights_are_never_opened(copy, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    (copy / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
    (copy / "adapter_model.safetensors").unlink()
    refuse(copy, "adapter_model.safetensors is missing")
    (copy / "adapter_model.safetensors").write_bytes(pickle.dumps(Evil()))
    refuse(copy, "damaged")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "optimizer.pt", "trainer_state.json", "training_args.bin"]
)
def test_pickles_beside_the_weights_are_left_alone(copy, tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    (copy / name).write_bytes(pickle.dumps(Path))
    LoRA().restore(PARAMS, context(copy.parent))


def test_weights_that_no_training_saved_there_are_refused(copy):
    shutil.copy(copy / "adapter_model.safetensors", copy / "other.safetensors")
    refuse(copy, "holds other.safetensors, which no training saved")


def test_adapter_of_another_model_is_refused(copy):
    refuse(copy, "revision", model=language_model(revision="other"))


def test_adapter_of_other_parameters_is_refused(copy):
    refuse(copy, "params", params=PARAMS.model_copy(update={"rank": 8}))


def test_adapter_of_another_shape_is_refused(copy):
    refuse(copy, "does not fit", model=language_model(num_hidden_layers=3))


@pytest.mark.parametrize("text", ["[]", "{", '{"method": "lora"}'])
def test_foreign_description_is_refused(copy, text):
    (copy / "playground.json").write_text(text)
    refuse(copy, "adapter")


def test_full_disk_leaves_no_adapter(tmp_path, monkeypatch):
    from peft import PeftModel

    def full(self, folder, **_):
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    monkeypatch.setattr(PeftModel, "save_pretrained", full)
    with pytest.raises(RunFailed, match="disk is full"):
        adapt(tmp_path, PARAMS.model_copy(update={"epochs": 1}))
    assert not (tmp_path / "adapter").exists() and not list(tmp_path.glob(".*"))
    assert checkpoints.checkpoints(tmp_path)  # the training can be resumed once there is room


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rank": 0}, "Rank cannot be 0. It must be between 1 and 256"),
        ({"rank": -3}, "Rank"),
        ({"learning_rate": 0}, "Learning rate"),
        ({"epochs": 0}, "Epochs"),
        ({"layers": "some"}, "Layers cannot be 'some'. It must be one of all-linear"),
        ({"learning_rate": float("nan")}, "Learning rate"),
        ({"ranks": 4}, "no parameter “ranks”"),
    ],
)
def test_impossible_parameters_are_refused(values, match):
    with pytest.raises(InvalidParams, match=match):
        LoRAParams.parse(values)


def test_a_task_without_training_examples_is_refused():
    with pytest.raises(InvalidParams, match="no training examples"):
        LoRA().check(PARAMS, replace(task(), train=()))


@pytest.mark.parametrize(("layers", "parts"), [("attention", "qkvo"), ("mlp", "gud")])
def test_only_the_chosen_layers_get_an_adapter(layers, parts):
    wrapped = LoRA().wrap(LoRAParams(layers=layers), language_model().model)
    changed = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in checkpoints.trainable(wrapped)}
    assert {name[0] for name in changed} == set(parts)


def test_answer_tokens_are_the_target_and_the_end_of_the_turn():
    model = language_model()
    (example,) = encode(model, task(), task().train[:1])
    words = model.tokenizer.convert_ids_to_tokens(list(example.ids))
    assert words[-example.answer :] == [task().train[0].target, "<end>"]
    assert list(example.ids[: -example.answer]) == model.encode(task().messages(task().train[0].input))


def test_adapter_describes_itself(finished):
    about = json.loads((finished.context.folder / "adapter/playground.json").read_text())
    assert about["model"] == "tiny" and about["revision"] == "abc" and about["params"]["rank"] == 4


def test_the_dev_loss_is_over_the_same_items_whatever_the_maximum_length(tmp_path, monkeypatch):
    import playground.training.text as text

    seen = []
    monkeypatch.setattr(text, "train", lambda network, examples, dev, *_, **__: seen.append((examples, dev)))
    short, *others = task().train
    long = Item("long", short.input + " " + " ".join(item.input for item in others), short.target)
    data = replace(task(), train=(short, long), dev=(long, short))
    for limit in (16, 512):
        ran = LoRA().adapt(PARAMS.model_copy(update={"max_length": limit}), context(tmp_path, task=data))
        with pytest.raises(TypeError):  # what stands in for the training gives nothing
            list(ran)
    (few, dev), (all_of_them, same) = seen
    assert len(few) == 1 and len(all_of_them) == 2
    assert [example.ids for example in dev] == [example.ids for example in same] and len(dev) == 2


def test_dev_items_that_the_model_cannot_read_are_left_out_and_named(tmp_path):
    model = model_of("gpt2")  # its positions are learned: there is none beyond its context
    room = model.context_length
    long = Item("long", " ".join([task().dev[0].input] * room), task().dev[0].target)
    data = replace(task(), dev=(*task().dev, long))
    ran = adapt(tmp_path, PARAMS.model_copy(update={"epochs": 1}), model=model, task=data)
    warnings = [e.data["text"] for e in ran.events if e.kind == "log" and e.data["level"] == "warning"]
    assert f"1 of 8 dev examples are longer than {room} tokens and are left out." in warnings
