"""Prompt tuning: train the embeddings of a few tokens that stand before every input (PEFT)."""

from typing import TYPE_CHECKING, ClassVar

from playground.methods.base import Context, parameter
from playground.methods.virtual_tokens import StartedTokenParams, VirtualTokenTuner, text_ids

if TYPE_CHECKING:
    from peft import PromptTuningConfig
    from torch import nn


class PromptTuningParams(StartedTokenParams):
    """What prompt tuning lets one choose."""

    virtual_tokens: int = parameter(
        20, "Virtual tokens", "How many trained tokens stand before every input.", minimum=1, maximum=1024
    )
    learning_rate: float = parameter(
        3e-2, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class PromptTuning(VirtualTokenTuner):
    """The model reads P; x, with P (virtual tokens, hidden) trained and all else frozen. Lester et al. 2021."""

    id: ClassVar[str] = "prompt_tuning"
    title: ClassVar[str] = "Prompt tuning"
    changes_weights: ClassVar[str] = "No, adds input vectors"
    summary: ClassVar[str] = (
        "Leaves the model as it is and trains the embeddings of a few tokens that are put before every input."
    )
    training_cost: ClassVar[str] = "Low"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Steering one served model to many tasks, each a few kilobytes"
    best_for: ClassVar[str] = "Large models"
    paper: ClassVar[str] = "Lester et al. 2021, arXiv:2104.08691"
    Params = PromptTuningParams

    def config(self, params: PromptTuningParams, network: "nn.Module") -> "PromptTuningConfig":
        """See ``PeftTuner.config``."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(num_virtual_tokens=params.virtual_tokens, task_type="CAUSAL_LM")

    def prepare(self, params: PromptTuningParams, network: "nn.Module", context: Context) -> None:
        """Start from the embeddings of a text."""
        ids = text_ids(params, context)
        if ids is not None:
            encoder = network.prompt_encoder[network.active_adapter]
            encoder.embedding.weight.data.copy_(network.get_input_embeddings()(ids).detach())
