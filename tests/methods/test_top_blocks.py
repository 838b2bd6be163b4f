"""Techniques that can leave the lower blocks as they are: what is trained, saved, loaded elsewhere, refused."""

import pytest
import tiny
import torch
from peft import PeftModel
from tiny import context, language_model, logits
from tiny_settings import TUNERS

from playground.errors import InvalidParams
from playground.methods.parametric import BlockParams
from playground.methods.registry import methods
from playground.training.biases import load_biases
from playground.training.bottleneck import load_bottlenecks
from playground.training.checkpoints import trainable
from playground.training.structure import below, upper

SETTINGS = TUNERS | {
    "lora": {"learning_rate": 0.03},
    "bitfit": {"learning_rate": 0.1},
    "bottleneck": {"reduction": 4, "learning_rate": 0.05},
}
IDS = [
    id
    for id, method in methods().items()
    if issubclass(method.Params, BlockParams) and id != "qlora"  # QLoRA with it: test_qlora
]
LOADERS = {"bitfit": load_biases, "bottleneck": load_bottlenecks}


def parameters(id, top, **changes):
    values = {"epochs": 3, "batch_size": 7, "top_layers": top, "state_noise": 0.1} | SETTINGS[id] | changes
    return methods()[id].Params.parse(values)


@pytest.fixture(scope="module", autouse=True)
def float32():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYGROUND_DTYPE", "float32")
        yield


@pytest.fixture(scope="module", params=IDS)
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    id = request.param
    return id, folder, tiny.adapt(methods()[id], parameters(id, 1), folder)


@pytest.mark.parametrize("id", IDS)
def test_only_the_last_block_and_what_follows_is_trained(id):
    wrapped = methods()[id].wrap(parameters(id, 1), language_model().model)
    everywhere = methods()[id].wrap(parameters(id, 0), language_model().model)
    names = list(trainable(wrapped))
    assert any(".1." in name for name in names) and not any("layers.0." in name for name in names)
    assert any("layers.0." in name for name in trainable(everywhere))
    if id == "ln_tuning":
        assert any(".model.norm." in name for name in names)


def test_the_lower_block_is_computed_once_and_the_loss_falls(finished):
    _, _, tried = finished
    notes = [event.data["text"] for event in tried.events if event.kind == "log"]
    assert any(note.startswith("The 1 blocks below") for note in notes)
    told = [
        event.data for event in tried.events if event.kind == "metric" and event.data["name"] == "dev_loss"
    ]
    curve = [one["value"] for one in told if one["step"] is not None]
    assert curve[-1] < curve[0]


def test_restored_and_loaded_elsewhere_it_gives_the_same_logits(finished):
    id, folder, tried = finished
    after = logits(tried.adapted.model.model)
    assert not torch.allclose(after, logits(language_model().model), atol=1e-3)
    restored = methods()[id].restore(parameters(id, 1), context(folder)).model
    torch.testing.assert_close(logits(restored.model), after, rtol=1e-4, atol=1e-4)
    load = LOADERS.get(id, PeftModel.from_pretrained)
    plain = load(language_model().model, folder / "adapter").eval()
    torch.testing.assert_close(logits(plain), after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("id", IDS)
def test_more_blocks_than_there_are_is_refused(id):
    with pytest.raises(InvalidParams, match="has 2 blocks") as refused:
        methods()[id].wrap(parameters(id, 3), language_model().model)
    assert refused.value.field == "top_layers"


def test_the_blocks_below_are_named():
    network = language_model().model
    assert below(network, 0) == below(network, 2) == ()
    assert below(network, 1) == ("model.layers.0.",)
    assert [block.name for block in upper(network, 1)] == ["model.layers.1"]
