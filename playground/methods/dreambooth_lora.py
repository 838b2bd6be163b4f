"""DreamBooth-LoRA: low-rank matrices learn the subject; the network with its adapter off keeps the class.

Where class pictures are asked for, they keep it, as in DreamBooth.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from playground.events import Event
from playground.methods.base import parameter
from playground.methods.diffusion import ADAPTER, AdaptedImage, Diffusion, DiffusionParams, ImageContext
from playground.methods.dreambooth import CLASS_BATCH_HELP, class_prompts, draw_class

if TYPE_CHECKING:
    from playground.models.image import ImageModel

KOHYA = ("stable-diffusion", "sdxl")  # families that kohya's form can hold
PROMPTS = 24  # prompts of the class that the prior goes through


class ImageLoRAParams(DiffusionParams):
    """What LoRA on an image model lets one choose."""

    learning_rate: float = parameter(
        1e-3, "Learning rate", "The highest one. Few weights move, so it is high.", minimum=1e-7, maximum=0.1
    )
    rank: int = parameter(16, "Rank", "Of the two matrices beside each layer.", minimum=1, maximum=256)
    alpha: float = parameter(
        16.0, "Alpha", "The update is scaled by alpha / rank.", minimum=0.01, maximum=1024, advanced=True
    )
    layers: Literal["attention", "all"] = parameter(
        "attention",
        "Layers",
        "Attention alone, or feed-forward layers and convolutions, too: finer likeness, larger file.",
        advanced=True,
    )
    train_text_encoder: bool = parameter(
        False, "Train the text encoder", "Low-rank matrices beside its layers, too.", advanced=True
    )


class ImageLoRA(Diffusion):
    """W = W0 + (alpha / rank) · B·A on the attention layers of the denoiser, or on its other layers as well."""

    Params = ImageLoRAParams

    def adapt(self, params: ImageLoRAParams, context: ImageContext) -> Generator[Event, None, AdaptedImage]:
        """See ``Diffusion.adapt``; the result is also written in kohya's form, for programs that read no other."""
        adapted = yield from super().adapt(params, context)
        yield from _for_kohya(context)
        return adapted

    def wrap(self, params: ImageLoRAParams, model: "ImageModel", seed: int = 0) -> None:
        """See ``Diffusion.wrap``."""
        from playground.training.image_lora import add

        wide = params.layers == "all"
        add(model, params.rank, params.alpha, wide=wide, text_encoders=params.train_text_encoder, seed=seed)

    def write(self, params: ImageLoRAParams, model: "ImageModel", folder: Path) -> None:
        """``pytorch_lora_weights.safetensors``, which ``pipeline.load_lora_weights`` of diffusers takes."""
        from playground.training.diffusion_files import write_lora
        from playground.training.image_lora import adapted

        write_lora(adapted(model), folder)

    def read(self, params: ImageLoRAParams, model: "ImageModel", folder: Path) -> None:
        """See ``Diffusion.read``."""
        from playground.training.diffusion_files import read_lora
        from playground.training.image_lora import adapted

        self.wrap(params, model)
        read_lora(adapted(model), folder)

    def switch(self, model: "ImageModel", on: bool) -> None:
        """See ``ImageMethod.switch``."""
        from playground.training.image_lora import switch

        switch(model, on)


def _for_kohya(context: ImageContext) -> Iterator[Event]:
    from playground.training import kohya

    if context.model.family.id not in KOHYA:  # its names know U-Nets only
        return
    layers = context.model.denoiser.config.layers_per_block if context.model.family.id == "sdxl" else None
    path = context.folder / f"{context.subject.id}-kohya.safetensors"
    kohya.export(context.folder / ADAPTER, path, layers)
    yield Event.artifact("kohya", path.name, path.stat().st_size)


class DreamBoothLoRAParams(ImageLoRAParams):
    """What DreamBooth-LoRA lets one choose."""

    prior_preservation: bool = parameter(
        True,
        "Prior preservation",
        "Keep the class as the network draws it with its adapter off.",
    )
    prior_weight: float = parameter(
        1.0, "Prior weight λ", "The weight of the class's loss beside the subject's.", minimum=0, maximum=10
    )
    class_batch: int = parameter(
        0, "Class pictures a step", CLASS_BATCH_HELP, minimum=0, maximum=64, advanced=True
    )
    class_pictures: int = parameter(
        0,
        "Class pictures",
        "How many the model draws of the class before the training; 0 = none, the network is asked about noised "
        "pictures of the subject, which is quicker and holds the class less well.",
        minimum=0,
        maximum=1000,
    )


class DreamBoothLoRA(ImageLoRA):
    """DreamBooth's two losses on low-rank matrices; the prior's target is the network with its adapter off."""

    id: ClassVar[str] = "dreambooth_lora"
    title: ClassVar[str] = "DreamBooth-LoRA"
    changes_weights: ClassVar[str] = "Adds low-rank matrices"
    summary: ClassVar[str] = (
        "Binds a rare word to one subject with low-rank matrices: a small file instead of a whole model."
    )
    training_cost: ClassVar[str] = "Medium"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Many subjects for one model"
    best_for: ClassVar[str] = "A likeness that is quick to train and easy to share"
    paper: ClassVar[str] = "Ruiz et al. 2022, arXiv:2208.12242; Hu et al. 2021, arXiv:2106.09685"
    Params = DreamBoothLoRAParams

    def prior_weight(self, params: DreamBoothLoRAParams) -> float:
        """See ``Diffusion.prior_weight``."""
        return params.prior_weight if params.prior_preservation else 0.0

    def class_batch(self, params: DreamBoothLoRAParams) -> int:
        """See ``Diffusion.class_batch``."""
        return params.class_batch

    def prior(self, params: DreamBoothLoRAParams, context: ImageContext) -> Generator[Event, None, Any]:
        """The network itself, with its adapter off: pictures that it draws, or its answers."""
        if not self.prior_weight(params):
            return None
        if params.class_pictures:
            return (yield from draw_class(context, params.class_pictures))
        from playground.training.diffusion import PriorFromNetwork

        yield Event.log("The class is kept by the network with its adapter off; no class pictures are drawn.")
        return PriorFromNetwork(class_prompts(context.subject, PROMPTS))
