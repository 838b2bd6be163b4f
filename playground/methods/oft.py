"""OFT: rotate each layer's inputs by a trained block-diagonal orthogonal matrix (PEFT)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from playground.methods.base import parameter
from playground.methods.parametric import BlockParams
from playground.methods.peft_tuner import PeftTuner, require_divisor, target_layers

if TYPE_CHECKING:
    from peft import OFTConfig
    from torch import nn


class OFTParams(BlockParams):
    """What OFT lets one choose."""

    block_size: int = parameter(
        32,
        "Block size",
        "Inputs are rotated in blocks of this size; larger blocks can change more. It must divide the layers' sizes.",
        minimum=2,
        maximum=1024,
    )
    layers: Literal["all-linear", "attention", "mlp"] = parameter(
        "all-linear",
        "Layers",
        "Which layers are rotated: all linear ones, those of attention, or of the MLP.",
    )
    dropout: float = parameter(
        0.0,
        "Dropout",
        "Share of the blocks left unrotated while training.",
        minimum=0,
        maximum=0.9,
        step=0.05,
        advanced=True,
    )
    learning_rate: float = parameter(
        1e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class OFT(PeftTuner):
    """W = W0 · R, with R orthogonal and block-diagonal (Cayley transform of a skew matrix). Qiu et al. 2023."""

    id: ClassVar[str] = "oft"
    title: ClassVar[str] = "OFT"
    changes_weights: ClassVar[str] = "Adds rotations"
    summary: ClassVar[str] = (
        "Freezes the model and trains a rotation of each layer's inputs, which keeps the angles between its neurons."
    )
    training_cost: ClassVar[str] = "Medium"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Teaching a task while keeping what the model knows"
    best_for: ClassVar[str] = "Quality near full fine-tuning in a small file"
    paper: ClassVar[str] = "Qiu et al. 2023, arXiv:2306.07280"
    Params = OFTParams

    def config(self, params: OFTParams, network: "nn.Module") -> "OFTConfig":
        """See ``PeftTuner.config``."""
        from peft import OFTConfig

        require_divisor(network, params.layers, params.block_size, "block_size", "Block size")
        return OFTConfig(
            oft_block_size=params.block_size,
            module_dropout=params.dropout,
            target_modules=target_layers(network, params.layers),
            task_type="CAUSAL_LM",
        )
