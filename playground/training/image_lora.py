"""Low-rank matrices on an image model: added, switched off and on. Files: playground.training.diffusion_files."""

import torch
from peft import LoraConfig
from torch import nn

from playground.errors import InvalidParams
from playground.models.image import ImageModel

NAME = "default"
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")  # of a CLIP text model


def add(model: ImageModel, rank: int, alpha: float, *, text_encoders: bool = False, seed: int = 0) -> None:
    """Put fresh matrices beside the family's layers; only they require a gradient, in float32.

    Raises:
        InvalidParams: this model's text encoders have no layers of the known kind.
    """
    networks = [(model.denoiser, model.family.lora_targets)]
    if text_encoders:
        networks += [(encoder, TEXT_TARGETS) for encoder in clip_encoders(model)]
    for network, targets in networks:
        network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for network, targets in networks:
            network.add_adapter(_config(rank, alpha, targets), adapter_name=NAME)
    for network, _ in networks:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def switch(model: ImageModel, on: bool) -> None:
    """Draw with the matrices, or as the base model."""
    for network in adapted(model):
        network.enable_adapters() if on else network.disable_adapters()


def adapted(model: ImageModel) -> list[nn.Module]:
    """The networks of the pipeline that carry an adapter."""
    parts = model.pipeline.components.values()
    return [part for part in parts if isinstance(part, nn.Module) and getattr(part, "peft_config", None)]


def clip_encoders(model: ImageModel) -> list[nn.Module]:
    """The text encoders that are CLIP's.

    Raises:
        InvalidParams: there is none.
    """
    every = [getattr(model.pipeline, name) for name in model.family.text_encoder_names]
    found = [encoder for encoder in every if type(encoder).__name__.startswith("CLIP")]
    if not found:
        raise InvalidParams(
            "This model's text encoders cannot be trained here; leave them as they are.", "train_text_encoder"
        )
    return found


def _config(rank: int, alpha: float, targets) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=True)
