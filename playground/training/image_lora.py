"""Low-rank matrices on an image model: added, switched off and on. Files: playground.training.diffusion_files."""

import torch
from peft import LoraConfig
from torch import nn

from playground.models.image import ImageModel

NAME = "default"


def add(
    model: ImageModel,
    rank: int,
    alpha: float,
    *,
    wide: bool = False,
    text_encoders: bool = False,
    seed: int = 0,
) -> None:
    """Put fresh matrices beside the family's layers; only they require a gradient, in float32.

    Args:
        wide: beside feed-forward layers and convolutions, too, not attention alone (LoCon).
    """
    family = model.family
    networks = [(model.denoiser, family.lora_targets + (family.wide_lora_targets if wide else ()))]
    if text_encoders:
        networks += [(encoder, family.text_lora_targets) for encoder in model.text_encoders.values()]
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
    for network in adapted(model).values():
        network.enable_adapters() if on else network.disable_adapters()


def adapted(model: ImageModel) -> dict[str, nn.Module]:
    """The networks of the pipeline that carry matrices, by their names in it."""
    return {
        name: part
        for name, part in model.pipeline.components.items()
        if isinstance(part, nn.Module) and getattr(part, "peft_config", None)
    }


def _config(rank: int, alpha: float, targets) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=True)
