"""Full fine-tuning: every weight of the model is trained, none is added."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from playground.methods.base import parameter
from playground.methods.parametric import Parametric, TrainingParams
from playground.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from playground.training.text import Plan


class FullParams(TrainingParams):
    """What full fine-tuning lets one choose."""

    learning_rate: float = parameter(
        1e-4,
        "Learning rate",
        "The highest one. All weights move, so it is far lower than for added ones.",
        minimum=1e-7,
        maximum=1.0,
    )
    layer_decay: float = parameter(
        1.0,
        "Layer-wise decay",
        "Each block learns at the rate of the block above it times this, the embeddings slowest; 1 = all at one rate. "
        "What the model knows sits low and stays, what it answers is decided high up.",
        minimum=0.1,
        maximum=1,
        step=0.05,
        advanced=True,
    )
    epochs: int = parameter(5, "Epochs", "How often each training example is seen.", minimum=1, maximum=100)
    batch_size: int = parameter(4, "Batch size", "Examples computed at once.", minimum=1, maximum=256)
    embedding_noise: float = parameter(
        5.0,
        "Embedding noise",
        "NEFTune's α: noise on the tokens' embeddings while training, against learning few examples by heart.",
        minimum=0,
        maximum=100,
        step=1,
        advanced=True,
    )


class Full(Parametric):
    """Trains all weights in float32; the reference for quality, memory, storage and forgetting.

    A model that is loaded in bfloat16 or float16 is trained in float32 (on bfloat16 devices the layers
    compute in bfloat16) and stored in the type it came in.
    """

    id: ClassVar[str] = "full"
    title: ClassVar[str] = "Full fine-tuning"
    changes_weights: ClassVar[str] = "Yes, all"
    summary: ClassVar[str] = (
        "Trains every weight of the model: the most room to learn, the most memory, and a whole model to store."
    )
    training_cost: ClassVar[str] = "High"
    storage_cost: ClassVar[str] = "High"
    use_case: ClassVar[str] = "Deep changes of what a model does, with enough data and memory"
    best_for: ClassVar[str] = "One task of great weight, and as the reference for all other techniques"
    Params = FullParams

    def plan(self, params: FullParams, seed: int = 0) -> "Plan":
        """See ``Parametric.plan``; bfloat16 devices compute in bfloat16 with float32 weights."""
        from dataclasses import replace

        import torch

        from playground.models import device

        reduced = device.choose(Settings.from_environment()).dtype == torch.bfloat16
        return replace(super().plan(params, seed), autocast=reduced)

    def wrap(self, params: FullParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """See ``Parametric.wrap``."""
        from playground.training.whole import prepare

        wrapped = prepare(network)
        self.groups(params, wrapped)  # a network whose blocks are not found is refused before a start
        return wrapped

    def groups(
        self, params: FullParams, network: "nn.Module"
    ) -> "list[tuple[list[nn.Parameter], float]] | None":
        """See ``training.whole.layer_rates``; all at one rate without a decay."""
        from playground.training.whole import layer_rates

        return None if params.layer_decay == 1 else layer_rates(network, params.layer_decay)

    def write(self, network: "nn.Module", folder: Path) -> None:
        """A plain transformers folder, with the tokenizer where the model was loaded from one that has it."""
        from playground.training.whole import write

        write(network, folder)

    def read(self, network: "nn.Module", folder: Path) -> None:
        """See ``Parametric.read``. The base weights are kept beside the trained ones, for ``switch``."""
        from playground.training.whole import read

        read(network, folder)

    def switch(self, network: "nn.Module", on: bool) -> None:
        """See ``Parametric.switch``; takes no time, and twice the weights' memory since ``read``."""
        from playground.training.whole import switch

        switch(network, on)

    def merge(self, network: "nn.Module") -> "nn.Module":
        """The network itself, plain, in the number type it was loaded in."""
        from playground.training.whole import plain

        return plain(network)

    def merging_bytes(self, network: "nn.Module") -> int:
        """See ``Parametric.merging_bytes``: both sets of weights, and those of 16 bits in float32, too."""
        weights = list(network.parameters())
        widened = sum(4 * value.numel() for value in weights if value.itemsize < 4)
        return 2 * sum(value.nbytes for value in weights) + widened

    def faster(self, network: "nn.Module", on: bool) -> None:
        """See ``training.whole.lean_gradients``: the same gradients in less memory."""
        from playground.training.whole import lean_gradients

        lean_gradients(network, on)
