"""LN tuning: train the normalisation layers alone (PEFT)."""

from typing import TYPE_CHECKING, ClassVar

from playground.errors import InvalidParams
from playground.methods.base import parameter
from playground.methods.parametric import BlockParams
from playground.methods.peft_tuner import PeftTuner

if TYPE_CHECKING:
    from peft import LNTuningConfig
    from torch import nn


class LNTuningParams(BlockParams):
    """What LN tuning lets one choose."""

    learning_rate: float = parameter(
        1e-2, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class LNTuning(PeftTuner):
    """The gains (and biases) of every LayerNorm or RMSNorm are trained, all else is frozen. Zhao et al. 2023."""

    id: ClassVar[str] = "ln_tuning"
    title: ClassVar[str] = "LN tuning"
    changes_weights: ClassVar[str] = "Yes, normalisation layers"
    summary: ClassVar[str] = (
        "Freezes the model but for its normalisation layers: one factor for each hidden unit between the blocks."
    )
    training_cost: ClassVar[str] = "Low"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "The smallest adaptation that still reaches every block"
    best_for: ClassVar[str] = "Narrow tasks and little storage"
    paper: ClassVar[str] = "Zhao et al. 2023, arXiv:2312.11420"
    Params = LNTuningParams

    def config(self, params: LNTuningParams, network: "nn.Module") -> "LNTuningConfig":
        """See ``PeftTuner.config``."""
        from peft import LNTuningConfig

        names = sorted(
            {
                name.rsplit(".", 1)[-1]
                for name, layer in network.named_modules()
                if type(layer).__name__.endswith("Norm") and getattr(layer, "weight", None) is not None
            }
        )
        if not names:
            raise InvalidParams("This model has no normalisation layers with weights to train.")
        return LNTuningConfig(target_modules=names, task_type="CAUSAL_LM")
