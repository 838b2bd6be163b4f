"""An image model whose denoiser is trained whole: made ready, read, switched between both sets of weights."""

from pathlib import Path

import torch
from torch import nn

from playground.errors import InvalidParams
from playground.models.image import ImageModel
from playground.training.diffusion_files import read_networks

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


def read(model: ImageModel, folder: Path, *, text_encoders: bool = False) -> None:
    """Put trained weights in, and keep the base's beside them for ``switch``.

    Raises:
        AdapterError: they do not fit, or hold numbers that are not finite.
    """
    parts = networks(model, text_encoders)
    base = {name: _copies(network) for name, network in parts.items()}
    read_networks(parts, folder)
    for name, network in parts.items():
        setattr(network, BASE, base[name])
        setattr(network, TRAINED, _copies(network))


def _copies(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def switch(model: ImageModel, on: bool) -> None:
    """Draw with the trained weights, or with those the model came with; nothing where none were filled in."""
    for network in networks(model, text_encoders=True).values():
        if hasattr(network, BASE):
            _copy(network, getattr(network, TRAINED if on else BASE))


def _copy(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])
