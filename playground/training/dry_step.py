"""One training step without numbers: its highest memory, how much it computes, and how much it moves.

The model stands on PyTorch's meta device, where tensors have shapes but no contents. A real forward and
backward pass runs over it, and a dispatch mode sees every operation: it adds a storage's bytes when it
appears, takes them off when nothing holds it any more, counts the multiplications of the matrix products,
and the bytes that all other operations read and write. So what is counted follows what is trained, whatever
the technique: a frozen layer keeps no input for a weight gradient, an adapter keeps its own, gradients appear
while activations go.

What it does not see: the workspaces of kernels, and what an allocator keeps for later.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from playground.training import gradients
from playground.training.batches import Row
from playground.training.lower_blocks import LowerBlocks
from playground.training.text import row_loss

UNTOUCHED = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")  # made, not written
SELECTING = ("embedding", "gather", "index", "index_select")  # read what they give, not all they are given
# what autocast computes in bfloat16: products and attention
ROUNDED = {
    F.linear,
    F.scaled_dot_product_attention,
    torch.conv1d,
    torch.einsum,
    *(
        getattr(owner, name)
        for owner in (torch, torch.Tensor)
        for name in ("matmul", "mm", "bmm", "addmm", "baddbmm")
    ),
    torch.Tensor.__matmul__,
}


@dataclass(frozen=True)
class DryStep:
    """``peak_bytes`` live at the highest point beside what was there before: gradients and activations.

    ``gradient_bytes`` are there in the end. ``forward_flops`` and ``flops`` (forward and backward) count a
    multiplication and an addition as two. ``forward_moved`` and ``moved`` are the bytes that everything but
    matrix products and attention reads and writes.
    """

    peak_bytes: int
    forward_flops: int
    flops: int
    gradient_bytes: int
    forward_moved: int
    moved: int


def dry_step(
    network: nn.Module,
    row: Row,
    *,
    learn: bool = True,
    again: bool = False,
    autocast: bool = False,
    fused_dropout: bool = True,
    lower: LowerBlocks | None = None,
) -> DryStep:
    """Run one step of a language model that stands on the meta device.

    Args:
        row: as ``batches.pack`` or ``batches.pad`` makes it for the meta device.
        learn, again, autocast, fused_dropout: see ``dry_run``.
        lower: where the row starts from hidden states.

    Raises: as ``dry_run``.
    """
    how = {"learn": learn, "again": again, "autocast": autocast, "fused_dropout": fused_dropout}
    return dry_run(network, partial(row_loss, network, row, lower), **how)


def dry_run(
    network: nn.Module,
    loss_of: Callable[[], torch.Tensor],
    *,
    learn: bool = True,
    again: bool = False,
    autocast: bool = False,
    fused_dropout: bool = True,
) -> DryStep:
    """Compute a loss of a network that stands on the meta device, and its gradient.

    Args:
        learn: forward and backward; False = forward alone, as for a dev loss.
        again: gradients of an earlier batch are there already (gradient accumulation).
        autocast: the loss is computed in bfloat16, as under ``torch.autocast``.
        fused_dropout: the device has a fused kernel for attention with dropout, as CUDA has and a CPU has not.

    Raises:
        RuntimeError, NotImplementedError, ValueError, TypeError: the network does not run without numbers.
    """
    network.train(learn)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients.clear(parameters)
    if again:
        for parameter in parameters:
            name = gradients.LEAN if gradients.is_lean(parameter) else "grad"
            setattr(parameter, name, torch.empty_like(parameter))
    meter = _Meter()
    try:
        with _Attention(meter, fused_dropout), torch.set_grad_enabled(learn), meter:
            with _Autocast() if autocast else nullcontext():
                loss = loss_of()
            forward, forward_moved = meter.flops, meter.moved
            if learn:
                loss.backward()
        kept = gradients.kept_bytes(parameters)
    finally:
        gradients.clear(parameters)
    held = sum(_bytes(parameter) for parameter in parameters) if again else 0
    return DryStep(meter.peak + held, forward, meter.flops, kept, forward_moved, meter.moved)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Meter(TorchDispatchMode):
    """Bytes of the storages that live now and at most, and the FLOPs and the bytes moved so far."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = self.flops = self.moved = 0
        self._sizes: dict[int, int] = {}  # by storage; 0 = it was there before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, given = kwargs or {}, list(_tensors(args))
        for tensor in given:
            self._note(tensor.untyped_storage(), 0)
        result = function(*args, **kwargs)
        made = list(_tensors((result,)))
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        else:
            self.moved += _moved(function, given, made)
        for tensor in made:
            self._note(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        return result

    def _note(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _moved(function: torch._ops.OpOverload, given: list[torch.Tensor], made: list[torch.Tensor]) -> int:
    """Bytes that an operation reads and writes; none for a view."""
    name = function._overloadpacket.__name__
    storages = {tensor.untyped_storage()._cdata for tensor in given}
    view = all(tensor.untyped_storage()._cdata in storages for tensor in made)
    if name in UNTOUCHED or view and not function._schema.is_mutable:
        return 0
    written = sum(map(_bytes, made))
    return 2 * written if name in SELECTING else written + sum(map(_bytes, given))


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


class _Autocast(TorchFunctionMode):
    """``torch.autocast`` for bfloat16, which the meta device has not: products take what they are given rounded.

    As there, a weight's rounded copy is made once and kept to the end of the block; autograd keeps it longer. What
    autocast would widen (norms, softmax, losses) is not: language models widen it themselves.
    """

    def __init__(self):
        super().__init__()
        self._copies: dict[torch.Tensor, torch.Tensor] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in ROUNDED:
            args = tuple(map(self._round, args))
            kwargs = {name: self._round(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)

    def __exit__(self, *error):
        self._copies.clear()
        return super().__exit__(*error)

    def _round(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.bfloat16()
        if value not in self._copies:
            self._copies[value] = value.bfloat16()
        return self._copies[value]


class _Attention(TorchFunctionMode):
    """Counts attention as fused kernels do it, without its tokens × tokens matrix, wherever the device has one.

    On the meta device PyTorch itself would always take the unfused way.
    """

    def __init__(self, meter: _Meter, fused_dropout: bool):
        super().__init__()
        self._meter, self._fused_dropout = meter, fused_dropout

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _attend(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **how: Any):
        if dropout_p and not self._fused_dropout:
            return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **how)
        return _FusedAttention.apply(self._meter, query, key, value, attn_mask)


class _FusedAttention(torch.autograd.Function):
    """Shapes of query (…, n, d), key and value (…, m, d); keeps them, a mask, the result and one number a row."""

    @staticmethod
    def forward(ctx, meter, query, key, value, mask):
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, mask, result, query.new_empty(query.shape[:-1]))
        ctx.meter, ctx.flops = meter, 4 * query.numel() * key.shape[-2]
        meter.flops += ctx.flops
        return result

    @staticmethod
    def backward(ctx, gradient):
        ctx.meter.flops += ctx.flops * 5 // 2
        query, key, value, *_ = ctx.saved_tensors
        return None, torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
