"""AdaLoRA: LoRA that starts with much rank everywhere and keeps it where it matters (PEFT)."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from playground.data.tasks import Task
from playground.errors import InvalidParams
from playground.methods.base import parameter
from playground.methods.parametric import BlockParams
from playground.methods.peft_tuner import WEIGHTS, PeftTuner, target_layers

if TYPE_CHECKING:
    from peft import AdaLoraConfig
    from torch import nn

    from playground.training.text import StepHook

FEWEST_STEPS = 10
UNKNOWN_STEPS = 1_000_000_000  # until ``hook`` is told


class AdaLoRAParams(BlockParams):
    """What AdaLoRA lets one choose."""

    initial_rank: int = parameter(12, "Rank at the start", "Of every layer.", minimum=2, maximum=256)
    target_rank: int = parameter(
        8,
        "Rank at the end",
        "On average over the layers: some end with more, some with less.",
        minimum=1,
        maximum=255,
    )
    alpha: float = parameter(
        32.0, "Alpha", "The update counts alpha / rank times.", minimum=0.1, maximum=1024
    )
    layers: Literal["all-linear", "attention", "mlp"] = parameter(
        "all-linear",
        "Layers",
        "Which layers are adapted: all linear ones, those of attention, or of the MLP.",
    )
    dropout: float = parameter(
        0.0,
        "Dropout",
        "Share of the adapter's inputs set to zero while training.",
        minimum=0,
        maximum=0.9,
        step=0.05,
        advanced=True,
    )
    first: float = parameter(
        0.1,
        "First part",
        "Share of the steps before any rank is taken away.",
        minimum=0,
        maximum=0.4,
        step=0.05,
        advanced=True,
    )
    last: float = parameter(
        0.4,
        "Last part",
        "Share of the steps after the ranks are settled.",
        minimum=0,
        maximum=0.5,
        step=0.05,
        advanced=True,
    )
    orthogonality: float = parameter(
        0.5,
        "Orthogonality",
        "How strongly the matrices are kept orthogonal, so that each singular value counts for itself.",
        minimum=0,
        maximum=10,
        advanced=True,
    )
    learning_rate: float = parameter(
        5e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )

    @model_validator(mode="after")
    def _shrinks(self) -> "AdaLoRAParams":
        if self.target_rank >= self.initial_rank:
            raise ValueError("The rank at the end must be smaller than the rank at the start.")
        return self


class AdaLoRA(PeftTuner):
    """W = W0 + (alpha / rank) · B · diag(e) · A; the least important entries of e are set to 0. Zhang et al. 2023."""

    id: ClassVar[str] = "adalora"
    title: ClassVar[str] = "AdaLoRA"
    changes_weights: ClassVar[str] = "Adds low-rank matrices"
    summary: ClassVar[str] = (
        "LoRA in the form of a singular value decomposition: training takes rank away where it matters least."
    )
    training_cost: ClassVar[str] = "Medium"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Spending a fixed number of parameters on the layers that need them"
    best_for: ClassVar[str] = "Small parameter budgets"
    paper: ClassVar[str] = "Zhang et al. 2023, arXiv:2303.10512"
    Params = AdaLoRAParams

    def check(self, params: AdaLoRAParams, task: Task) -> None:
        """See ``Parametric.check``; refuses a training too short to settle the ranks."""
        super().check(params, task)
        steps = self.plan(params).steps(len(task.train))
        if steps < FEWEST_STEPS:
            raise InvalidParams(
                f"AdaLoRA settles its ranks over the steps and needs at least {FEWEST_STEPS}; these settings "
                f"make {steps}. Raise the epochs or lower the batch size.",
                "epochs",
            )

    def config(self, params: AdaLoRAParams, network: "nn.Module") -> "AdaLoraConfig":
        """See ``PeftTuner.config``."""
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            init_r=params.initial_rank,
            target_r=params.target_rank,
            lora_alpha=params.alpha,
            lora_dropout=params.dropout,
            orth_reg_weight=params.orthogonality,
            total_step=UNKNOWN_STEPS,
            target_modules=target_layers(network, params.layers),
            task_type="CAUSAL_LM",
        )

    def hook(self, params: AdaLoRAParams, network: "nn.Module", steps: int) -> "StepHook":
        """See ``Parametric.hook``: the orthogonality before each step, the ranks after it."""
        from playground.training.adalora import RankBudget

        config = network.active_peft_config
        config.total_step = steps
        config.tinit, config.tfinal = int(steps * params.first), int(steps * params.last)
        return RankBudget(network)

    def write(self, network: "nn.Module", folder: Path) -> None:
        """See ``PeftTuner.write``; rows whose singular value is 0 are left out."""
        from playground.training.adalora import singular_values

        network.active_peft_config.rank_pattern = {
            name: (value != 0).flatten().tolist() for name, value in singular_values(network).items()
        }
        super().write(network, folder)

    def read(self, network: "nn.Module", folder: Path) -> None:
        """See ``Parametric.read``; the ranks are those of the file."""
        from playground.training.adalora import take_ranks

        take_ranks(network, folder / WEIGHTS)
        super().read(network, folder)
