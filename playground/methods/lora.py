"""LoRA: freeze the model and train two thin matrices beside each chosen layer (PEFT).

With its refinements: rsLoRA (Kalajdzievski 2023, arXiv:2312.03732), DoRA (Liu et al. 2024,
arXiv:2402.09353), LoRA+ (Hayou et al. 2024, arXiv:2402.12354) and starts other than zero: PiSSA (Meng et al.
2024, arXiv:2404.02948), OLoRA (Büyükakyüz 2024, arXiv:2406.01775), EVA (Paischer et al. 2024,
arXiv:2410.07170). Whatever the start, the result is kept as an ordinary LoRA of the original base model.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from playground.data.tasks import Task
from playground.errors import InvalidParams
from playground.methods.base import Context, parameter
from playground.methods.parametric import BlockParams
from playground.methods.peft_tuner import WEIGHTS, PeftTuner, linear_names, target_layers

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

# starts that PEFT takes out of the base weight, under PEFT's names: see training.residual_lora
RESIDUAL = {"pissa": "pissa_niter_16", "pissa-exact": "pissa", "olora": "olora"}
STARTS = RESIDUAL | {"orthogonal": "orthogonal"}


class LoRAParams(BlockParams):
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
    layers: Literal["all-linear", "attention", "mlp", "by name"] = parameter(
        "all-linear",
        "Layers",
        "Which layers get an adapter: all linear ones, those of attention, of the MLP, or those named below.",
    )
    modules: str = parameter(
        "",
        "Layer names",
        "For “by name”: names of linear layers with commas between them, for instance q_proj, v_proj.",
        advanced=True,
    )
    init: Literal["default", "gaussian", "orthogonal", "pissa", "pissa-exact", "olora", "eva"] = parameter(
        "default",
        "Start",
        "Where the two matrices start. default, gaussian, orthogonal: no change at first. pissa, olora: the weight's "
        "own main directions. eva: the main directions of the layer's inputs on the training examples.",
        advanced=True,
    )
    rslora: bool = parameter(
        False,
        "rsLoRA",
        "Count the update alpha / √rank times, so that high ranks learn as well.",
        advanced=True,
    )
    dora: bool = parameter(
        False,
        "DoRA",
        "Train each weight column's length apart from its direction. Slower, sometimes better at low ranks.",
        advanced=True,
    )
    lora_plus: float = parameter(
        1.0,
        "LoRA+ ratio",
        "The second matrix learns so many times faster than the first; 1 = off, the paper takes 16.",
        minimum=1,
        maximum=64,
        advanced=True,
    )
    learning_rate: float = parameter(
        1.5e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
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

    def check(self, params: LoRAParams, task: Task) -> None:
        """Refuse options that exclude each other, too.

        Raises:
            InvalidParams: says which, and what would do.
        """
        super().check(params, task)
        if params.dora and params.init in RESIDUAL:
            raise InvalidParams(
                f"DoRA cannot be kept as an adapter of the original model when it starts from {params.init}. "
                "Choose another start, or switch DoRA off.",
                "init",
            )
        if params.init == "orthogonal" and params.rank % 2:
            raise InvalidParams(
                f"The orthogonal start needs an even rank, not {params.rank}. Choose {params.rank + 1}.",
                "rank",
            )
        if params.layers == "by name" and not _names(params):
            raise InvalidParams(
                "Write the names of the layers to adapt, for instance q_proj, v_proj.", "modules"
            )

    def config(self, params: LoRAParams, network: "nn.Module") -> "LoraConfig":
        """See ``PeftTuner.config``."""
        from peft import LoraConfig

        blocks = _blocks(params, network)
        targets = _targets(params, network, by_name=blocks is not None)
        return LoraConfig(
            r=params.rank,
            lora_alpha=params.alpha,
            lora_dropout=params.dropout,
            target_modules=targets,
            layers_to_transform=blocks,
            use_rslora=params.rslora,
            use_dora=params.dora,
            # the other starts are set afterwards, and are no business of whoever loads the adapter
            init_lora_weights="gaussian" if params.init == "gaussian" else True,
            bias="none",
            task_type="CAUSAL_LM",
        )

    def wrap(self, params: LoRAParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """See ``Parametric.wrap``."""
        wrapped = super().wrap(params, network, seed)
        if params.init in STARTS:
            from playground.training.residual_lora import start

            try:
                start(wrapped, STARTS[params.init])
            except ValueError as error:
                raise InvalidParams(f"The start {params.init} does not fit: {error}", "init") from error
        return wrapped

    def prepare(self, params: LoRAParams, network: "nn.Module", context: Context) -> None:
        """EVA's start needs the training examples."""
        if params.init == "eva":
            from playground.training.batches import encode
            from playground.training.eva import start

            examples = encode(context.model, context.task, context.task.train)
            start(network, [one for one in examples if len(one.ids) <= params.max_length], params.rank)

    def frame(self, params: LoRAParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """What was learnt from the weight's own directions is kept as twice the rank: see ``write``."""
        kept = {"init": "default"}
        if params.init in RESIDUAL:
            rank, scaling = 2 * params.rank, _scaling(params)
            kept |= {"rank": rank, "alpha": scaling * rank, "rslora": False}
        return self.wrap(params.model_copy(update=kept), network, seed)

    def write(self, network: "nn.Module", folder: Path) -> None:
        """PEFT's own format, always an ordinary LoRA of the original base model."""
        from playground.training import residual_lora

        if not residual_lora.started(network):
            super().write(network, folder)
            return
        from safetensors.torch import save_file

        config, tensors = residual_lora.kept(network)
        config.save_pretrained(folder)
        save_file(tensors, folder / WEIGHTS)

    def groups(
        self, params: LoRAParams, network: "nn.Module"
    ) -> "list[tuple[list[nn.Parameter], float]] | None":
        """LoRA+: B learns ``lora_plus`` times faster than everything else."""
        if params.lora_plus == 1:
            return None
        from playground.training.checkpoints import trainable

        found = trainable(network)
        fast = [value for name, value in found.items() if ".lora_B." in name]
        rest = [value for name, value in found.items() if ".lora_B." not in name]
        return [(rest, 1.0), (fast, params.lora_plus)]

    def faster(self, network: "nn.Module", on: bool) -> None:
        """See ``training.fused_lora``: the same numbers with less memory traffic."""
        from playground.training.fused_lora import fuse, unfuse

        if on:
            fuse(network)
        else:
            unfuse(network)


def _scaling(params: LoRAParams) -> float:
    return params.alpha / (math.sqrt(params.rank) if params.rslora else params.rank)


def _names(params: LoRAParams) -> list[str]:
    return sorted({name.strip() for name in params.modules.split(",")} - {""})


def _targets(params: LoRAParams, network: "nn.Module", by_name: bool) -> str | list[str]:
    """What PEFT's ``target_modules`` takes; names instead of "all-linear" where ``by_name`` asks for it."""
    if params.layers == "by name":
        present = linear_names(network)
        unknown = [name for name in _names(params) if name not in present]
        if unknown or not _names(params):
            raise InvalidParams(
                f"This model has no linear layer called {', '.join(unknown) or '(nothing)'}. "
                f"It has: {', '.join(present)}.",
                "modules",
            )
        return _names(params)
    if params.layers == "all-linear" and by_name:
        return linear_names(network)
    return target_layers(network, params.layers)


def _blocks(params: LoRAParams, network: "nn.Module") -> list[int] | None:
    """The numbers of the blocks to adapt; None = all."""
    from playground.training.structure import upper

    if not params.top_layers:
        return None
    return [int(block.name.rsplit(".", 1)[1]) for block in upper(network, params.top_layers)]
