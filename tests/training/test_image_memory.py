"""The estimate of what adapting an image model takes, on the shipped model and on tiny pipelines."""

import pytest
import tiny_image
import torch
from torch import nn

from playground.methods.dreambooth import DreamBooth
from playground.methods.dreambooth_lora import DreamBoothLoRA
from playground.training.image_memory import assembled, memory, skeleton

MAKERS = [tiny_image.sd, tiny_image.sdxl, tiny_image.sd3, tiny_image.flux]


def meta(maker):
    pipeline = maker()
    parts = {
        name: part
        for name, part in pipeline.components.items()
        if part is not None and "tokenizer" not in name
    }
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.to("meta")
    made = assembled(type(pipeline).__name__, parts)
    made.default_sample_size = getattr(pipeline, "default_sample_size", None)
    return made


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("half", [False, True])
def test_weights_gradients_and_optimiser_are_counted(maker, half):
    pipeline = meta(maker)
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    total, vae = (sum(sum(value.numel() for value in one.parameters()) for one in some)
                  for some in (networks, [pipeline.vae]))  # fmt: skip
    denoiser = pipeline.components.get("unet") or pipeline.transformer
    trained = sum(value.numel() for value in denoiser.parameters())
    buffers = sum(value.nbytes for network in networks for value in network.buffers())
    told = memory(pipeline, DreamBooth(), DreamBooth.Params(batch_size=1), half=half)
    assert (told.gradients, told.optimizer, told.adapter) == (4 * trained, 8 * trained, 0)
    expected = (4 + 2) * trained + 4 * vae + 2 * (total - trained - vae) if half else 4 * total
    assert expected <= told.weights <= expected + buffers
    assert told.activations > 0


def test_a_lora_trains_its_matrices_alone():
    full = memory(meta(tiny_image.sd), DreamBooth(), DreamBooth.Params(), half=False)
    lora = memory(meta(tiny_image.sd), DreamBoothLoRA(), DreamBoothLoRA.Params(rank=2), half=False)
    assert lora.gradients == lora.adapter and lora.optimizer == 2 * lora.adapter
    assert 0 < lora.adapter < full.gradients / 4
    assert lora.total < full.total


def test_activations_grow_with_the_batch_and_with_the_prior():
    def activations(**values):
        return memory(meta(tiny_image.sd), DreamBooth(), DreamBooth.Params(**values), half=False).activations

    one = activations(batch_size=1, prior_preservation=False)
    assert activations(batch_size=4, prior_preservation=False) > 2 * one
    assert activations(batch_size=1) == activations(batch_size=2, prior_preservation=False) > one


def test_a_folder_is_read_without_its_weights(tmp_path):
    tiny_image.sdxl().save_pretrained(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    pipeline = skeleton(tmp_path)
    assert pipeline.unet.device == torch.device("meta")
    assert memory(pipeline, DreamBoothLoRA(), DreamBoothLoRA.Params(), half=True).total > 0
