"""Style LoRA: low-rank matrices learn how pictures look, whatever they show."""

from typing import ClassVar

from playground.methods.base import parameter
from playground.methods.dreambooth_lora import ImageLoRA, ImageLoRAParams


class StyleLoRAParams(ImageLoRAParams):
    """What Style LoRA lets one choose."""

    steps: int = parameter(400, "Steps", "Steps of the optimiser.", minimum=1, maximum=20_000)


class StyleLoRA(ImageLoRA):
    """Each picture is trained with a caption of what it shows and the style's rare word, which takes up the rest."""

    id: ClassVar[str] = "style_lora"
    title: ClassVar[str] = "Style LoRA"
    changes_weights: ClassVar[str] = "Adds low-rank matrices"
    summary: ClassVar[str] = (
        "Learns a way of drawing from ten to forty captioned pictures, and draws other things in it."
    )
    training_cost: ClassVar[str] = "Medium"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "A house style for any motif"
    best_for: ClassVar[str] = "Illustrations that look as if from one hand"
    paper: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"
    learns: ClassVar[str] = "style"
    Params = StyleLoRAParams
