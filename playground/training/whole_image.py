"""An image model whose denoiser is trained whole: made ready, written, read, switched between both sets of weights."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from playground.errors import InvalidParams
from playground.models.image import ImageModel
from playground.training.adapter_files import tensors

BASE = "_base_weights"  # attribute of a network that was filled with trained weights
TRAINED = "_trained_weights"


def require(model: ImageModel, *, text_encoders: bool = False) -> None:
    """Let every weight of the denoiser be trained, and of the text encoders where asked, in float32.

    Raises:
        InvalidParams: the weights are quantised.
    """
    for network in networks(model, text_encoders).values():
        if not all(value.is_floating_point() for value in network.parameters()):
            raise InvalidParams("DreamBooth needs a model that is not quantised; choose DreamBooth-LoRA.")
        network.float().requires_grad_(True)


def networks(model: ImageModel, text_encoders: bool) -> dict[str, nn.Module]:
    """The networks that are trained, by their names in the pipeline."""
    return {model.family.denoiser_name: model.denoiser} | (model.text_encoders if text_encoders else {})


def write(model: ImageModel, folder: Path, *, text_encoders: bool = False) -> None:
    """Each trained network in a folder of its own that ``from_pretrained`` of its class reads, in the type it came in."""
    for name, network in networks(model, text_encoders).items():
        place = folder / name
        place.mkdir()
        network.save_config(place) if hasattr(network, "save_config") else network.config.save_pretrained(
            place
        )
        weights = {
            key: value.detach().to(model.dtype).contiguous().cpu()
            for key, value in network.named_parameters()
        }
        save_file(weights, place / _file(network), {"format": "pt"})


def read(model: ImageModel, folder: Path, *, text_encoders: bool = False) -> None:
    """Put trained weights in, and keep the base's beside them for ``switch``.

    Raises:
        AdapterError: they do not fit, or hold numbers that are not finite.
    """
    for name, network in networks(model, text_encoders).items():
        own = dict(network.named_parameters())
        trained = tensors(folder / name / _file(network), own)
        setattr(network, BASE, {key: value.detach().clone() for key, value in own.items()})
        setattr(network, TRAINED, trained)
        _copy(network, trained)


def _file(network: nn.Module) -> str:
    return "diffusion_pytorch_model.safetensors" if hasattr(network, "save_config") else "model.safetensors"


def switch(model: ImageModel, on: bool) -> None:
    """Draw with the trained weights, or with those the model came with; nothing where none were filled in."""
    for network in networks(model, text_encoders=True).values():
        if hasattr(network, BASE):
            _copy(network, getattr(network, TRAINED if on else BASE))


def _copy(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])
