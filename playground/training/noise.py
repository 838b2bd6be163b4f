"""NEFTune: uniform noise on the token embeddings while training, against learning few examples by heart.

Jain et al. 2023, arXiv:2310.05914: each embedding gets noise of the size α / √(L · d), with L tokens in an
example and d numbers in an embedding. Here L is the mean length of the examples, so that packed rows get
the noise that their examples would get alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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
