"""LoRA: freeze the model and train two thin matrices beside each chosen layer (PEFT)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from playground.methods.base import parameter
from playground.methods.parametric import TrainingParams
from playground.methods.peft_tuner import PeftTuner, target_layers

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn


class LoRAParams(TrainingParams):
    """What LoRA lets one choose."""

    rank: int = parameter(
        8, "Rank", "Columns of the two matrices: more can store more, and costs more.", minimum=1, maximum=256
    )
    alpha: float = parameter(
        16.0,
        "Alpha",
        "The update counts alpha / rank times: a larger alpha acts like a larger learning rate.",
        minimum=0.1,
        maximum=1024,
    )
    dropout: float = parameter(
        0.0,
        "Dropout",
        "Share of the adapter's inputs set to zero while training.",
        minimum=0,
        maximum=0.9,
        step=0.05,
    )
    layers: Literal["all-linear", "attention", "mlp"] = parameter(
        "all-linear",
        "Layers",
        "Which layers get an adapter: all linear ones, those of attention, or of the MLP.",
    )
    learning_rate: float = parameter(
        2e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class LoRA(PeftTuner):
    """W = W0 + (alpha / rank) · B · A, with W0 frozen and A, B trained. Hu et al. 2021."""

    id: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    changes_weights: ClassVar[str] = "Adds low-rank matrices"
    summary: ClassVar[str] = (
        "Freezes the model and trains a small low-rank update of its layers, which can be switched on, off or merged."
    )
    training_cost: ClassVar[str] = "Medium"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Teaching a model a task or a style with little memory"
    best_for: ClassVar[str] = "Many tasks on one base model"
    paper: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"
    Params = LoRAParams

    def config(self, params: LoRAParams, network: "nn.Module") -> "LoraConfig":
        """See ``PeftTuner.config``."""
        from peft import LoraConfig

        return LoraConfig(
            r=params.rank,
            lora_alpha=params.alpha,
            lora_dropout=params.dropout,
            target_modules=target_layers(network, params.layers),
            bias="none",
            task_type="CAUSAL_LM",
        )

    def faster(self, network: "nn.Module", on: bool) -> None:
        """See ``training.fused_lora``: the same numbers with less memory traffic."""
        from playground.training.fused_lora import fuse, unfuse

        if on:
            fuse(network)
        else:
            unfuse(network)
