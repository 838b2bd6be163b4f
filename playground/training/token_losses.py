"""The cross-entropy of many tokens at a large vocabulary, without the logits in float32.

Where prompts are learnt, too, most of what the output head computes is theirs: of a step of full fine-tuning a fifth.
Each of them counts little, so their logits are computed in bfloat16, as in mixed precision anywhere else
(playground.training.mixed). The answers' losses, which are told and compared, stay exact. What goes back is in
bfloat16 for all, as in every other layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from playground.training.gated_mlp import HALF
from playground.training.structure import output_head

BLOCK = 4096  # rows of the weight that are multiplied at once
ROWS = 32  # tokens whose logits are widened to float32 at once: 6 MB for a vocabulary of 50,000
NAME = "token_losses"  # attribute of an output head that has been made ready


@contextmanager
def ready(head: nn.Module | None) -> Iterator[None]:
    """Inside the block ``of`` gives this output head: a trained linear layer in float32 without a bias.

    The room for its gradient is kept from step to step. A frozen head has half as much to do, and a step of LoRA
    took as long either way.
    """
    if not _fits(head):
        yield
        return
    setattr(head, NAME, _Matrix(head.weight))
    try:
        yield
    finally:
        vars(head).pop(NAME, None)


def _fits(head: nn.Module | None) -> bool:
    plain = type(head) is nn.Linear and head.bias is None and "forward" not in vars(head)
    return plain and head.weight.dtype == torch.float32 and head.weight.requires_grad


def of(network: nn.Module) -> nn.Module | None:
    """The network's output head where it is ``ready``."""
    head = output_head(network)
    return head if head is not None and NAME in vars(head) else None


def losses(
    network: nn.Module, head: nn.Module, inputs: dict, labels: torch.Tensor, exact: torch.Tensor
) -> torch.Tensor | None:
    """The loss of each token that the ``ready`` head is given; (tokens,).

    None where the network does more with its logits (Gemma 2 caps them, Granite scales them): then the head is not
    ready any more, and its logits have to be asked for.

    Args:
        labels: of each token, (tokens,); -100 = none: what its loss is then means nothing.
        exact: numbers of the tokens whose logits are computed in float32.
    """
    matrix, states = getattr(head, NAME), _states(network, head, inputs)
    if states is None:
        delattr(head, NAME)
        return None
    return _Losses.apply(states.reshape(-1, states.shape[-1]), head.weight, labels, exact, matrix)


def _states(network: nn.Module, head: nn.Module, inputs: dict) -> torch.Tensor | None:
    """What the network gives its output head, if it gives back just what that makes of it."""
    given = []

    def note(x: torch.Tensor) -> torch.Tensor:
        given.append(x)
        return x

    chance = torch.get_rng_state()
    head.forward = note
    try:
        found = network(**inputs, use_cache=False).logits
    finally:
        del head.forward
    if given and found is given[0]:
        return found
    torch.set_rng_state(chance)  # as if it had not been tried: a resumed training tries again
    return None


class _Matrix:
    """An output head's weight (vocabulary, width), multiplied in bfloat16 a few rows at a time.

    So what is rounded or widened on the way stays in the processor's cache, and nothing of the weight's size has to
    be fetched from the system at every step.
    """

    def __init__(self, weight: nn.Parameter):
        self.weight = weight
        self._room: torch.Tensor | None = None

    def blocks(self) -> Iterator[torch.Tensor]:
        """All rows in bfloat16, ``BLOCK`` at a time."""
        return (rows.to(HALF) for rows in self.weight.detach().split(BLOCK))

    def learn(self, errors: torch.Tensor, states: torch.Tensor) -> None:
        """Add errorsᵀ (vocabulary, tokens) · states (tokens, width), both in bfloat16, to the gradient."""
        first = self.weight.grad is None
        if first:
            self._room = torch.empty_like(self.weight) if self._room is None else self._room
            self.weight.grad = self._room
        for rows, columns in zip(self.weight.grad.split(BLOCK), errors.split(BLOCK, 1), strict=True):
            found = columns.T @ states
            rows.copy_(found) if first else rows.add_(found)


class _Losses(torch.autograd.Function):
    """x (tokens, width) in float32, ``exact`` the numbers of some tokens; the weight stands there for autograd."""

    @staticmethod
    def forward(ctx, x, weight, labels, exact, matrix):
        half, labels = x.to(HALF), labels.clamp(min=0)
        errors = half.new_empty(len(x), len(weight))  # logits; then the losses' gradient by them
        for columns, rows in zip(errors.split(BLOCK, 1), matrix.blocks(), strict=True):
            columns.copy_(half @ rows.T)
        losses = torch.empty_like(labels, dtype=x.dtype)
        for part, label, loss in zip(errors.split(ROWS), labels.split(ROWS), losses.split(ROWS), strict=True):
            found, error = _cross_entropy(part.float(), label)
            loss.copy_(found)
            part.copy_(error)
        logits = (weight @ x[exact].T).T.contiguous()  # of a few tokens it is twice as fast as x·Wᵀ
        losses[exact], answers = _cross_entropy(logits, labels[exact])
        errors[exact] = answers.to(HALF)
        ctx.save_for_backward(half, errors)
        ctx.matrix = matrix
        return losses

    @staticmethod
    def backward(ctx, gradient):
        half, errors = ctx.saved_tensors
        gradient = gradient[:, None]
        ctx.matrix.learn(errors, (half * gradient).to(HALF))
        parts = zip(errors.split(BLOCK, 1), ctx.matrix.blocks(), strict=True)
        below = sum((columns @ rows).float() for columns, rows in parts)
        return below * gradient, None, None, None, None


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses (tokens,) of logits (tokens, vocabulary), and their gradient by the logits."""
    logarithms, at = logits.log_softmax(-1), labels[:, None]
    losses = -logarithms.gather(1, at)[:, 0]
    errors = logarithms.exp_()
    return losses, errors.scatter_add_(1, at, torch.full_like(at, -1, dtype=errors.dtype))
