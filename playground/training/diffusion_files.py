"""A finished image training on disk, in the form that diffusers loads: a LoRA, or whole networks.

A LoRA is ``pytorch_lora_weights.safetensors``; ``pipeline.load_lora_weights(folder)`` takes it with the right
scale, because the file's own metadata hold each layer's alpha (diffusers from 0.34 on reads them). Programs that
do not read them want the form of ``playground.training.kohya``. Whole networks lie in a folder each, named as
the pipeline's component, for ``from_pretrained(folder, subfolder="unet")``.

The functions write into and read from the folder that ``playground.training.adapter_files`` keeps.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from playground.errors import AdapterError
from playground.training import adapter_files

LORA_FILE = LORA_WEIGHT_NAME_SAFE
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
FLAT = (
    "text_model."  # which CLIPTextModel lost in transformers 5; files have it, and every version reads them
)

Networks = Mapping[
    str, nn.Module
]  # the pipeline's name of a component ("unet", "text_encoder" …) → the network


# A LoRA


def lora_of(networks: Networks, adapter: str = "default") -> tuple[dict[str, Tensor], dict[str, float]]:
    """The LoRA layers in these networks: their weights and their alphas.

    Returns:
        Tensors by "unet.<module>.lora_A.weight" and "….lora_B.weight" (those that training changes, not copies);
        alphas by "unet.<module>", such that a layer's scale is alpha / rank, however it was set.

    Raises:
        ValueError: a layer is more than a plain LoRA (DoRA, or one on an embedding).
    """
    tensors, alphas = {}, {}
    for component, network in networks.items():
        for name, layer in network.named_modules():
            if not isinstance(layer, LoraLayer) or adapter not in layer.r:
                continue
            if adapter not in layer.lora_A or adapter in layer.lora_magnitude_vector:
                raise ValueError(f"{component}.{name} is more than a plain LoRA layer.")
            module = module_name(component, network, name)
            tensors[module + DOWN] = layer.lora_A[adapter].weight
            tensors[module + UP] = layer.lora_B[adapter].weight
            alphas[module] = float(layer.scaling[adapter] * layer.r[adapter])
    return tensors, alphas


def module_name(component: str, network: nn.Module, name: str) -> str:
    """What a network's module is called in files."""
    name = name.removeprefix("base_model.model.")
    clip = component.startswith("text_encoder") and getattr(network, "config", None) is not None
    if clip and network.config.model_type == "clip_text_model" and name.startswith("encoder."):
        name = FLAT + name
    return f"{component}.{name}"


def module_names(networks: Networks) -> list[str]:
    """What all modules of these networks are called in files."""
    return [module_name(part, network, name) for part, network in networks.items()
            for name, _ in network.named_modules() if name]  # fmt: skip


def write_lora(networks: Networks, folder: Path, adapter: str = "default") -> None:
    """Write the LoRA layers of these networks into a folder, for ``pipeline.load_lora_weights(folder)``.

    Raises:
        ValueError: there are none, or a layer is more than a plain LoRA.
    """
    tensors, alphas = lora_of(networks, adapter)
    if not tensors:
        raise ValueError("There is no LoRA layer in the networks.")
    about = json.dumps(_metadata(tensors, alphas), indent=2, sort_keys=True)
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(kept, Path(folder) / LORA_FILE, metadata={"format": "pt", LORA_ADAPTER_METADATA_KEY: about})


def read_lora(networks: Networks, folder: Path, adapter: str = "default") -> None:
    """Put what ``write_lora`` wrote into networks that were wrapped alike.

    Raises:
        AdapterError: it is missing, damaged, holds numbers that are not finite, or has other layers or alphas.
            Nothing was changed.
    """
    expected, alphas = lora_of(networks, adapter)
    found = adapter_files.tensors(Path(folder) / LORA_FILE, expected)
    _, kept = read_lora_file(Path(folder) / LORA_FILE)
    other = [module for module, alpha in alphas.items() if abs(kept[module] - alpha) > 1e-6 * abs(alpha)]
    if other:
        raise AdapterError(
            f"The adapter was made with alpha {kept[other[0]]:g}, not with {alphas[other[0]]:g} ({other[0]})."
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(found[name])


def read_lora_file(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights and alphas of a LoRA file as ``write_lora`` writes it, see ``lora_of``.

    Raises:
        AdapterError: it is missing or damaged, or is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            told = (opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
        tensors = load_file(path)
        config = json.loads(told) if told else None
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"The adapter cannot be read, it is damaged: {error}") from error
    modules = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    if not isinstance(config, dict) or {m + end for m in modules for end in (DOWN, UP)} != set(tensors):
        raise AdapterError(f"{path.name} is not a LoRA that the playground wrote.")
    try:
        return tensors, {module: _alpha(module, config) for module in modules}
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{path.name} does not say its layers' alpha.") from error


def _alpha(module: str, config: Mapping[str, Any]) -> float:
    component, _, name = module.partition(".")
    pattern = config.get(f"{component}.alpha_pattern") or {}
    return float(pattern.get(_pattern(component, name.removeprefix(FLAT)), config[f"{component}.lora_alpha"]))


def _metadata(tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> dict[str, Any]:
    """The arguments of peft's LoraConfig for each component, as diffusers keeps them."""
    parts: dict[str, dict[str, tuple[int, float]]] = {}
    for module, alpha in alphas.items():
        component, _, name = module.partition(".")
        parts.setdefault(component, {})[name.removeprefix(FLAT)] = (len(tensors[module + DOWN]), alpha)
    told = {}
    for component, layers in parts.items():
        rank = Counter(rank for rank, _ in layers.values()).most_common(1)[0][0]
        alpha = Counter(alpha for _, alpha in layers.values()).most_common(1)[0][0]
        config = {
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": sorted(layers),
            "rank_pattern": {_pattern(component, name): r for name, (r, _) in layers.items() if r != rank},
            "alpha_pattern": {_pattern(component, name): a for name, (_, a) in layers.items() if a != alpha},
        }
        told |= {f"{component}.{name}": value for name, value in config.items()}
    return told


def _pattern(component: str, name: str) -> str:
    """peft takes a plain name as the end of a longer one, too: right for text encoders, see ``FLAT``."""
    return name if component.startswith("text_encoder") else f"^{name}"


# Whole networks


def write_networks(networks: Networks, folder: Path) -> None:
    """Write each network with its configuration into ``folder/<component>``, weights as they are in memory."""
    for component, network in networks.items():
        place = Path(folder) / component
        place.mkdir(parents=True)
        if isinstance(network, ModelMixin):
            network.save_config(place)
        else:
            network.config.save_pretrained(place)
        kept = {name: value.cpu().contiguous() for name, value in _state(network).items()}
        save_file(kept, place / _weights_name(network), metadata={"format": "pt"})


def read_networks(networks: Networks, folder: Path) -> None:
    """Put what ``write_networks`` wrote into networks of the same shapes.

    Raises:
        AdapterError: one is missing or damaged, does not fit, or holds numbers that are not finite. Nothing
            was changed.
    """
    states = {part: _state(network) for part, network in networks.items()}
    found = {
        part: adapter_files.tensors(Path(folder) / part / _weights_name(network), states[part])
        for part, network in networks.items()
    }
    with torch.no_grad():
        for part, state in states.items():
            for name, value in state.items():
                value.copy_(found[part][name])


def _weights_name(network: nn.Module) -> str:
    return SAFETENSORS_WEIGHTS_NAME if isinstance(network, ModelMixin) else "model.safetensors"


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Weights by name; of tied ones the first, the others follow from it."""
    state, seen = {}, set()
    for name, value in network.state_dict().items():
        place = (value.data_ptr(), value.shape)
        if value.numel() and place in seen:
            continue
        seen.add(place)
        state[name] = value.detach()
    return state
