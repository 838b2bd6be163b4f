"""Uniform noise while training, against learning few examples by heart: on the token embeddings, or further up.

NEFTune (Jain et al. 2023, arXiv:2310.05914): each embedding gets noise of the size α / √(L · d), with L tokens in an
example and d numbers in an embedding. Here L is the mean length of the examples, so that packed rows get
the noise that their examples would get alone.

``state_noise`` does the same to what enters the first trained block, where the blocks below are left as
they are: noise on the embeddings would have to go through them anew at every step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from playground.training.lower_blocks import frozen_below
from playground.training.structure import blocks


@contextmanager
def embedding_noise(network: nn.Module, alpha: float, length: float) -> Iterator[None]:
    """Inside the block the input embeddings are noisy whenever ``network`` is in training mode.

    Args:
        alpha: NEFTune's α; 0 = no noise.
        length: mean tokens of an example.
    """
    if not alpha:
        yield
        return
    layer = network.get_input_embeddings()

    def add(_module: nn.Module, _inputs: tuple, embedded: torch.Tensor) -> torch.Tensor:
        if not network.training:
            return embedded
        size = alpha / (length * embedded.shape[-1]) ** 0.5
        return embedded + torch.empty_like(embedded).uniform_(-size, size)

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def state_noise(network: nn.Module, share: float) -> Iterator[None]:
    """Inside the block the first trained block gets noisy hidden states whenever it is in training mode.

    Args:
        share: standard deviation of the noise, of each token's hidden state's own; 0 = no noise.
    """
    if not share:
        yield
        return
    first = blocks(network)[frozen_below(network)].layer

    def add(_block: nn.Module, inputs: tuple, named: dict) -> tuple[tuple, dict] | None:
        if not network.training:
            return None
        if inputs:
            return (_noisy(inputs[0], share), *inputs[1:]), named
        return inputs, named | {"hidden_states": _noisy(named["hidden_states"], share)}

    handle = first.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _noisy(states: torch.Tensor, share: float) -> torch.Tensor:
    edge = 3**0.5 * share * states.detach().std(-1, keepdim=True)  # uniform between ±√3σ has deviation σ
    return states + edge * torch.empty_like(states).uniform_(-1, 1)
