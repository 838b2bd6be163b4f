"""PEFT's LoRA layers with less memory traffic: the same numbers, fewer passes over large tensors.

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling``: the product with B, its scaling and the sum each
write a tensor as large as the output, and autograd does the same again on the way back. Here the low-rank
part is added into the base layer's result by the matrix product itself; of a small layer it is added to the weight,
which leaves one product instead of three narrow ones. A quantised base weight is
dequantised for the product and again for its gradient, and kept in neither.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
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


class _MergedLinear(torch.autograd.Function):
    """y = x·(W + scaling · B·A)ᵀ + b, in ``half`` where that is not None; shapes as in ``_LowRankLinear``.

    The gradients of A and B come from that of the sum, (out, in): cheap where the layer is small.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, down, up, scaling, half):
        merged = torch.addmm(weight, up, down, alpha=scaling)
        if half is not None:
            merged = merged.to(half)
        ctx.save_for_backward(x, merged, down, up)
        ctx.scaling = scaling
        return F.linear(x, merged, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, merged, down, up = ctx.saved_tensors
        x_gradient = gradient @ merged if ctx.needs_input_grad[0] else None
        both = (gradient.T @ x).to(down.dtype).mul_(ctx.scaling)
        return x_gradient, None, None, up.T @ both, both @ down.T, None, None


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
        isinstance(base, nn.Linear)  # LoRA on convolutions has neither of what follows
        and name in layer.lora_A
        and not others
        and type(layer.lora_variant.get(name)) in (type(None), Residual)
        and not layer.fan_in_fan_out
        and not layer.lora_bias[name]
        and isinstance(layer.lora_dropout[name], nn.Identity)
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
    small = down0 is None and not quantised(base) and _small(layer, name)

    def weight(half: torch.dtype | None = None) -> torch.Tensor:
        if half is not None:
            return base.weight.to(half)
        rounded = getattr(base, "rounded", None)  # see mixed.half_products
        if quantised(base):
            return dequantise(base, HALF if rounded else None)
        return base.weight if rounded is None else rounded

    def forward(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        special = layer.disable_adapters or layer.merged or args or kwargs
        half = _autocast(x.device.type)
        if special or (half and (quantised(base) or x.device.type != "cpu")):
            return original(layer, x, *args, **kwargs)
        if half is None and x.dtype != down.weight.dtype:
            return original(layer, x, *args, **kwargs)
        bias = base.bias
        if half is not None:  # as autocast rounds what the layers multiply
            x, bias = x.to(half), None if bias is None else bias.to(half)
        rows, scaling = x.reshape(-1, x.shape[-1]), layer.scaling[name]
        if small and getattr(base, "rounded", None) is None:
            result = _MergedLinear.apply(rows, base.weight, bias, down.weight, up.weight, scaling, half)
        else:
            low = (down.weight, up.weight, down0, up0)
            if half is not None:
                low = tuple(part if part is None else part.to(half) for part in low)
            result = _LowRankLinear.apply(rows, partial(weight, half), bias, *low, scaling)
        return result.view(*x.shape[:-1], -1)

    forward.fused = True
    return forward


def _small(layer, name: str) -> bool:
    """Whether one more product of the layer's size costs less than the narrow ones with A and B that it saves."""
    outputs, inputs = layer.get_base_layer().weight.shape
    return outputs * inputs <= 8 * layer.r[name] * (outputs + inputs)


def _autocast(device: str) -> torch.dtype | None:
    """The type that autocast multiplies in there; None where it is off."""
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)
