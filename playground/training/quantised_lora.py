"""A LoRA on a quantised base, made into plain layers once for fast answers on a CPU."""

import psutil
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from playground.models.quantise import any_quantised, numbers, plain

SPARE = 1.5  # so many times the plain weights must be free


def room(network: nn.Module) -> bool:
    """Whether the network is on a CPU and its plain weights fit beside it."""
    first = next(parameter for parameter in network.parameters() if parameter.is_floating_point())
    needed = sum(numbers(parameter) for parameter in network.parameters()) * first.dtype.itemsize
    return first.device.type == "cpu" and psutil.virtual_memory().available > SPARE * needed


@torch.no_grad()
def merged(network: nn.Module) -> nn.Module:
    """The base model with plain layers: the dequantised weights, those with an adapter plus its update.

    Same function as the wrapped network's, to rounding; nothing is quantised again.
    """
    if not any_quantised(network):
        return network.merge_and_unload()
    base = network.get_base_model()
    dtype = next(one.dtype for one in base.parameters() if one.is_floating_point())
    layers = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    base = plain(network.unload(), dtype)
    for name, layer in layers.items():
        weight = base.get_submodule(name).weight
        (adapter,) = layer.active_adapters
        variant = layer.lora_variant.get(adapter)
        if variant is None:
            weight += layer.get_delta_weight(adapter).to(dtype)
        else:
            weight.copy_(variant.merge_safe(layer, adapter, weight.clone()))
    return base
