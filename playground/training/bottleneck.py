"""Bottleneck adapters: small two-layer networks between the blocks of a frozen model.

After Houlsby et al. 2019 (arXiv:1902.00751): behind the attention and behind the feed-forward block;
Pfeiffer et al. 2020 (arXiv:2005.00247): behind the feed-forward block alone; He et al. 2021
(arXiv:2110.04366): beside the feed-forward block, scaled; or behind the attention block alone. The second
layer starts at zero, so a fresh adapter changes nothing. Each works on single tokens, so packed rows and
caches stay right. A stored result is loaded with::

    network = load_bottlenecks(AutoModelForCausalLM.from_pretrained(base), folder)

and ``remove`` gives the base model back.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from playground.errors import AdapterError, InvalidParams
from playground.training.adapter_files import description, tensors
from playground.training.structure import adds_residual, upper

METHOD = "bottleneck"
WEIGHTS, CONFIG = "bottleneck.safetensors", "bottleneck_config.json"
NAME = "bottleneck"  # of the adapter inside the block that it belongs to
STATE = "_bottlenecks"  # attribute of a network with adapters

Placement = Literal["houlsby", "pfeiffer", "attention", "parallel"]
PARTS: dict[Placement, tuple[str, ...]] = {  # of a decoder layer that get an adapter
    "houlsby": ("attention", "feed-forward"),
    "pfeiffer": ("feed-forward",),
    "attention": ("attention",),
    "parallel": ("feed-forward",),
}
Activation = Literal["relu", "gelu", "silu"]
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


@dataclass(frozen=True)
class Design:
    """``size`` is the bottleneck's width; ``scale`` multiplies what an adapter adds.

    ``top`` is how many of the last decoder layers get adapters; 0 = all.
    """

    placement: Placement
    size: int
    activation: Activation = "relu"
    scale: float = 1.0
    dropout: float = 0.0
    top: int = 0


class Bottleneck(nn.Module):
    """scale · (U · f(D·x + d) + u) for x (…, hidden); weights in float32 where the model's are shorter."""

    def __init__(self, hidden: int, design: Design, device: torch.device, dtype: torch.dtype):
        super().__init__()
        dtype = dtype if dtype == torch.float64 else torch.float32
        self.down = nn.Linear(hidden, design.size, device=device, dtype=dtype)
        self.up = nn.Linear(design.size, hidden, device=device, dtype=dtype)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.design = design
        self.enabled = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What to add to the block's output, shape and type of ``x``."""
        inner = ACTIVATIONS[self.design.activation](self.down(x.to(self.down.weight.dtype)))
        if self.training and self.design.dropout:
            inner = F.dropout(inner, self.design.dropout)
        added = self.up(inner)
        if self.design.scale != 1.0:
            added = added * self.design.scale
        return added.to(x.dtype)


@dataclass
class _State:
    design: Design
    adapters: dict[str, Bottleneck]
    hooks: list


def add(network: nn.Module, design: Design) -> nn.Module:
    """Freeze the network and put fresh adapters into it.

    Raises:
        InvalidParams: the model has no blocks where such adapters can stand; says why.
    """
    places = _places(network, design.placement, design.top)
    hidden = network.config.get_text_config().hidden_size
    network.requires_grad_(False)
    state = _State(design, {}, [])
    for name, block in places.items():
        weight = next(value for value in block.parameters() if value.is_floating_point())
        adapter = Bottleneck(hidden, design, weight.device, weight.dtype)
        block.add_module(NAME, adapter.train(block.training))
        state.adapters[f"{name}.{NAME}"] = adapter
        hook = _beside if design.placement == "parallel" else _behind
        state.hooks.append(block.register_forward_hook(hook, with_kwargs=True))
    setattr(network, STATE, state)
    return network


def remove(network: nn.Module) -> nn.Module:
    """Take the adapters out: the base model, as it was but for what requires a gradient.

    Raises:
        AdapterError: there are none.
    """
    state = _state(network)
    for hook in state.hooks:
        hook.remove()
    for name in state.adapters:
        owner, _, child = name.rpartition(".")
        delattr(network.get_submodule(owner), child)
    delattr(network, STATE)
    return network


def switch(network: nn.Module, on: bool) -> None:
    """Answer with the adapters or exactly as the base model.

    Raises:
        AdapterError: there are none.
    """
    for adapter in _state(network).adapters.values():
        adapter.enabled = on


def write(network: nn.Module, folder: Path) -> None:
    """Write the adapters' weights by their full names, and their design."""
    weights = {name: value.detach().contiguous() for name, value in _weights(network).items()}
    save_file(weights, folder / WEIGHTS)
    about = {"method": METHOD} | asdict(_state(network).design)
    (folder / CONFIG).write_text(json.dumps(about, indent=1))


def read(network: nn.Module, folder: Path) -> None:
    """Put stored weights into a network with adapters of the same design.

    Raises:
        AdapterError: they do not fit, or hold numbers that are not finite.
    """
    weights = _weights(network)
    found = tensors(folder / WEIGHTS, weights)
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(found[name])


def load_bottlenecks(network: nn.Module, folder: str | Path) -> nn.Module:
    """Put stored adapters into a plain transformers model, ready to answer.

    Args:
        network: the base model, as ``AutoModelForCausalLM.from_pretrained`` gives it.
        folder: holds bottleneck_config.json and bottleneck.safetensors.

    Raises:
        AdapterError: the folder is incomplete, damaged, or does not fit the model.
    """
    folder = Path(folder)
    about = description(folder / CONFIG, METHOD)
    design = _design({name: value for name, value in about.items() if name != "method"})
    try:
        add(network, design)
    except InvalidParams as error:
        raise AdapterError(f"The adapter does not fit this model: {error}") from error
    try:
        read(network, folder)
    except AdapterError:
        remove(network)
        raise
    return network.requires_grad_(False).eval()


def _design(values: dict) -> Design:
    try:
        design = Design(**values)
    except TypeError as error:
        raise AdapterError(f"The adapter's {CONFIG} is damaged: {error}") from error
    whole = all(isinstance(number, int) for number in (design.size, design.top))
    sound = whole and all(isinstance(number, int | float) for number in (design.scale, design.dropout))
    if (
        not sound
        or design.placement not in get_args(Placement)
        or design.activation not in ACTIVATIONS
        or not 0 < design.size <= 65536
        or design.top < 0
        or not 0 <= design.dropout < 1
    ):
        raise AdapterError(f"The adapter's {CONFIG} asks for something that does not exist.")
    return design


def _places(network: nn.Module, placement: Placement, top: int) -> dict[str, nn.Module]:
    """The blocks of the last ``top`` decoder layers (0: of all) that get an adapter, by full name."""
    names = {id(module): name for name, module in network.named_modules()}
    found: dict[str, nn.Module] = {}
    for block in upper(network, top):
        own = {"attention": block.attention, "feed-forward": block.mlp}
        for kind in PARTS[placement]:
            part = own[kind]
            if part is None:
                raise InvalidParams(
                    f"Bottleneck adapters need a {kind} block in each layer, and {block.name} of this model "
                    f"({type(network).__name__}) has none that stands by itself.",
                    "placement",
                )
            if adds_residual(part):
                raise InvalidParams(
                    f"Bottleneck adapters cannot stand behind {names[id(part)]}: in this model "
                    f"({type(network).__name__}) it adds the layer's input by itself.",
                    "placement",
                )
            found[names[id(part)]] = part
    return found


def _behind(block: nn.Module, args: tuple, kwargs: dict, output):
    adapter = getattr(block, NAME)
    if not adapter.enabled:
        return None
    if isinstance(output, tuple):
        return (output[0] + adapter(output[0]), *output[1:])
    return output + adapter(output)


def _beside(block: nn.Module, args: tuple, kwargs: dict, output):
    adapter = getattr(block, NAME)
    if not adapter.enabled:
        return None
    x = args[0] if args else kwargs["hidden_states"]
    if isinstance(output, tuple):
        return (output[0] + adapter(x), *output[1:])
    return output + adapter(x)


def _weights(network: nn.Module) -> dict[str, nn.Parameter]:
    adapters = _state(network).adapters
    return {
        f"{name}.{key}": value
        for name, adapter in adapters.items()
        for key, value in adapter.named_parameters()
    }


def _state(network: nn.Module) -> _State:
    state = getattr(network, STATE, None)
    if state is None:
        raise AdapterError(
            "This model has no adapter that could be switched: it was removed, or never added."
        )
    return state
