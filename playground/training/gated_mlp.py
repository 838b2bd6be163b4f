"""A gated MLP whose three weights are trained, with products in bfloat16: kept in little memory.

``y = (silu(x·W_gateᵀ) ∘ x·W_upᵀ)·W_downᵀ`` (SwiGLU, Shazeer 2020, arXiv:2002.05202), as Llama, Qwen and Mistral
have it. Layer by layer, autograd keeps four matrices (tokens × intermediate) for the backward pass, three of them in
float32. The two products come out in bfloat16: kept like that they lose nothing, and the rest is computed
again. 4 bytes a number instead of 14.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from playground.training import gradients

HALF = torch.bfloat16
_PARTS = ("gate_proj", "up_proj", "down_proj")


def parts(module: nn.Module) -> tuple[nn.Linear, ...] | None:
    """The gate's, the widening and the narrowing layer of such an MLP without biases; None for any other module.

    Some MLPs have these layers and multiply or clamp between them: a small one is asked what it computes.
    """
    layers = tuple(getattr(module, name, None) for name in _PARTS)
    if not all(type(layer) is nn.Linear and layer.bias is None for layer in layers):
        return None
    activation = getattr(module, "act_fn", None)
    if type(activation).__name__ not in {"SiLU", "SiLUActivation"}:
        return None
    more = module._modules.keys() - {*_PARTS, "act_fn"} or module._parameters or module._buffers
    return layers if not more and _is_plain(module) else None


def _is_plain(module: nn.Module) -> bool:
    """Whether the module's own ``forward``, with small layers in place of its own, gives the formula's result.

    So it costs next to nothing, and a network without weights is judged as a real one.
    """
    generator = torch.Generator().manual_seed(0)
    small = copy.copy(module)
    small._modules = dict(module._modules)
    small.training = True  # dropout would show itself
    gate, up, down = (nn.utils.skip_init(nn.Linear, *size, bias=False) for size in ((4, 6), (4, 6), (6, 4)))
    for name, layer in zip(_PARTS, (gate, up, down), strict=True):
        layer.weight.detach().normal_(generator=generator)
        small._modules[name] = layer
    x = torch.randn(1, 8, 4, generator=generator) * torch.logspace(-1, 3, 8)[:, None]  # what is clamped, too
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            found = small.forward(x)
    except Exception:  # whatever else it needs
        return False
    wanted = down(F.silu(gate(x)) * up(x)).detach()
    return isinstance(found, torch.Tensor) and found.shape == wanted.shape and torch.allclose(found, wanted)


def forward(layers: tuple[nn.Linear, ...]):
    """What stands in for the module's own ``forward``."""
    gate, up, down = layers

    def run(x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return _GatedMLP.apply(rows, gate.weight, up.weight, down.weight).view(x.shape)

    return run


class _GatedMLP(torch.autograd.Function):
    """x (rows, hidden) in float32, weights (intermediate, hidden) twice and (hidden, intermediate)."""

    @staticmethod
    def forward(ctx, x, gate_weight, up_weight, down_weight):
        half = x.to(HALF)
        gate, up = half @ gate_weight.to(HALF).T, half @ up_weight.to(HALF).T
        ctx.save_for_backward(half, gate, up, gate_weight, up_weight, down_weight)
        ctx.parameters = gate_weight, up_weight, down_weight
        inner = F.silu(gate.float()).mul_(up)
        return (inner.to(HALF) @ down_weight.to(HALF).T).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        half, gate, up, gate_weight, up_weight, down_weight = ctx.saved_tensors
        of_gate, of_up, of_down = ctx.parameters
        above = gradient.to(HALF)
        gate, active = gate.float(), F.silu(gate.float())
        down_gradient = gradients.of_product(of_down, above, (active * up).to(HALF))
        inner = (above @ down_weight.to(HALF)).float()
        up_half = active.mul_(inner).to(HALF)
        gate_half = torch.ops.aten.silu_backward(inner.mul_(up), gate).to(HALF)
        del active, inner, gate
        x_gradient = (gate_half @ gate_weight.to(HALF)).to(gradient.dtype)
        x_gradient += up_half @ up_weight.to(HALF)
        gate_gradient = gradients.of_product(of_gate, gate_half, half)
        up_gradient = gradients.of_product(of_up, up_half, half)
        return x_gradient, gate_gradient, up_gradient, down_gradient
