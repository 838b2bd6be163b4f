"""Where a causal language model keeps its layers, found by structure instead of by the model's name."""

import inspect
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from playground.errors import InvalidParams

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
FEED_FORWARD = ("mlp", "feed_forward", "ffn", "block_sparse_moe")


@dataclass(frozen=True)
class Block:
    """One decoder layer: its full name, and its attention and feed-forward blocks where it has them."""

    name: str
    layer: nn.Module
    attention: nn.Module | None
    mlp: nn.Module | None


def blocks(network: nn.Module) -> list[Block]:
    """The decoder layers in order: the elements of the longest list of layers that have an attention block.

    Raises:
        InvalidParams: there is no such list.
    """
    lists = [
        (name, layers)
        for name, layers in network.named_modules()
        if isinstance(layers, nn.ModuleList) and any(_child(layer, ATTENTION) for layer in layers)
    ]
    if not lists:
        raise InvalidParams(
            f"No layers with an attention block ({', '.join(ATTENTION)}) were found in this model "
            f"({type(network).__name__})."
        )
    name, layers = max(lists, key=lambda found: len(found[1]))
    return [
        Block(f"{name}.{at}", layer, _child(layer, ATTENTION), _child(layer, FEED_FORWARD))
        for at, layer in enumerate(layers)
    ]


def output_head(network: nn.Module) -> nn.Module | None:
    """The layer that gives the logits; None where the network has none or does not name it."""
    return network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None


def upper(network: nn.Module, count: int) -> list[Block]:
    """The last ``count`` decoder layers in order; all of them for 0.

    Raises:
        InvalidParams: there are fewer, or none that can be found.
    """
    found = blocks(network)
    if count > len(found):
        raise InvalidParams(
            f"This model has {len(found)} blocks: adapt at most so many of them, or 0 for all.", "top_layers"
        )
    return found[-count:]


def below(network: nn.Module, count: int) -> tuple[str, ...]:
    """What the names of modules begin with that lie in the decoder layers below the last ``count``."""
    kept = {block.name for block in upper(network, count)}
    return tuple(f"{block.name}." for block in blocks(network) if block.name not in kept)


def linear_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The linear layers in a module by name, GPT-2's ``Conv1D`` among them."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | Conv1D)}


def layers_of(block: Block, kind: str) -> dict[str, nn.Module]:
    """The linear layers of a block's "attention" or "mlp", by their names in the block.

    Where the feed-forward layers lie in the block itself (OPT), they are all that are not attention's. A gate of
    one number, which weighs an expert, is none of them.
    """
    attention = set(block.attention.modules()) if block.attention else set()
    part = attention if kind == "attention" else {*(block.mlp or block.layer).modules()} - attention
    found = linear_layers(block.layer).items()
    return {name: layer for name, layer in found if layer in part and width(layer) > 1}


def width(layer: nn.Module) -> int:
    """How many numbers a linear layer gives for each token."""
    return layer.nf if isinstance(layer, Conv1D) else layer.out_features


def inputs(layer: nn.Module) -> int:
    """How many numbers a linear layer takes for each token."""
    return layer.nx if isinstance(layer, Conv1D) else layer.in_features


def adds_residual(block: nn.Module) -> bool:
    """Whether an attention or feed-forward block adds the layer's input to its output by itself (Bloom)."""
    return "residual" in inspect.signature(block.forward).parameters


def _child(layer: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((child for name, child in layer.named_children() if name in names), None)
