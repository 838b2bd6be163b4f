"""P-tuning: a small network makes the embeddings of tokens that stand before every input (PEFT)."""

from typing import TYPE_CHECKING, ClassVar

from playground.methods.base import parameter
from playground.methods.virtual_tokens import VirtualTokenParams, VirtualTokenTuner

if TYPE_CHECKING:
    from peft import PromptEncoderConfig
    from torch import nn


class PTuningParams(VirtualTokenParams):
    """What P-tuning lets one choose."""

    encoder_size: int = parameter(
        128,
        "Network's width",
        "Hidden units of the network; only its outputs are kept.",
        minimum=1,
        maximum=8192,
    )
    learning_rate: float = parameter(
        3e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class PTuning(VirtualTokenTuner):
    """The model reads MLP(P); x, with P and the MLP trained and all else frozen. Liu et al. 2021."""

    id: ClassVar[str] = "p_tuning"
    title: ClassVar[str] = "P-tuning"
    changes_weights: ClassVar[str] = "No, adds input vectors"
    summary: ClassVar[str] = (
        "Prompt tuning whose tokens come out of a small network while training, so that they are learnt together."
    )
    training_cost: ClassVar[str] = "Low"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Steering one served model to many tasks, each a few kilobytes"
    best_for: ClassVar[str] = "Understanding tasks with a fixed answer form"
    paper: ClassVar[str] = "Liu et al. 2021, arXiv:2103.10385"
    Params = PTuningParams

    def config(self, params: PTuningParams, network: "nn.Module") -> "PromptEncoderConfig":
        """See ``PeftTuner.config``."""
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            num_virtual_tokens=params.virtual_tokens,
            encoder_hidden_size=params.encoder_size,
            task_type="CAUSAL_LM",
        )
