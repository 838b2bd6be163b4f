"""Numbers that are trained in float32 in a network of 16 bits, and rounded where they are used.

A step of training is often smaller than the gap between two neighbouring numbers of 16 bits: it would be lost.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

SHORT = (torch.bfloat16, torch.float16)
STATE = "_widened"  # attribute of a network, what ``widen`` did to it


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which numbers of a type are trained."""
    return torch.float32 if dtype in SHORT else dtype


def round_in_use(layer: nn.Module, names: Sequence[str]) -> list[RemovableHandle]:
    """Let a layer compute with its parameters ``names`` in the type of its input; removing the handles ends it."""
    return [
        layer.register_forward_pre_hook(partial(_round, names), with_kwargs=True),
        layer.register_forward_hook(partial(_forget, names)),
    ]


def widen(network: nn.Module) -> None:
    """Keep every parameter of 16 bits that is trained in float32, and let the layer that owns it round it."""
    owners = {layer: names for layer in network.modules() if (names := _short(layer))}
    handles = [handle for layer, names in owners.items() for handle in round_in_use(layer, names)]
    trained = {value for layer, names in owners.items() for value in map(layer.get_parameter, names)}
    widened = [(value, value.dtype) for value in trained]
    for value, dtype in widened:
        value.data = value.data.to(wide(dtype))
    setattr(network, STATE, (widened, handles))


def narrow(network: nn.Module) -> None:
    """Undo ``widen``: the parameters are rounded for good to the types that they had."""
    widened, handles = getattr(network, STATE, ((), ()))
    for handle in handles:
        handle.remove()
    for value, dtype in widened:
        value.data = value.data.to(dtype)


def _short(layer: nn.Module) -> list[str]:
    """Names of a layer's own parameters that are trained and have 16 bits."""
    own = layer.named_parameters(recurse=False)
    return [name for name, value in own if value.requires_grad and value.dtype in SHORT]


def _round(names: Sequence[str], layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    dtype = _first(args, kwargs.values()).dtype
    for name in names:
        value = layer._parameters.get(name)
        if value is not None:
            vars(layer)[name] = value.to(dtype)  # found before the parameter of that name


def _first(*values: Iterable[Any]) -> torch.Tensor:
    tensors = (one for some in values for one in some if isinstance(one, torch.Tensor))
    return next(tensor for tensor in tensors if tensor.is_floating_point())


def _forget(names: Sequence[str], layer: nn.Module, args: tuple, output: Any) -> None:
    for name in names:
        vars(layer).pop(name, None)
