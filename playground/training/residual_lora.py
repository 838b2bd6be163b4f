"""LoRA layers that start from the base weight's own directions (PiSSA, OLoRA), on an untouched base.

PEFT takes the start B0·A0 out of the base weight and trains on the rest: ``W − s·B0·A0 + s·B·A``. Then the
base is no longer the model that others have, cannot be had back to the last digit, and cannot be packed
into 4 bits without a second loss. Here the base stays, and the layer subtracts the start beside it:
``W·x + s·B·A·x − s·B0·A0·x`` — the same function and the same gradients. What was learnt is then an
ordinary LoRA of twice the rank, [A; A0] and [B, −B0], for the original base.
"""

import copy

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from torch import nn

from playground.models.quantise import dequantise, quantised

ADAPTER = "default"


class Residual(LoraVariant):
    """PEFT's plain LoRA minus its own start, kept in the layer's buffers ``start_A`` and ``start_B``."""

    def supports_lora_conversion(self) -> bool:
        """The start is not an update that was learnt: PEFT's conversion does not apply."""
        return False

    @staticmethod
    def init(module, adapter_name, **_):
        """Nothing to do: ``start`` sets the layer up."""

    @staticmethod
    def merge_safe(module, active_adapter, orig_weight):
        """A new weight with the update added."""
        return orig_weight + update(module).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module, active_adapter, orig_weight):
        """The update added in place."""
        orig_weight.data += update(module).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module, active_adapter, orig_weight):
        """A new weight with the update taken out."""
        return orig_weight - update(module).to(orig_weight.dtype)

    @staticmethod
    def forward(module, active_adapter, x, result, **_):
        """``result`` of the base layer plus s·B·A·x − s·B0·A0·x."""
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        learnt = up(down(module.lora_dropout[active_adapter](x)))
        first = (x @ module.start_A.T) @ module.start_B.T
        return result + (learnt - first) * module.scaling[active_adapter]


@torch.no_grad()
def start(network: nn.Module, kind: str) -> None:
    """Set every LoRA layer of a freshly wrapped network to PEFT's start of that ``kind``, base untouched.

    Args:
        kind: "pissa", "pissa_niter_16", "olora"; or "orthogonal", which starts at zero, needs nothing
            subtracted, and is here because PEFT's own cannot be asked for on a quantised base.

    Raises:
        ValueError: the rank is above a layer's width; or a layer stores its weight transposed (GPT-2's),
            which PEFT's OLoRA cannot start from.
    """
    if kind != "orthogonal":
        refuse_wide_ranks(network)
    for layer in layers(network):
        base = layer.base_layer
        if base.weight.is_meta:
            continue
        if kind == "olora" and layer.fan_in_fan_out:
            raise ValueError("OLoRA cannot start from its transposed weights. Choose pissa, or default.")
        own = layer.lora_A[ADAPTER].weight.detach()  # for its type and device
        layer.base_layer = _copy(base)  # PEFT's start writes into it
        _pefts(layer, kind)
        layer.base_layer = base
        for name, part in (("start_A", layer.lora_A), ("start_B", layer.lora_B)):
            weight = part[ADAPTER].weight
            weight.data = weight.data.to(own).contiguous()
            if kind != "orthogonal":
                layer.register_buffer(name, weight.detach().clone(), persistent=False)
        if kind != "orthogonal":
            layer.lora_variant[ADAPTER] = Residual()


def _pefts(layer: LoraLayer, kind: str) -> None:
    if kind == "orthogonal":
        layer.orthogonal_init(ADAPTER)
    elif kind == "olora":
        layer.olora_init(ADAPTER)
    else:
        layer.pissa_init(ADAPTER, kind)


def layers(network: nn.Module) -> list[LoraLayer]:
    """The LoRA layers of a network that PEFT has wrapped."""
    return [module for module in network.modules() if isinstance(module, LoraLayer)]


def update(layer: LoraLayer) -> torch.Tensor:
    """s·(B·A − B0·A0), in the shape of the base weight."""
    change = layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight - layer.start_B @ layer.start_A
    return (change.T if layer.fan_in_fan_out else change) * layer.scaling[ADAPTER]


def refuse_wide_ranks(network: nn.Module) -> None:
    """A weight has only so many directions to start from.

    Raises:
        ValueError: the rank is above a layer's width.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer) and layer.r[ADAPTER] > min(layer.in_features, layer.out_features):
            width = min(layer.in_features, layer.out_features)
            place = name.removeprefix("base_model.model.")
            raise ValueError(f"the layer {place} has only {width} directions. Lower the rank to {width}.")


def started(network: nn.Module) -> bool:
    """Whether ``start`` has set this network up."""
    return any(type(layer.lora_variant.get(ADAPTER)) is Residual for layer in layers(network))


def kept(network: nn.Module) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """What was learnt as an ordinary LoRA of twice the rank on the original base: PEFT's configuration and tensors."""
    config = copy.copy(network.peft_config[ADAPTER])
    config.lora_alpha = 2 * config.r * layers(network)[0].scaling[ADAPTER]
    config.r, config.use_rslora, config.inference_mode = 2 * config.r, False, True
    tensors = get_peft_model_state_dict(network, save_embedding_layers=False)
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            tensors[down] = torch.cat([tensors[down], layer.start_A])
            tensors[up] = torch.cat([tensors[up], -layer.start_B], dim=1)
    return config, {name: value.detach().contiguous().cpu() for name, value in tensors.items()}


def _copy(base: nn.Module) -> nn.Module:
    """A layer whose weight is that of ``base``, as numbers, and may be written to."""
    made = nn.Module()
    weight = dequantise(base) if quantised(base) else base.weight.detach().clone()
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made
