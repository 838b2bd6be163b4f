"""PEFT's LoRA layers with less memory traffic: the same numbers, fewer passes over large tensors.

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling``: the product with B, its scaling and the sum each
write a tensor as large as the output, and autograd does the same again on the way back. Here the low-rank
part is added into the base layer's result by the matrix product itself.
"""

import torch
from torch import nn

from playground.training.mixed import product


class _LowRankLinear(torch.autograd.Function):
    """y = x·Wᵀ + b + scaling · (x·Aᵀ)·Bᵀ for x (rows, in), frozen W (out, in) and b (out), A (rank, in), B (out, rank).

    W may have a shorter type than the rest: the large products are then computed in it.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scaling):
        low = x @ down.T
        result = product(x, weight)
        if bias is not None:
            result += bias
        result.addmm_(low, up.T, alpha=scaling)
        ctx.save_for_backward(x, weight, down, up, low)
        ctx.scaling = scaling
        return result

    @staticmethod
    def backward(ctx, gradient):
        x, weight, down, up, low = ctx.saved_tensors
        low_gradient = (gradient @ up).mul_(ctx.scaling)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = product(gradient, weight.T)
            x_gradient.addmm_(low_gradient, down)
        up_gradient = (low.T @ gradient).T.mul(ctx.scaling)
        return x_gradient, None, None, low_gradient.T @ x, up_gradient, None


def fuse(model: nn.Module) -> int:
    """Make the plain LoRA layers of a PEFT model compute the fused form; returns how many.

    Layers with dropout, several adapters, DoRA and the like, quantised weights or mixed number types
    stay as they are. ``unfuse`` undoes it.
    """
    from peft.tuners.lora import Linear

    layers = [layer for layer in model.modules() if type(layer) is Linear and _plain(layer)]
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
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and not layer.lora_bias[name]
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and type(base) is nn.Linear
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and base.weight.dtype == layer.lora_A[name].weight.dtype
    )


def _forward(layer):
    (name,) = layer.active_adapters
    base, down, up = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    original = type(layer).forward

    def forward(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        special = layer.disable_adapters or layer.merged or args or kwargs
        if special or (x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)):
            return original(layer, x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])
        rounded = getattr(base, "rounded", None)
        weight = base.weight if rounded is None else rounded
        result = _LowRankLinear.apply(rows, weight, base.bias, down.weight, up.weight, layer.scaling[name])
        return result.view(*x.shape[:-1], -1)

    forward.fused = True
    return forward
