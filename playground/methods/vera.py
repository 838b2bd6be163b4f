"""VeRA: two random matrices shared by all layers, with trained scales for each layer (PEFT)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from playground.methods.base import parameter
from playground.methods.parametric import BlockParams
from playground.methods.peft_tuner import PeftTuner, target_layers

if TYPE_CHECKING:
    from peft import VeraConfig
    from torch import nn


class VeRAParams(BlockParams):
    """What VeRA lets one choose."""

    rank: int = parameter(
        256,
        "Rank",
        "Columns of the shared random matrices. They are not trained, so it may be large.",
        minimum=1,
        maximum=2048,
    )
    layers: Literal["all-linear", "attention", "mlp"] = parameter(
        "all-linear",
        "Layers",
        "Which layers are adapted: all linear ones, those of attention, or of the MLP.",
    )
    projection_seed: int = parameter(
        0, "Projection seed", "Chooses the random matrices.", minimum=0, maximum=2**31 - 1, advanced=True
    )
    keep_projection: bool = parameter(
        True,
        "Keep the random matrices",
        "Store them with the adapter; without them it is much smaller, but loads only where the same "
        "PyTorch draws the same numbers from the seed.",
        advanced=True,
    )
    learning_rate: float = parameter(
        2e-2, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )


class VeRA(PeftTuner):
    """W = W0 + diag(b) · B · diag(d) · A, with A and B random and shared, b and d trained. Kopiczko et al. 2023."""

    id: ClassVar[str] = "vera"
    title: ClassVar[str] = "VeRA"
    changes_weights: ClassVar[str] = "Adds low-rank matrices"
    summary: ClassVar[str] = (
        "Like LoRA with random matrices that all layers share: only two vectors of scales for each layer are trained."
    )
    training_cost: ClassVar[str] = "Medium"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "LoRA's way with a tenth of its trained numbers"
    best_for: ClassVar[str] = "Very many adapters on one base model"
    paper: ClassVar[str] = "Kopiczko et al. 2023, arXiv:2310.11454"
    Params = VeRAParams

    def config(self, params: VeRAParams, network: "nn.Module") -> "VeraConfig":
        """See ``PeftTuner.config``."""
        from peft import VeraConfig

        return VeraConfig(
            r=params.rank,
            projection_prng_key=params.projection_seed,
            save_projection=params.keep_projection,
            target_modules=target_layers(network, params.layers),
            task_type="CAUSAL_LM",
        )
