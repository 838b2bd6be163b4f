"""PEFT's LoRA layers with less memory traffic: the same numbers, fewer passes over large tensors.

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling``: the product with B, its scaling and the sum each
write a tensor as large as the output, and autograd does the same again on the way back. Here the low-rank
part is added into the base layer's result by the matrix product itself. A quantised base weight is
dequantised for the product and again for its gradient, and kept in neither.
"""

from collections.abc import Callable

import torch
from torch import nn

from playground.models.quantise import dequantise, quantised
from playground.training.mixed import HALF, product
from playground.training.residual_lora import Residual


class _LowRankLinear(torch.autograd.Function):
    """y = x·Wᵀ + b + scaling · ((x·Aᵀ)·Bᵀ − (x·A0ᵀ)·B0ᵀ).

    x (rows, in), frozen W (out, in) and b (out), trained A (rank, in) and B (out, rank), frozen A0 and B0 of
    the same shapes, or None. ``weight()`` gives W, which may have a shorter type than the rest: the large
    products are then computed in it.
    """

    @staticmethod
    def forward(ctx, x, weight: Callable[[], torch.Tensor], bias, down, up, down0, up0, scaling):
        low = x @ down.T
        result = product(x, weight())
        if bias is not None:
            result += bias
        result.addmm_(low, up.T, alpha=scaling)
        if down0 is not None:
            result.addmm_(x @ down0.T, up0.T, alpha=-scaling)
        ctx.save_for_backward(x, down, up, down0, up0, low)
        ctx.weight, ctx.scaling = weight, scaling
        return result

    @staticmethod
    def backward(ctx, gradient):
        x, down, up, down0, up0, low = ctx.saved_tensors
        low_gradient = (gradient @ up).mul_(ctx.scaling)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = product(gradient, ctx.weight().T)
            x_gradient.addmm_(low_gradient, down)
            if down0 is not None:
                x_gradient.addmm_(gradient @ up0, down0, alpha=-ctx.scaling)
        up_gradient = (low.T @ gradient).T.mul(ctx.scaling)
        return x_gradient, None, None, low_gradient.T @ x, up_gradient, None, None, None


def fuse(model: nn.Module) -> int:
    """Make the plain LoRA layers of a PEFT model compute the fused form; returns how many.

    Layers with dropout, several adapters, DoRA and the like, or mixed number types stay as they are, and
    quantised ones on a GPU, where bitsandbytes has kernels of its own. ``unfuse`` undoes it.
    """
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and _plain(layer)]
    for layer in layers:
        layer.forward = _forward(layer)
    return len(layers)


def unfuse(model: nn.Module) -> None:
    """Give the layers PEFT's own forward back."""
    for layer in model.modules():
        if getattr(layer.__dict__.get("forward"), "fused", False):
            del layer.forward


def _plain(layer) -> bool:
    (name, *others) = layer.active_adapters or [None]
    base = layer.get_base_layer()
    return (
        name in layer.lora_A
        and not others
        and type(layer.lora_variant.get(name)) in (type(None), Residual)
        and not layer.fan_in_fan_out
        and not layer.lora_bias[name]
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and isinstance(base, nn.Linear)
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and _dtype(base) == layer.lora_A[name].weight.dtype
    )


def _dtype(base: nn.Linear) -> torch.dtype | None:
    """The number type of a base layer's weight as it is multiplied; None where that is not done here."""
    if type(base) is nn.Linear:
        return base.weight.dtype
    if not quantised(base) or base.weight.device.type != "cpu":
        return None
    state = getattr(base.weight, "quant_state", None)
    return torch.float32 if state is None else state.dtype


def _forward(layer):
    (name,) = layer.active_adapters
    base, down, up = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    down0, up0 = getattr(layer, "start_A", None), getattr(layer, "start_B", None)
    original = type(layer).forward

    def weight() -> torch.Tensor:
        rounded = getattr(base, "rounded", None)  # see mixed.half_products
        if quantised(base):
            return dequantise(base, HALF if rounded else None)
        return base.weight if rounded is None else rounded

    def forward(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        special = layer.disable_adapters or layer.merged or args or kwargs
        autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        if special or autocast or x.dtype != down.weight.dtype:
            return original(layer, x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])
        result = _LowRankLinear.apply(
            rows, weight, base.bias, down.weight, up.weight, down0, up0, layer.scaling[name]
        )
        return result.view(*x.shape[:-1], -1)

    forward.fused = True
    return forward
