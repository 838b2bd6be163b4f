"""Attention of a packed row (playground.training.batches), example by example where that is less to compute.

A row of several examples has a mask in which most pairs of tokens do not see each other, and PyTorch's attention on a
CPU computes them all the same: the square of the row's length. Here each example's tokens meet the shared beginning
and themselves alone, with the same result (tests/training/test_packed_attention.py). On a GPU, where it was not tried,
the row stays whole.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PAYS = 2  # so many times fewer pairs make up for more and smaller products
_MORE = ("position_bias", "softcap", "cache")  # of some models' attention; then the row stays whole
_LAYOUT = "packed_layout"  # attribute of a packed row's mask: sizes of its parts, and a mask for each


def mark(mask: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Let attention know the layout of a packed row's mask (1, 1, tokens, tokens), where that makes it quicker.

    Args:
        sizes: tokens of the shared beginning, which may be 0, and of each example behind it.
    """
    first, *rest = sizes
    pairs = first * first + sum(size * (first + size) for size in rest)
    if mask.device.type not in {"cpu", "meta"} or PAYS * pairs > sum(sizes) ** 2:
        return mask
    masks, start = [mask[:, :, :first, :first]], first
    for size in rest:
        own = mask[:, :, start : start + size]
        masks.append(torch.cat([own[..., :first], own[..., start : start + size]], dim=-1))
        start += size
    setattr(mask, _LAYOUT, (list(sizes), masks))
    return mask


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention as transformers has it; of a marked row part by part.

    Key heads that serve several query heads (Ainslie et al. 2023, arXiv:2305.13245) are then not copied for each of
    them, as transformers does on a CPU.

    ``query`` (1, heads, tokens, size), ``key`` and ``value`` (1, key heads, tokens, size); gives (1, tokens, heads,
    size).
    """
    sizes, masks = getattr(attention_mask, _LAYOUT, ((), ()))
    more = any(kwargs.get(name) is not None for name in _MORE)
    if more or not query.shape[2] == key.shape[2] == sum(sizes):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    queries, keys, values = (each.split(sizes, dim=2) for each in (query, key, value))
    found = []
    for at, mask in enumerate(masks):
        if not sizes[at]:
            continue
        seen = [0, at] if at else [0]
        keys_seen, values_seen = (torch.cat([each[one] for one in seen], dim=2) for each in (keys, values))
        result = F.scaled_dot_product_attention(
            queries[at], keys_seen, values_seen, mask, dropout, scale=scaling, enable_gqa=True
        )
        found.append(result.transpose(1, 2))
    return torch.cat(found, dim=1), None


AttentionInterface.register("sdpa", attention)
