"""What all techniques that PEFT carries share: a configuration is all that differs."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from playground.errors import AdapterError, InvalidParams
from playground.methods.parametric import BlockParams, Parametric, TrainingParams

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

WEIGHTS = "adapter_model.safetensors"

# What PEFT raises, by tuner, where it cannot put itself into a network. InvalidParams is none of them.
_MISFITS = (
    ValueError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    AttributeError,
    AssertionError,
    KeyError,
)

_OTHER_LAYERS = "cannot adapt layers of this model’s kind: choose another technique or other layers"

# names that attention and MLP layers have in most model families; the others are found by their place
LAYERS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv"),
    "mlp": (
        "gate_proj",
        "up_proj",
        "down_proj",
        "gate_up_proj",
        "fc1",
        "fc2",
        "c_fc",
        "dense_h_to_4h",
        "dense_4h_to_h",
    ),
}


class PeftTuner(Parametric):
    """A tuner of PEFT. Subclasses say its configuration; the result loads in plain ``PeftModel``.

    ``mergeable``: the trained part can be folded into the weights. ``made_on_cpu``: PEFT looks at values
    while it makes the trainable part, so it is made on the CPU also for a network without values.
    """

    mergeable: ClassVar[bool] = True
    made_on_cpu: ClassVar[bool] = False

    @abstractmethod
    def config(self, params: TrainingParams, network: "nn.Module") -> "PeftConfig":
        """The tuner's configuration for this network.

        Raises:
            InvalidParams: it does not fit; the message says why.
        """

    def wrap(self, params: TrainingParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """See ``Parametric.wrap``; what PEFT leaves in 16 bits is trained in float32, too."""
        import torch
        from peft import get_peft_model

        from playground.training.wide import widen

        torch.manual_seed(seed)
        place = torch.device("cpu") if self.made_on_cpu else nullcontext()
        with self.explained(), place:
            config = self.config(params, network)
            if isinstance(params, BlockParams) and params.top_layers:
                _restrict(config, network, params.top_layers)
            wrapped = get_peft_model(network, config)
        # some tuners pass over layers that they do not know
        if not any(parameter.requires_grad for parameter in wrapped.parameters()):
            raise InvalidParams(f"{self.title} {_OTHER_LAYERS}.")
        widen(wrapped)
        return wrapped

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what PEFT raises at a network that a tuner does not fit into a sentence for the user.

        Raises:
            InvalidParams: the technique does not fit the network.
        """
        try:
            yield
        except _MISFITS as error:
            if "memory" in str(error):
                raise
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            why = "does not fit this model with these settings"
            if "support" in said or "not found" in said:
                why = _OTHER_LAYERS
            raise InvalidParams(f"{self.title} {why}. (PEFT: {said})") from error

    def write(self, network: "nn.Module", folder: Path) -> None:
        """PEFT's own format: adapter_config.json and adapter_model.safetensors."""
        network.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card

    def read(self, network: "nn.Module", folder: Path) -> None:
        """See ``Parametric.read``."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        from playground.training.adapter_files import tensors

        expected = get_peft_model_state_dict(network, save_embedding_layers=False)
        set_peft_model_state_dict(network, tensors(folder / WEIGHTS, expected))

    def switch(self, network: "nn.Module", on: bool) -> None:
        """See ``Parametric.switch``."""
        from peft import PeftModel

        if not isinstance(network, PeftModel):
            raise AdapterError(
                "This model has no adapter that could be switched: it is merged, or was never added."
            )
        if on:
            network.base_model.enable_adapter_layers()
        else:
            network.base_model.disable_adapter_layers()

    def merge(self, network: "nn.Module") -> "nn.Module":
        """See ``Parametric.merge``."""
        from playground.training.wide import narrow

        if not self.mergeable:
            return network
        narrow(network)
        return network.merge_and_unload()


def _restrict(config: "PeftConfig", network: "nn.Module", count: int) -> None:
    """Let a configuration name only layers that are not below the model's last ``count`` blocks.

    Layers after all blocks (the last norm) stay named. A configuration that counts blocks itself is left as it is.
    """
    from playground.training.structure import below

    if getattr(config, "layers_to_transform", None):
        return
    lower = below(network, count)
    for field in ("target_modules", "feedforward_modules"):
        names = getattr(config, field, None)
        if names == "all-linear":
            names = linear_names(network)
        if names:
            setattr(
                config, field, {name for name in full_names(network, names) if not name.startswith(lower)}
            )


def full_names(network: "nn.Module", names: Iterable[str]) -> list[str]:
    """The whole names of the layers that one of ``names`` ends."""
    ends = tuple(f".{name}" for name in names)
    return [name for name, _ in network.named_modules() if f".{name}".endswith(ends)]


def linear_names(network: "nn.Module") -> list[str]:
    """Last names of all linear layers but the output head."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = network.get_output_embeddings()
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, layer in network.named_modules()
            if isinstance(layer, (nn.Linear, Conv1D)) and layer is not head
        }
    )


def target_layers(network: "nn.Module", kind: str) -> str | list[str]:
    """The names of the network's layers of a kind: "all-linear", "attention" or "mlp".

    Layers of attention and MLP that have other names than most models' are named with their place in a block
    ("attn.c_proj"): the last name alone may be that of other layers, too.

    Raises:
        InvalidParams: the network has none.
    """
    if kind == "all-linear":
        return kind
    known = names_in(network, LAYERS[kind])
    found = sorted({*known, *_other_names(network, kind, set(full_names(network, known)))})
    if not found:
        raise InvalidParams(
            f"This model has no layers called {', '.join(LAYERS[kind])}. Choose “all-linear”.", "layers"
        )
    return found


def _other_names(network: "nn.Module", kind: str, known: set[str]) -> set[str]:
    """Names in their blocks of the layers of a kind that are not ``known`` by their whole names."""
    from playground.training.structure import blocks, layers_of

    try:
        found = blocks(network)
    except InvalidParams:
        return set()
    return {name for block in found for name in layers_of(block, kind) if f"{block.name}.{name}" not in known}


def names_in(network: "nn.Module", names: Iterable[str]) -> list[str]:
    """Those of ``names`` that end the name of some layer of the network, in order."""
    layers = [f".{name}" for name, _ in network.named_modules()]
    return sorted(name for name in names if any(layer.endswith(f".{name}") for layer in layers))


def layer_sizes(network: "nn.Module", kind: str) -> list[tuple[int, int]]:
    """(inputs, outputs) of the network's linear layers of a kind, see ``target_layers``; not of its head."""
    from torch import nn

    names, head = target_layers(network, kind), network.get_output_embeddings()
    chosen = None if names == kind else set(full_names(network, names))
    return [
        (layer.in_features, layer.out_features)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head and (chosen is None or name in chosen)
    ]


def require_divisor(network: "nn.Module", kind: str, value: int, name: str, label: str) -> None:
    """Refuse a parameter that does not divide all sizes of the layers it is for.

    Raises:
        InvalidParams: names the values that do.
    """
    common = gcd(*(size for sizes in layer_sizes(network, kind) for size in sizes))
    if value == 0 or common % value:
        fitting = [str(size) for size in range(1, common + 1) if common % size == 0]
        raise InvalidParams(
            f"{label} {value} does not divide the sizes of this model’s layers. These do: {', '.join(fitting)}.",
            name,
        )
