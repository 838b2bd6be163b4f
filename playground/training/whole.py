"""A model all of whose weights are trained: made ready, stored as a plain transformers folder, switched.

Training changes the weights in place, so the trained network alone cannot answer as the base model any
more. A network that was loaded and then ``read`` a result keeps both sets of weights.
"""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer

from playground.errors import AdapterError, InvalidParams
from playground.training import gradients
from playground.training.adapter_files import tensors
from playground.training.structure import blocks

WEIGHTS = "model.safetensors"
STATE = "_whole"  # attribute of a prepared network


class _State:
    """Number types that the parameters were loaded in, and both sets of weights where they are kept."""

    def __init__(self, network: nn.Module):
        self.types = {name: parameter.dtype for name, parameter in network.named_parameters()}
        self.base: dict[str, torch.Tensor] | None = None
        self.trained: dict[str, torch.Tensor] = {}


def prepare(network: nn.Module) -> nn.Module:
    """Let every parameter be trained, in float32: small steps are lost in bfloat16 weights.

    Raises:
        InvalidParams: the weights are quantised.
    """
    packed = [name for name, value in network.named_parameters() if not value.is_floating_point()]
    if packed:
        raise InvalidParams(
            f"Full fine-tuning needs a model that is not quantised: {packed[0]} is stored in whole numbers."
        )
    setattr(network, STATE, _State(network))
    return network.float().requires_grad_(True)


def layer_rates(network: nn.Module, decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """All parameters in groups with a factor for the learning rate of each: discriminative fine-tuning.

    Of n blocks the i-th from below, from 1, learns at ``decay`` ** (n - i), embeddings at ``decay`` ** n, and what
    comes after the blocks at 1. A head that is tied to the embeddings learns as they do. Howard and Ruder 2018
    (arXiv:1801.06146).

    Raises:
        InvalidParams: no blocks are found in this network.
    """
    found = blocks(network)
    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    depth = {value: at for at, block in enumerate(found, 1) for value in block.layer.parameters()}
    depth |= {value: 0 for embedding in embeddings for value in embedding.parameters()}
    groups: dict[int, list[nn.Parameter]] = {}
    for parameter in network.parameters():
        groups.setdefault(depth.get(parameter, len(found)), []).append(parameter)
    return [(parameters, decay ** (len(found) - at)) for at, parameters in sorted(groups.items())]


def lean_gradients(network: nn.Module, on: bool) -> None:
    """Keep gradients small while training (playground.training.gradients), and that of a tied embedding sparse.

    Where embedding and output head are one matrix, the embedding's gradient is added to the head's in place:
    the same sum, without a second matrix of the vocabulary's size that is nearly all zeros. In a network without
    numbers, where no sum can be made, the embedding has no gradient.
    """
    gradients.keep_lean(network.parameters(), on)
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or head is None:
        return
    if embedding._parameters["weight"] is head.weight:
        embedding.sparse = on
        vars(embedding).pop("weight", None)
        if on:
            vars(embedding)["weight"] = _alias(head.weight)


def _alias(weight: nn.Parameter) -> torch.Tensor:
    """The same numbers as a leaf of its own: what it gets of gradient goes to ``weight``."""
    alias = weight.detach()
    if weight.is_meta:
        return alias
    alias.requires_grad_()

    def hand_over(alias: torch.Tensor) -> None:
        if weight.grad is None:
            weight.grad = alias.grad.to_dense()
        else:
            weight.grad.add_(alias.grad)
        alias.grad = None

    alias.register_post_accumulate_grad_hook(hand_over)
    return alias


def write(network: nn.Module, folder: Path) -> None:
    """Write what ``AutoModelForCausalLM.from_pretrained`` reads, in the number type the model came in."""
    types = _state(network).types
    weights = network.state_dict()
    shared: dict[int, torch.Tensor] = {}  # tied weights stay one tensor
    for name, dtype in types.items():
        shared[weights[name].data_ptr()] = weights[name].to(dtype)
    weights = {name: shared.get(value.data_ptr(), value) for name, value in weights.items()}
    network.save_pretrained(folder, state_dict=weights, max_shard_size=10**15, save_original_format=False)
    _name_type(folder / "config.json", next(iter(types.values())))
    source = Path(network.name_or_path or "/nowhere")
    if (source / "tokenizer_config.json").is_file():
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(folder)


def read(network: nn.Module, folder: Path) -> None:
    """Put stored weights into a prepared network and keep the base model's beside them.

    Raises:
        AdapterError: they do not fit, or hold numbers that are not finite.
    """
    state = _state(network)
    parameters = dict(network.named_parameters())
    buffers = dict(network.named_buffers())
    kept = network.state_dict().keys()
    expected = parameters | {name: value for name, value in buffers.items() if name in kept}
    found = tensors(folder / WEIGHTS, expected)
    state.base = {name: value.data.to(state.types[name]) for name, value in parameters.items()}
    state.trained = {
        name: found[name].to(value.device, state.types[name]) for name, value in parameters.items()
    }
    switch(network, True)


def switch(network: nn.Module, on: bool) -> None:
    """Answer with the trained weights or the base model's.

    Raises:
        AdapterError: the base weights are not there: the network was trained in place.
    """
    state = _state(network)
    if state.base is None:
        raise AdapterError("The base model's weights are gone: training changed them. Load the result again.")
    for name, parameter in network.named_parameters():
        parameter.data = (state.trained if on else state.base)[name]


def plain(network: nn.Module) -> nn.Module:
    """The network with its present weights in the types they came in; it cannot be switched any more."""
    types = _state(network).types
    for name, parameter in network.named_parameters():
        parameter.data = parameter.data.to(types[name])
    delattr(network, STATE)
    return network


def _state(network: nn.Module) -> _State:
    state = getattr(network, STATE, None)
    if state is None:
        raise AdapterError("This model was not made ready for full fine-tuning, or was merged.")
    return state


def _name_type(config: Path, dtype: torch.dtype) -> None:
    text = json.loads(config.read_text())
    text["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(text, indent=2, sort_keys=True) + "\n")
