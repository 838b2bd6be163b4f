"""Prefix tuning: train keys and values that every layer's attention finds before the input (PEFT)."""

from typing import TYPE_CHECKING, ClassVar

from playground.methods.base import Context, parameter
from playground.methods.virtual_tokens import StartedTokenParams, VirtualTokenTuner, text_ids

if TYPE_CHECKING:
    from peft import PrefixTuningConfig
    from torch import nn


class PrefixTuningParams(StartedTokenParams):
    """What prefix tuning lets one choose."""

    virtual_tokens: int = parameter(
        80,
        "Prefix tokens",
        "How many keys and values stand before every input in each layer.",
        minimum=1,
        maximum=1024,
    )
    learning_rate: float = parameter(
        5e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class PrefixTuning(VirtualTokenTuner):
    """Attention sees [P_k; K] and [P_v; V] in every layer, with P_k and P_v trained. Li and Liang 2021."""

    id: ClassVar[str] = "prefix_tuning"
    title: ClassVar[str] = "Prefix tuning"
    changes_weights: ClassVar[str] = "No, adds keys and values"
    summary: ClassVar[str] = (
        "Leaves the model as it is and trains keys and values that every attention layer finds before the input."
    )
    training_cost: ClassVar[str] = "Low"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Steering one served model to many tasks without changing it"
    best_for: ClassVar[str] = "Generation with a fixed format"
    paper: ClassVar[str] = "Li and Liang 2021, arXiv:2101.00190"
    Params = PrefixTuningParams

    def config(self, params: PrefixTuningParams, network: "nn.Module") -> "PrefixTuningConfig":
        """See ``PeftTuner.config``."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(num_virtual_tokens=params.virtual_tokens, task_type="CAUSAL_LM")

    def prepare(self, params: PrefixTuningParams, network: "nn.Module", context: Context) -> None:
        """Start from what the base model keeps of a text."""
        from playground.training.virtual_tokens import keys_and_values

        ids = text_ids(params, context)
        if ids is not None:
            encoder = network.prompt_encoder[network.active_adapter]
            encoder.embedding.weight.data.copy_(keys_and_values(network.get_base_model(), ids))
