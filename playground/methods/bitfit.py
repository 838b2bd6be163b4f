"""BitFit: only the biases are trained; a model without any gets zeros to start from."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from playground.events import Event
from playground.methods.base import Adapted, Context, parameter
from playground.methods.parametric import BlockParams, Parametric

if TYPE_CHECKING:
    from torch import nn


class BitFitParams(BlockParams):
    """What BitFit lets one choose."""

    layers: Literal["all-linear", "attention", "mlp", "query-intermediate", "existing"] = parameter(
        "all-linear",
        "Layers",
        "Whose biases are trained. Linear layers without a bias (Llama has none) get one that starts at "
        "zero; “existing” adds none. “query-intermediate”: those of the queries and of the MLP's widening layers.",
    )
    learning_rate: float = parameter(
        3e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class BitFit(Parametric):
    """Trains b in y = W·x + b and nothing else. Ben Zaken et al. 2021."""

    id: ClassVar[str] = "bitfit"
    title: ClassVar[str] = "BitFit"
    changes_weights: ClassVar[str] = "Biases only"
    summary: ClassVar[str] = (
        "Trains the model's biases alone; where its layers have none, as in Llama, adds some that start at zero."
    )
    training_cost: ClassVar[str] = "Low"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Small shifts of what a model does, with next to nothing to store"
    best_for: ClassVar[str] = "Many small tasks where every byte counts"
    paper: ClassVar[str] = "Ben Zaken et al. 2021, arXiv:2106.10199"
    Params = BitFitParams

    def adapt(self, params: BitFitParams, context: Context) -> Generator[Event, None, Adapted]:
        """See ``Parametric.adapt``; says which biases are trained and which had to be added."""
        from playground.training.biases import targets

        existing, missing = targets(context.model.model, params.layers, params.top_layers)
        yield Event.log(_told(len(existing), len(missing)))
        return (yield from super().adapt(params, context))

    def wrap(self, params: BitFitParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """See ``Parametric.wrap``."""
        from playground.training.biases import add

        return add(network, params.layers, params.top_layers)

    def write(self, network: "nn.Module", folder: Path) -> None:
        """bitfit.safetensors and bitfit_config.json; ``playground.training.biases.load_biases`` loads them."""
        from playground.training.biases import write

        write(network, folder)

    def read(self, network: "nn.Module", folder: Path) -> None:
        """See ``Parametric.read``."""
        from playground.training.biases import read

        read(network, folder)

    def switch(self, network: "nn.Module", on: bool) -> None:
        """See ``Parametric.switch``."""
        from playground.training.biases import switch

        switch(network, on)

    def merge(self, network: "nn.Module") -> "nn.Module":
        """See ``training.biases.merge``: a bias is part of a plain linear layer."""
        from playground.training.biases import merge

        return merge(network)


def _told(existing: int, missing: int) -> str:
    if not missing:
        return f"{existing} biases of the model are trained; none had to be added."
    have = f"{existing} biases of the model are trained" if existing else "The chosen layers have no biases"
    return f"{have}; {missing} linear layers had none and get one that starts at zero."
