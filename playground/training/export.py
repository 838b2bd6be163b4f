"""A finished model as a plain one: a folder that ``AutoModelForCausalLM`` opens without this project."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from playground.errors import AdapterError

# switches of a configuration that give the layers of a Llama-type network their biases
_BIAS_SWITCHES = ("attention_bias", "mlp_bias")


def plain(network: nn.Module, title: str) -> PreTrainedModel:
    """The merged network, as its own configuration would build it; nothing that only this project knows.

    Biases that a method added to layers which have none are kept where the configuration can say so
    (Llama's ``attention_bias`` and ``mlp_bias``).

    Args:
        network: what ``Parametric.merge`` returned.
        title: the method's, for the message.

    Raises:
        AdapterError: something of it works beside the weights, so no plain model can hold it.
    """
    if not isinstance(network, PreTrainedModel):
        raise _beside(title)
    expected, found = _names(network, network.config), set(network.state_dict())
    added = found - expected
    if added and all(name.endswith(".bias") for name in added):
        _declare_biases(network, added)
        expected, found = _names(network, network.config), set(network.state_dict())
    if found != expected:
        odd = sorted(found ^ expected)
        raise AdapterError(f"{_beside(title)} ({len(odd)} tensors have no place there, first {odd[0]}.)")
    _forget_packing(network)
    return network


def write(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, name: str) -> None:
    """Write safetensors, config, generation config and tokenizer into ``folder``.

    Args:
        name: what stands as the model's name in the config, instead of a folder of this machine.

    Raises:
        OSError: the disk is full, or the folder may not be written.
    """
    network.config._name_or_path = name
    network.save_pretrained(folder)
    tokenizer.name_or_path = name
    tokenizer.save_pretrained(folder)


def _beside(title: str) -> AdapterError:
    return AdapterError(
        f"What {title} trained works beside the model's weights and cannot be merged into them. "
        "Download the adapter instead."
    )


def _forget_packing(network: PreTrainedModel) -> None:
    """Take out what still says that the base model was loaded quantised: its weights are plain now."""
    for owner, name in (
        (network.config, "quantization_config"),
        (network.config, "_pre_quantization_dtype"),
        (network, "hf_quantizer"),
        (network, "quantization_method"),
    ):
        owner.__dict__.pop(name, None)
    network.is_quantized = False


def _names(network: PreTrainedModel, config: Any) -> set[str]:
    """The tensors that a fresh network of this configuration has."""
    with torch.device("meta"):
        return set(type(network)(copy.deepcopy(config)).state_dict())


def _declare_biases(network: PreTrainedModel, added: set[str]) -> None:
    """Turn on the configuration's switches for biases that are there; those that follow from it start at zero."""
    before = copy.deepcopy(network.config)
    bare = _names(network, before)
    for name in _BIAS_SWITCHES:
        if getattr(before, name, None) is not False:
            continue
        config = copy.deepcopy(before)
        setattr(config, name, True)
        given = _names(network, config) - bare
        if not given & added:
            continue
        setattr(network.config, name, True)
        for missing in given - added:
            layer = network.get_submodule(missing.removesuffix(".bias"))
            layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0]))
