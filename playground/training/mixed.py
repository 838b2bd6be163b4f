"""Mixed precision on a CPU: the linear layers' products in bfloat16, everything else in float32.

Some newer CPUs multiply bfloat16 about twice as fast as float32, older ones many times slower:
``playground.models.device.half_pays`` decides. As in Micikevicius et al. 2018 (arXiv:1710.03740) the weights
that are trained, their gradients and the optimiser stay in float32. The output head stays in float32, too, where it
sees answer tokens only; for prompts' tokens see playground.training.token_losses.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from playground.models.device import half_pays
from playground.models.quantise import quantised
from playground.training import gated_mlp, gradients, token_losses
from playground.training.gated_mlp import HALF
from playground.training.structure import output_head

THIN = 64  # a trained layer with fewer rows or columns (an adapter's) is cheap: it stays in float32


def pays(device: torch.device) -> bool:
    """Whether this is a CPU that is faster in bfloat16."""
    return device.type == "cpu" and half_pays()


@contextmanager
def half_products(network: nn.Module, prompts: bool = False) -> Iterator[int]:
    """Inside the block the network's plain float32 linear layers multiply in bfloat16; gives their number.

    A frozen weight is rounded once and kept beside the original (2 bytes a weight); a trained one is
    rounded at each pass; a quantised one below a fused LoRA layer is dequantised to bfloat16. The output
    head, thin trained layers, other quantised ones and subclasses stay as they are.

    Args:
        prompts: prompts' tokens are learnt, too: the head is ready for them (playground.training.token_losses).
    """
    head = output_head(network)
    layers = [layer for layer in network.modules() if _plain(layer) and layer is not head]
    for layer in layers:
        layer.rounded = None if layer.weight.requires_grad else layer.weight.detach().to(HALF)
        layer.forward = _forward(layer)
    packed = [layer for layer in map(_packed_base, network.modules()) if layer is not None]
    for layer in packed:
        layer.rounded = True
    gated = _gated(network, {*layers})
    for module, parts in gated.items():
        module.forward = gated_mlp.forward(parts)
    try:
        with token_losses.ready(head if prompts else None):
            yield len(layers) + len(packed)
    finally:
        for module in gated:
            del module.forward
        for layer in layers:
            del layer.forward, layer.rounded
        for layer in packed:
            del layer.rounded


def _gated(network: nn.Module, layers: set[nn.Module]) -> dict[nn.Module, tuple[nn.Linear, ...]]:
    """MLPs all of whose layers are trained ones of ``layers``."""
    found = {module: gated_mlp.parts(module) for module in network.modules() if "forward" not in vars(module)}
    return {
        module: parts
        for module, parts in found.items()
        if parts and all(part in layers and part.rounded is None for part in parts)
    }


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x (rows, in) · weightᵀ (in, out), computed in the weight's type, given back in x's."""
    return F.linear(x.to(weight.dtype), weight).to(x.dtype)


def _plain(layer: nn.Module) -> bool:
    if type(layer) is not nn.Linear or layer.weight.dtype != torch.float32 or "forward" in vars(layer):
        return False
    return not layer.weight.requires_grad or min(layer.weight.shape) >= THIN


def _packed_base(layer: nn.Module) -> nn.Module | None:
    """The quantised layer below a LoRA layer that training.fused_lora computes."""
    if not getattr(vars(layer).get("forward"), "fused", False):
        return None
    base = layer.get_base_layer()
    return base if quantised(base) else None


def _forward(layer: nn.Linear):
    def forward(x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if layer.rounded is None:
            result = _Trained.apply(rows, layer.weight)
        else:
            result = _Frozen.apply(rows, layer.rounded)
        if layer.bias is not None:
            result = result + layer.bias
        return result.view(*x.shape[:-1], -1)

    return forward


class _Frozen(torch.autograd.Function):
    """y = x·Wᵀ with a frozen W (out, in) in bfloat16; x (rows, in), y (rows, out) in float32."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return (gradient.to(HALF) @ weight).to(gradient.dtype), None


class _Trained(torch.autograd.Function):
    """The same with a float32 W that is trained; x is kept in bfloat16 for W's gradient."""

    @staticmethod
    def forward(ctx, x, weight):
        half = x.to(HALF)
        ctx.save_for_backward(half, weight)
        ctx.parameter = weight
        return F.linear(half, weight.to(HALF)).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        half = gradient.to(HALF)
        x_gradient = (half @ weight.to(HALF)).to(gradient.dtype) if ctx.needs_input_grad[0] else None
        return x_gradient, gradients.of_product(ctx.parameter, half, x)
