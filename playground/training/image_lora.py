"""Low-rank matrices on an image model: added, written, read, switched off and on."""

from pathlib import Path

import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from playground.models.image import ImageModel
from playground.training.adapter_files import tensors

NAME = "default"
FILE = "pytorch_lora_weights.safetensors"  # what diffusers looks for


def add(model: ImageModel, rank: int, alpha: float, *, text_encoders: bool = False, seed: int = 0) -> None:
    """Put fresh matrices beside the family's layers; only they require a gradient, in float32."""
    networks = [(model.denoiser, model.family.lora_targets)]
    if text_encoders:
        networks += [(encoder, model.family.text_lora_targets) for encoder in model.text_encoders.values()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for network, targets in networks:
            network.add_adapter(_config(rank, alpha, targets), adapter_name=NAME)
    for network, _ in networks:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def write(model: ImageModel, folder: Path) -> None:
    """One file that ``pipeline.load_lora_weights`` of diffusers takes, rank and alpha in its metadata."""
    networks = adapted(model)
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(part) for name, part in networks.items()}
    type(model.pipeline).save_lora_weights(folder, **layers, **_collate_lora_metadata(networks))


def read(model: ImageModel, folder: Path) -> None:
    """Put what ``write`` wrote into a model with fresh matrices of the same rank.

    Raises:
        AdapterError: it does not fit, or holds numbers that are not finite.
    """
    networks = adapted(model)
    fresh = {name: get_peft_model_state_dict(part) for name, part in networks.items()}
    expected = {f"{name}.{key}": value for name, state in fresh.items() for key, value in state.items()}
    found = tensors(folder / FILE, expected)
    for name, network in networks.items():
        state = {key: found[f"{name}.{key}"].to(network.device) for key in fresh[name]}
        set_peft_model_state_dict(network, state, adapter_name=NAME)


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
