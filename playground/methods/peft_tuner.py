"""What all techniques that PEFT carries share: a configuration is all that differs."""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from playground.errors import AdapterError, InvalidParams
from playground.methods.parametric import Parametric, TrainingParams

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

WEIGHTS = "adapter_model.safetensors"

# names that attention and MLP layers have in the model families that PEFT knows
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
    """A tuner of PEFT. Subclasses say its configuration; the result loads in plain ``PeftModel``."""

    @abstractmethod
    def config(self, params: TrainingParams, network: "nn.Module") -> "PeftConfig":
        """The tuner's configuration for this network.

        Raises:
            InvalidParams: it does not fit; the message says why.
        """

    def wrap(self, params: TrainingParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """See ``Parametric.wrap``."""
        import torch
        from peft import get_peft_model

        torch.manual_seed(seed)
        try:
            return get_peft_model(network, self.config(params, network))
        except (ValueError, NotImplementedError) as error:
            raise InvalidParams(f"{self.title} does not fit this model: {error}") from error

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
        return network.merge_and_unload()


def target_layers(network: "nn.Module", kind: str) -> str | list[str]:
    """The names of the network's layers of a kind: "all-linear", "attention" or "mlp".

    Raises:
        InvalidParams: the network has none.
    """
    if kind == "all-linear":
        return kind
    present = {name.rsplit(".", 1)[-1] for name, _ in network.named_modules()}
    found = sorted(present.intersection(LAYERS[kind]))
    if not found:
        raise InvalidParams(
            f"This model has no layers called {', '.join(LAYERS[kind])}. Choose “all-linear”.", "layers"
        )
    return found
