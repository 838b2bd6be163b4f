"""An image model whose denoiser is trained whole: made ready, and switched between both sets of weights."""

import torch
from torch import nn

from playground.errors import InvalidParams
from playground.models.image import ImageModel

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


def fill(network: nn.Module, trained: dict[str, torch.Tensor]) -> None:
    """Put trained weights into a network, and keep the base's beside them for ``switch``."""
    setattr(network, BASE, {name: value.detach().clone() for name, value in network.named_parameters()})
    setattr(network, TRAINED, trained)
    _copy(network, trained)


def switch(model: ImageModel, on: bool) -> None:
    """Draw with the trained weights, or with those the model came with; nothing where none were filled in."""
    for network in networks(model, text_encoders=True).values():
        if hasattr(network, BASE):
            _copy(network, getattr(network, TRAINED if on else BASE))


def _copy(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])
