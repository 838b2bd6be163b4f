"""LoftQ's start of a LoRA on a quantised base: A and B hold the main part of what the packing lost.

Li et al. 2023, arXiv:2310.08659, one alternation: B·A ≈ W − dequantised(W), by truncated SVD. PEFT has
the same for CUDA only, and leaves the update's scaling out.
"""

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.loftq_utils import _SafetensorLoader
from torch import nn
from transformers.pytorch_utils import Conv1D

from playground.models.quantise import dequantise, quantised
from playground.training.residual_lora import ADAPTER, refuse_wide_ranks

ITERATIONS = 16  # of the subspace in the randomised SVD


@torch.no_grad()
def start(network: nn.Module) -> None:
    """Set A and B (and DoRA's lengths) of every LoRA layer of a freshly wrapped network on a quantised base.

    Raises:
        ValueError: the base is not quantised, its original weights are no safetensors files on this machine,
            or the rank is above a layer's width.
    """
    refuse_wide_ranks(network)
    base = network.get_base_model()
    layers = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    if any(layer.base_layer.weight.is_meta for layer in layers.values()):
        return
    if not all(quantised(layer.base_layer) for layer in layers.values()):
        raise ValueError("it makes up for what quantising lost, and this base model is not quantised.")
    try:
        originals = _SafetensorLoader(network, base.name_or_path)
    except FileNotFoundError as error:
        raise ValueError("the original weights are not on this machine as safetensors.") from error
    for name, layer in layers.items():
        packed = layer.base_layer
        original = originals.get_tensor(f"{name}.weight")
        if issubclass(getattr(packed, "source_cls", nn.Linear), Conv1D):
            original = original.T
        kept = dequantise(packed).float()
        lost = original.to(packed.weight.device, torch.float32) - kept
        left, sizes, right = torch.svd_lowrank(lost, layer.r[ADAPTER], niter=ITERATIONS)
        root = (sizes / layer.scaling[ADAPTER]).sqrt()
        layer.lora_A[ADAPTER].weight.copy_((right * root).T)
        layer.lora_B[ADAPTER].weight.copy_(left * root)
        if ADAPTER in layer.lora_magnitude_vector:  # DoRA's lengths are those of what it starts from
            started = kept + layer.get_delta_weight(ADAPTER).float()
            layer.lora_magnitude_vector[ADAPTER].weight.copy_(started.norm(dim=1))
