"""BitFit's layers: the biases of a model are trained, and added as zeros where a linear layer has none.

Ben Zaken et al. 2021 (arXiv:2106.10199) train the biases that BERT has. Llama-type models have none, so
zeros are added, which change nothing until they are trained. A stored result is loaded with::

    network = load_biases(AutoModelForCausalLM.from_pretrained(base), folder)
"""

import copy
import json
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import nn

from playground.errors import AdapterError, InvalidParams
from playground.training.adapter_files import description, tensors
from playground.training.structure import Block, below, inputs, linear_layers, upper, width
from playground.training.wide import SHORT, round_in_use, wide

METHOD = "bitfit"
WEIGHTS, CONFIG = "bitfit.safetensors", "bitfit_config.json"
STATE = "_biases"  # attribute of a network whose biases are trained
SWITCHES = ("attention_bias", "mlp_bias", "use_bias", "use_qkv_bias")  # of transformers' configurations

QUERIES = {"q_proj", "query", "q_lin", "wq"}  # names of the layer that gives attention's queries

Layers = Literal["all-linear", "attention", "mlp", "query-intermediate", "existing"]


def targets(network: nn.Module, layers: Layers, top: int = 0) -> tuple[list[str], list[str]]:
    """Names of the biases to be trained: those that the model has, and those that it lacks.

    "attention" and "mlp" mean the linear layers of these blocks, "all-linear" both and every other bias
    that is there (those of norms, too), "query-intermediate" those of attention's queries and of the MLP's
    widening layers, which the paper found to do nearly as well, "existing" only biases that are there; of
    the last ``top`` blocks (0: of all) and what comes after them.

    Raises:
        InvalidParams: the model has nothing of that kind.
    """
    lower = below(network, top)
    present = [
        name
        for name, value in network.named_parameters()
        if name.rpartition(".")[2] == "bias" and not name.startswith(lower)
    ]
    if layers == "existing":
        if not present:
            raise InvalidParams(
                "This model has no biases to train. Choose layers to which biases are added: "
                "“all-linear”, “attention” or “mlp”.",
                "layers",
            )
        return present, []
    wanted = [f"{name}.bias" for name in _linear(network, layers, top)]
    if not wanted:
        raise InvalidParams(f"This model has no linear layers in its {layers} blocks.", "layers")
    there = set(present)
    missing = [name for name in wanted if name not in there]
    chosen = there if layers == "all-linear" else there.intersection(wanted)
    return [name for name in present if name in chosen], missing


def _linear(network: nn.Module, layers: Layers, top: int) -> list[str]:
    return [
        f"{block.name}.{name}"
        for block in upper(network, top)
        for name, layer in linear_layers(block.layer).items()
        if _wanted(block, name, layer, layers)
    ]


def _wanted(block: Block, name: str, layer: nn.Module, layers: Layers) -> bool:
    attention = block.attention is not None and any(part is layer for part in block.attention.modules())
    if layers == "query-intermediate":
        return name.rpartition(".")[2] in QUERIES if attention else width(layer) > inputs(layer)
    return layers in ("all-linear", "attention" if attention else "mlp")


class _State:
    """The biases that are trained, what stood in their places before (None: nothing), hooks that round."""

    def __init__(self, trained: dict[str, nn.Parameter], base: dict[str, nn.Parameter | None], hooks: list):
        self.trained, self.base, self.hooks = trained, base, hooks


def add(network: nn.Module, layers: Layers, top: int = 0) -> nn.Module:
    """Freeze the network but for the chosen biases; those that are missing are added as zeros.

    Raises:
        InvalidParams: the model has nothing of that kind.
    """
    existing, missing = targets(network, layers, top)
    return _train(network, existing, missing)


def _train(network: nn.Module, existing: list[str], missing: list[str]) -> nn.Module:
    network.requires_grad_(False)
    base: dict[str, nn.Parameter | None] = {name: network.get_parameter(name) for name in existing}
    base |= dict.fromkeys(missing)
    trained = {
        name: nn.Parameter(value.detach().clone().to(wide(value.dtype)))
        for name, value in base.items()
        if value is not None
    }
    trained |= {name: nn.Parameter(_zeros(_owner(network, name))) for name in missing}
    hooks = []
    for owner in (_owner(network, name) for name in trained):
        if owner.weight.dtype in SHORT:
            hooks += round_in_use(owner, ["bias"])
    setattr(network, STATE, _State(trained, base, hooks))
    switch(network, True)
    return network


def _zeros(layer: nn.Module) -> torch.Tensor:
    dtype = wide(layer.weight.dtype) if layer.weight.is_floating_point() else torch.float32
    return torch.zeros(width(layer), dtype=dtype, device=layer.weight.device)


def _owner(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(name.rpartition(".")[0])


def switch(network: nn.Module, on: bool) -> None:
    """Answer with the trained biases, or exactly as the base model.

    Raises:
        AdapterError: no biases of this network were trained, or it was merged.
    """
    state = _state(network)
    for name, bias in (state.trained if on else state.base).items():
        _owner(network, name).register_parameter("bias", bias)


def write(network: nn.Module, folder: Path) -> None:
    """Write the trained biases by their full names, and which of them were added."""
    state = _state(network)
    save_file({name: bias.detach().contiguous() for name, bias in state.trained.items()}, folder / WEIGHTS)
    about = {
        "method": METHOD,
        "trained": list(state.trained),
        "added": [name for name, value in state.base.items() if value is None],
    }
    (folder / CONFIG).write_text(json.dumps(about, indent=1))


def read(network: nn.Module, folder: Path) -> None:
    """Put stored biases into a network whose biases are trained.

    Raises:
        AdapterError: they do not fit, or hold numbers that are not finite.
    """
    state = _state(network)
    found = tensors(folder / WEIGHTS, state.trained)
    with torch.no_grad():
        for name, bias in state.trained.items():
            bias.copy_(found[name])


def load_biases(network: nn.Module, folder: str | Path) -> nn.Module:
    """Put a stored BitFit result into a plain transformers model; ``merge`` makes it plain again.

    Args:
        network: the base model, as ``AutoModelForCausalLM.from_pretrained`` gives it.
        folder: holds bitfit_config.json and bitfit.safetensors.

    Raises:
        AdapterError: the folder is incomplete, damaged, or does not fit the model.
    """
    folder = Path(folder)
    about = description(folder / CONFIG, METHOD)
    names = about.get("trained")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AdapterError(f"{CONFIG} does not say which biases it is about.")
    present = {name for name, _ in network.named_parameters()}
    linear = {f"{name}.bias" for name in linear_layers(network)}
    foreign = [
        name for name in names if name not in linear and not (name in present and name.endswith("bias"))
    ]
    if foreign:
        raise AdapterError(f"The adapter does not fit this model: there is no place for {foreign[0]}.")
    _train(network, [n for n in names if n in present], [n for n in names if n not in present])
    read(network, folder)
    return network.requires_grad_(False).eval()


def merge(network: nn.Module) -> nn.Module:
    """The network with its biases as ordinary parameters; it cannot be switched any more.

    Where transformers' configuration of this architecture has a switch for such biases it is set (and
    biases of that kind that are missing are added as zeros), so that the result can be saved and loaded
    by plain transformers. Where it has none, the result answers, but only ``load_biases`` can load it.
    """
    switch(network, True)
    state = _state(network)
    for hook in state.hooks:
        hook.remove()
    for name, bias in state.trained.items():
        if (dtype := _owner(network, name).weight.dtype) in SHORT:
            bias.data = bias.data.to(dtype)
    added = [name for name, value in state.base.items() if value is None]
    delattr(network, STATE)
    if added:
        _declare(network, set(added))
    return network


def _declare(network: nn.Module, added: set[str]) -> None:
    have = [name for name in SWITCHES if getattr(network.config, name, None) is False]
    for switches in ([name] for name in have) if len(have) < 2 else [*([name] for name in have), have]:
        config = copy.deepcopy(network.config)
        for name in switches:
            setattr(config, name, True)
        with torch.device("meta"):
            names = {name for name, _ in type(network)(config).named_parameters()}
        if added <= names:
            for name in names - {name for name, _ in network.named_parameters()}:
                owner = _owner(network, name)
                zeros = _zeros(owner).to(owner.weight.dtype)
                owner.register_parameter("bias", nn.Parameter(zeros, requires_grad=False))
            for name in switches:
                setattr(network.config, name, True)
            return


def _state(network: nn.Module) -> _State:
    state = getattr(network, STATE, None)
    if state is None:
        raise AdapterError(
            "This model has no trained biases that could be switched: it is merged, or was never trained."
        )
    return state
