"""EVA's start of a LoRA: A holds the main directions of each layer's inputs on the training examples.

Paischer et al. 2024, arXiv:2410.07170; computed by PEFT, with the same rank in every layer.
"""

from collections.abc import Sequence

import torch
from torch import nn

from playground.errors import InvalidParams, RunFailed
from playground.training.batches import Example, pad
from playground.training.residual_lora import ADAPTER, layers

TOKENS = 512  # of a batch, at least; and eight times the rank
BATCHES = 400  # after so many the directions must have settled


@torch.no_grad()
def start(network: nn.Module, examples: Sequence[Example], rank: int) -> None:
    """Set A of every LoRA layer of a freshly wrapped network, by the inputs that the examples give it.

    Raises:
        InvalidParams: the examples have too few tokens for the rank, or the layers too few inputs.
        RunFailed: the directions did not settle.
    """
    from peft import EvaConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    narrowest = min(layer.in_features for layer in layers(network))
    if rank > narrowest:
        raise InvalidParams(
            f"The start eva does not fit: a layer's input has only {narrowest} directions. Lower the rank.",
            "rank",
        )
    batches = _batches(network, examples, rank)
    config = network.peft_config[ADAPTER]
    config.eva_config = EvaConfig(rho=1.0)
    seen = 0

    def forward(model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
        nonlocal seen
        seen += 1
        if seen > BATCHES:
            raise RunFailed("EVA found no settled directions. Choose another start, or a lower rank.")
        model(**inputs, use_cache=False, logits_to_keep=1)

    try:
        found = get_eva_state_dict(network, batches, config, forward_fn=forward, show_progress_bar=False)
    finally:
        config.eva_config = None
    for name, directions in found.items():
        weight = network.get_submodule(name).lora_A[ADAPTER].weight
        weight.copy_(directions)


def _batches(network: nn.Module, examples: Sequence[Example], rank: int) -> list[dict[str, torch.Tensor]]:
    least = max(TOKENS, 8 * rank)
    groups: list[list[Example]] = [[]]
    for example in examples:
        if sum(len(one.ids) - 1 for one in groups[-1]) >= least:
            groups.append([])
        groups[-1].append(example)
    if len(groups) > 1 and sum(len(one.ids) - 1 for one in groups[-1]) < least:
        groups.pop()
    tokens = sum(len(one.ids) - 1 for one in groups[0])
    if tokens <= rank:
        raise InvalidParams(
            f"EVA needs more tokens of training examples ({tokens}) than the rank ({rank}): lower the rank.",
            "rank",
        )
    device = next(network.parameters()).device
    names = ("input_ids", "attention_mask", "position_ids")
    return [{name: pad(group, device).inputs[name] for name in names} for group in groups]
