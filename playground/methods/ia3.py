"""IA3: train one factor for each key, value and MLP activation (PEFT)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from playground.errors import InvalidParams
from playground.methods.base import parameter
from playground.methods.parametric import BlockParams
from playground.methods.peft_tuner import PeftTuner, names_in

if TYPE_CHECKING:
    from peft import IA3Config
    from torch import nn

KEYS_AND_VALUES = ("k_proj", "v_proj", "key", "value", "qkv_proj", "query_key_value", "c_attn", "Wqkv")
MLP_OUTPUTS = ("down_proj", "fc2", "dense_4h_to_h", "mlp.c_proj")
OTHERS = ("q_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "fc1")


class IA3Params(BlockParams):
    """What IA3 lets one choose."""

    layers: Literal["keys-values-mlp", "all-linear"] = parameter(
        "keys-values-mlp",
        "Layers",
        "What is scaled: keys, values and the MLP's inner activations as in the paper, or every linear layer.",
    )
    learning_rate: float = parameter(
        3e-2, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class IA3(PeftTuner):
    """k ← l_k ⊙ k, v ← l_v ⊙ v, MLP inner ← l_ff ⊙ inner; the factors start at 1. Liu et al. 2022."""

    id: ClassVar[str] = "ia3"
    title: ClassVar[str] = "IA3"
    changes_weights: ClassVar[str] = "Adds scaling factors"
    summary: ClassVar[str] = (
        "Freezes the model and trains one factor for each key, value and MLP activation: a few thousand numbers."
    )
    training_cost: ClassVar[str] = "Low"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Very many tasks on one model, each in a file of some hundred kilobytes"
    best_for: ClassVar[str] = "Little data"
    paper: ClassVar[str] = "Liu et al. 2022, arXiv:2205.05638"
    Params = IA3Params

    def config(self, params: IA3Params, network: "nn.Module") -> "IA3Config":
        """See ``PeftTuner.config``."""
        from peft import IA3Config

        inner = names_in(network, MLP_OUTPUTS)
        outer = names_in(network, KEYS_AND_VALUES)
        if not (inner and outer):
            raise InvalidParams(
                "IA3 does not find the keys, the values and the MLP of this model: its layers have other names."
            )
        if params.layers == "all-linear":
            outer += names_in(network, OTHERS)
        return IA3Config(
            target_modules=outer + inner,
            feedforward_modules=inner,
            task_type="CAUSAL_LM",
        )
