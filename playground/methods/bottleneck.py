"""Bottleneck adapters: small trained networks between the blocks of the frozen model."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from playground.methods.base import parameter
from playground.methods.parametric import BlockParams, Parametric

if TYPE_CHECKING:
    from torch import nn


class BottleneckParams(BlockParams):
    """What bottleneck adapters let one choose."""

    placement: Literal["houlsby", "pfeiffer", "attention", "parallel"] = parameter(
        "houlsby",
        "Placement",
        "houlsby: behind attention and behind feed-forward; pfeiffer: behind feed-forward alone; "
        "attention: behind attention alone; parallel: beside feed-forward (He et al. 2021).",
    )
    reduction: int = parameter(
        16,
        "Reduction factor",
        "The model's width divided by the bottleneck's: larger means fewer parameters.",
        minimum=1,
        maximum=1024,
    )
    activation: Literal["relu", "gelu", "silu"] = parameter(
        "relu", "Activation", "Between the adapter's two layers.", advanced=True
    )
    dropout: float = parameter(
        0.0,
        "Dropout",
        "Share of the bottleneck set to zero while training.",
        minimum=0,
        maximum=0.9,
        step=0.05,
        advanced=True,
    )
    scale: float = parameter(
        1.0,
        "Scale",
        "What an adapter adds is multiplied by it; He et al. use 4 for parallel ones.",
        minimum=0.01,
        maximum=100,
        advanced=True,
    )
    learning_rate: float = parameter(
        1e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class Bottleneck(Parametric):
    """h + U · f(D · h) behind a block, U starting at zero. Houlsby et al. 2019, Pfeiffer et al. 2020."""

    id: ClassVar[str] = "bottleneck"
    title: ClassVar[str] = "Bottleneck adapters"
    changes_weights: ClassVar[str] = "Adds small layers"
    summary: ClassVar[str] = (
        "Freezes the model and trains small two-layer networks between its blocks, which can be taken out again."
    )
    training_cost: ClassVar[str] = "Medium"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Plug-in skills for one frozen model"
    best_for: ClassVar[str] = "Many tasks on one base model that are switched often"
    paper: ClassVar[str] = "Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00247"
    Params = BottleneckParams

    def wrap(self, params: BottleneckParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """See ``Parametric.wrap``."""
        import torch

        from playground.training.bottleneck import Design, add

        hidden = network.config.get_text_config().hidden_size
        torch.manual_seed(seed)
        return add(
            network,
            Design(
                placement=params.placement,
                size=max(1, hidden // params.reduction),
                activation=params.activation,
                scale=params.scale,
                dropout=params.dropout,
                top=params.top_layers,
            ),
        )

    def write(self, network: "nn.Module", folder: Path) -> None:
        """bottleneck.safetensors and bottleneck_config.json; ``training.bottleneck.load_bottlenecks`` loads them."""
        from playground.training.bottleneck import write

        write(network, folder)

    def read(self, network: "nn.Module", folder: Path) -> None:
        """See ``Parametric.read``."""
        from playground.training.bottleneck import read

        read(network, folder)

    def switch(self, network: "nn.Module", on: bool) -> None:
        """See ``Parametric.switch``."""
        from playground.training.bottleneck import switch

        switch(network, on)
