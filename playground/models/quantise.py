"""Weights of linear layers in 4 or 8 bits (bitsandbytes): loading, counting, and back to plain numbers.

The output head and the embedding stay as they are. On a CPU two of bitsandbytes' short cuts are not
taken: in evaluation mode it would repack 4-bit weights for bfloat16 on some processors, after which no
gradient goes through them any more, and round the activations of 8-bit layers. Here training and
answering compute the same: the dequantised weight times the activations.
"""

import copy
from typing import Any

import torch
from torch import nn

from playground.errors import InvalidInput, ModelUnavailable
from playground.models.device import Device

# "nf4": 4-bit normal float, the scales quantised too (Dettmers et al. 2023, arXiv:2305.14314);
# "nf4-single": the scales in float32; "int8": LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339)
KINDS = ("nf4", "nf4-single", "int8")

PACKED = {"Params4bit", "Int8Params"}  # bitsandbytes' types of weights
BLOCK = 64  # weights that share one scale


def loading(kind: str, chosen: Device) -> dict[str, Any]:
    """What ``from_pretrained`` needs to quantise while it loads.

    Raises:
        InvalidInput: there is no such kind.
        ModelUnavailable: bitsandbytes is not here, or cannot work on the device.
    """
    if kind not in KINDS:
        raise InvalidInput(f"There is no quantisation “{kind}”: {', '.join(KINDS)}.", field="quantization")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelUnavailable(
            "Quantised models need the package bitsandbytes: pip install bitsandbytes."
        ) from error
    if torch.device(chosen.name).type not in {"cpu", "cuda"}:
        raise ModelUnavailable(
            f"Quantised models run on a CPU or a CUDA GPU, not on {chosen.name}: set PLAYGROUND_DEVICE=cpu."
        )
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=kind == "nf4",
            bnb_4bit_compute_dtype=chosen.dtype,
        )
    return {"quantization_config": config, "device_map": {"": chosen.name}}


def settle(network: nn.Module) -> nn.Module:
    """A network fresh from ``from_pretrained``, made to compute on a CPU as the module says.

    Raises:
        ModelUnavailable: a layer's width is one that bitsandbytes reads wrongly on a CPU.
    """
    for name, layer in network.named_modules():
        if not quantised(layer) or layer.weight.device.type != "cpu":
            continue
        if hasattr(layer, "state"):
            layer.forward = _eight_bit(layer)
            continue
        if layer.in_features % BLOCK:
            raise ModelUnavailable(
                f"This model cannot be packed into 4 bits on a CPU: the layer {name} is {layer.in_features} "
                f"wide, which is no multiple of {BLOCK}. Choose 8 bits, or LoRA."
            )
        layer.support_avx512bf16_for_cpu = False
    _leave_file(network)
    return network


def _leave_file(network: nn.Module) -> None:
    """Copy what was not packed: as a view of the mapped file it would keep the whole of it in memory."""
    for value in (*network.parameters(), *network.buffers()):
        if value.device.type == "cpu" and type(value).__name__ not in PACKED:
            value.data = value.data.clone()


def _eight_bit(layer: nn.Module):
    import bitsandbytes

    def forward(x: torch.Tensor) -> torch.Tensor:
        if layer.weight.CB is not None:
            layer.init_8bit_state()
        layer.state.is_training = True  # the product with the dequantised weight
        return bitsandbytes.matmul(x, layer.weight, bias=layer.bias, state=layer.state)

    return forward


def quantised(layer: nn.Module) -> bool:
    """Whether it is one of bitsandbytes' linear layers, its weight packed."""
    return type(getattr(layer, "weight", None)).__name__ in PACKED


def any_quantised(network: nn.Module) -> bool:
    """Whether a network has a quantised layer."""
    return any(quantised(layer) for layer in network.modules())


def dequantise(layer: nn.Module, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A quantised layer's weight as numbers, shape (out, in).

    Args:
        dtype: None = the type it was loaded with (8-bit: float32).
    """
    weight = layer.weight
    if type(weight).__name__ == "Params4bit":
        from bitsandbytes import functional

        if dtype is None:
            return functional.dequantize_4bit(weight.data, weight.quant_state)
        return functional.dequantize_4bit(weight.data, _in_type(weight.quant_state, dtype))
    scales = weight.SCB if weight.SCB is not None else layer.state.SCB
    values = weight.data.to(torch.float32).mul_(scales.unsqueeze(1) / 127)
    return values.to(dtype or torch.float32)


def _in_type(state: Any, dtype: torch.dtype) -> Any:
    """A 4-bit layer's tables, asking for another type of numbers."""
    other = copy.copy(state)
    other.dtype = dtype
    return other


@torch.no_grad()
def plain(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The same model with ordinary linear layers in ``dtype`` that hold the dequantised weights.

    The layers are changed one after another, so that few are in memory twice.
    """
    for name, layer in list(network.named_modules()):
        if not quantised(layer):
            continue
        with torch.device("meta"):
            linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        linear.weight = nn.Parameter(dequantise(layer).to(dtype), requires_grad=False)
        linear.bias = layer.bias
        network.set_submodule(name, linear.train(layer.training))
    if getattr(network, "hf_quantizer", None) is not None:
        network.hf_quantizer.remove_quantization_config(network)
        network.is_loaded_in_4bit = network.is_loaded_in_8bit = False
    return network


def numbers(parameter: nn.Parameter) -> int:
    """How many numbers a parameter stands for: packed 4-bit weights hold two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()


def loaded_bytes(network: nn.Module) -> int:
    """Bytes of all weights and buffers of a loaded network, scales and tables included; shared ones once."""
    tensors = [*network.parameters(), *network.buffers()]
    for layer in network.modules():
        if quantised(layer):
            tensors += _tables(layer)
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(sizes.values())


def _tables(layer: nn.Module) -> list[torch.Tensor]:
    weight = layer.weight
    if type(weight).__name__ == "Int8Params":
        return [weight.SCB if weight.SCB is not None else layer.state.SCB]
    state = weight.quant_state
    found = [state.absmax, state.code]
    if state.nested:
        found += [state.offset, state.state2.absmax, state.state2.code]
    return found
