"""QLoRA: LoRA on a base model whose weights are packed into 4 or 8 bits (bitsandbytes, PEFT)."""

from collections.abc import Generator
from typing import TYPE_CHECKING, ClassVar, Literal

from playground.errors import InvalidParams
from playground.events import Event
from playground.methods.base import Adapted, Context, parameter
from playground.methods.lora import LoRA, LoRAParams

if TYPE_CHECKING:
    from torch import nn


class QLoRAParams(LoRAParams):
    """What QLoRA lets one choose: as LoRA, and how the base is packed."""

    quantization: Literal["nf4", "nf4-single", "int8"] = parameter(
        "nf4",
        "Base model in",
        "nf4: 4 bits, the scales packed too. nf4-single: 4 bits, plain scales. int8: 8 bits.",
    )
    init: Literal["default", "gaussian", "orthogonal", "pissa", "pissa-exact", "olora", "eva", "loftq"] = (
        parameter(
            "default",
            "Start",
            "Where the two matrices start. default, gaussian, orthogonal: no change at first. pissa, olora: the "
            "weight's own main directions. eva: those of the layer's inputs on the training examples. loftq: "
            "what the packing lost.",
            advanced=True,
        )
    )


class QLoRA(LoRA):
    """W = dequantised(W0 in 4 bits) + (alpha / rank) · B · A, with A, B trained. Dettmers et al. 2023."""

    id: ClassVar[str] = "qlora"
    title: ClassVar[str] = "QLoRA"
    summary: ClassVar[str] = (
        "LoRA on a base model packed into 4 bits: fits models on a GPU that would not fit otherwise."
    )
    use_case: ClassVar[str] = "Adapting a model that is too large for the memory at hand"
    best_for: ClassVar[str] = "Large models on one GPU"
    paper: ClassVar[str] = "Dettmers et al. 2023, arXiv:2305.14314"
    Params = QLoRAParams

    def quantization(self, params: QLoRAParams) -> str:
        """See ``Method.quantization``."""
        return params.quantization

    def wrap(self, params: QLoRAParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """See ``Parametric.wrap``."""
        wrapped = super().wrap(params, network, seed)
        if params.init == "loftq":
            from playground.training.loftq import start

            try:
                start(wrapped)
            except ValueError as error:
                raise InvalidParams(f"The start loftq does not fit: {error}", "init") from error
        return wrapped

    def adapt(self, params: QLoRAParams, context: Context) -> Generator[Event, None, Adapted]:
        """See ``Parametric.adapt``; tells with which weights the answers are computed."""
        from playground.models.quantise import any_quantised

        adapted = yield from super().adapt(params, context)
        if any_quantised(adapted.model.model):
            yield Event.log("Answers are computed with the packed base and the adapter beside it.")
        else:
            yield Event.log(
                "Answers are computed with the packed base's own weights, unpacked once with the adapter added: "
                "the same numbers, faster on a CPU. The adapter that was saved belongs to the packed base."
            )
        return adapted

    def merge(self, network: "nn.Module") -> "nn.Module":
        """On a CPU with room for it: plain layers with the dequantised weights and the update added.

        Adding the update to packed weights would round it away. On a GPU the base stays packed: it may
        fit in no other way.
        """
        from playground.training.quantised_lora import merged, room

        return merged(network) if room(network) else network
