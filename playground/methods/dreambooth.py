"""DreamBooth: all layers of the denoiser learn a subject; pictures of its class keep the class as it was."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from playground.data.subjects import Picture, Subject, with_article
from playground.events import Event
from playground.methods.base import parameter
from playground.methods.diffusion import CLASS_PICTURES, Diffusion, DiffusionParams, ImageContext

if TYPE_CHECKING:
    from playground.models.image import ImageModel
    from playground.training.diffusion import Concept

CLASS_BATCH_HELP = (
    "Fewer are faster, and their mean counts λ times all the same; 0 = as many as of the subject."
)
AT_ONCE = 4  # class pictures drawn together


class DreamBoothParams(DiffusionParams):
    """What DreamBooth lets one choose."""

    learning_rate: float = parameter(
        5e-5,
        "Learning rate",
        "All weights move, so it is far lower than for LoRA.",
        minimum=1e-7,
        maximum=0.1,
    )
    prior_preservation: bool = parameter(
        True,
        "Prior preservation",
        "Also train on the model's own pictures of the class, so that it does not forget what others look like.",
    )
    prior_weight: float = parameter(
        1.0, "Prior weight λ", "The weight of the class's loss beside the subject's.", minimum=0, maximum=10
    )
    class_batch: int = parameter(
        0, "Class pictures a step", CLASS_BATCH_HELP, minimum=0, maximum=64, advanced=True
    )
    class_pictures: int = parameter(
        24,
        "Class pictures",
        "How many the model draws of the class before the training.",
        minimum=1,
        maximum=1000,
    )
    train_text_encoder: bool = parameter(
        False, "Train the text encoder", "Learns finer, takes more memory, forgets more.", advanced=True
    )


class DreamBooth(Diffusion):
    """Full fine-tuning on 3 to 5 pictures with a rare token, and the class-specific prior-preservation loss:

    L = ‖x̂(subject) − x‖² + λ ‖x̂(class) − x_pr‖², where x_pr are pictures of the frozen model.
    """

    id: ClassVar[str] = "dreambooth"
    title: ClassVar[str] = "DreamBooth"
    changes_weights: ClassVar[str] = "Yes, all of the denoiser"
    summary: ClassVar[str] = (
        "Binds a rare word to one subject from three to five pictures, and keeps the class by its own pictures."
    )
    training_cost: ClassVar[str] = "High"
    storage_cost: ClassVar[str] = "High"
    use_case: ClassVar[str] = "One person, pet or thing in new scenes"
    best_for: ClassVar[str] = "The closest likeness, where a whole model may be stored"
    paper: ClassVar[str] = "Ruiz et al. 2022, arXiv:2208.12242"
    Params = DreamBoothParams

    def prior_weight(self, params: DreamBoothParams) -> float:
        """See ``Diffusion.prior_weight``."""
        return params.prior_weight if params.prior_preservation else 0.0

    def class_batch(self, params: DreamBoothParams) -> int:
        """See ``Diffusion.class_batch``."""
        return params.class_batch

    def prior(self, params: DreamBoothParams, context: ImageContext) -> Generator[Event, None, Any]:
        """Pictures of the class, drawn by the model before it is changed; kept for a resume."""
        return (yield from draw_class(context, params.class_pictures)) if self.prior_weight(params) else None

    def wrap(self, params: DreamBoothParams, model: "ImageModel", seed: int = 0) -> None:
        """See ``Diffusion.wrap``: the denoiser in float32, and the text encoders where they are trained."""
        from playground.training.whole_image import require

        require(model, text_encoders=params.train_text_encoder)

    def write(self, params: DreamBoothParams, model: "ImageModel", folder: Path) -> None:
        """The trained networks, each in a folder that diffusers or transformers loads by itself."""
        from playground.training.diffusion_files import write_networks
        from playground.training.whole_image import networks

        write_networks(networks(model, params.train_text_encoder), folder)

    def read(self, params: DreamBoothParams, model: "ImageModel", folder: Path) -> None:
        """See ``Diffusion.read``. The base weights are kept beside the trained ones, for ``switch``."""
        from playground.training.whole_image import read, require

        read(model, folder, text_encoders=params.train_text_encoder)
        require(model, text_encoders=params.train_text_encoder)  # so that what was trained is counted

    def switch(self, model: "ImageModel", on: bool) -> None:
        """See ``ImageMethod.switch``."""
        from playground.training.whole_image import switch

        switch(model, on)


def class_prompts(subject: Subject, count: int) -> list[str]:
    """``count`` prompts of the class alone: the training pictures' captions without the rare word, in turn.

    The paper asks for "a [class]" only. With other words than the captions', those (a background, say) would tell
    subject and class apart, and the rare word would go unheard: with the contexts of the samples among them
    DreamBooth-LoRA's likeness to the bundled backpack was 0.02 instead of 0.48.
    """
    captions = list(dict.fromkeys(_class_caption(subject, picture) for picture in subject.train))
    return [captions[at % len(captions)] for at in range(count)]


def _class_caption(subject: Subject, picture: Picture) -> str:
    """The picture's caption for the class; the class word where there is no rare word to leave out."""
    caption = subject.instance_prompt(picture, subject=False)
    return caption if caption != subject.instance_prompt(picture) else with_article(subject.class_word)


def draw_class(context: ImageContext, count: int) -> Generator[Event, None, "Concept"]:
    """``count`` pictures of the class by the model as it is, and their texts; those already saved are read."""
    from playground.training.diffusion import Concept
    from playground.training.pictures import save, tensors

    prompts = class_prompts(context.subject, count)
    paths = [context.folder / CLASS_PICTURES / f"{at}.png" for at in range(count)]
    missing = [at for at in range(count) if not paths[at].is_file()]
    for start in range(0, len(missing), AT_ONCE):
        yield Event.progress(
            "class", count - len(missing) + start, count, unit="picture", note="Drawing the class"
        )
        part = missing[start : start + AT_ONCE]
        # seeds of their own, apart from those of the samples
        drawn = context.model.generate([prompts[at] for at in part], [10_000 + at for at in part])
        for at, picture in zip(part, drawn, strict=True):
            save(picture, paths[at])
    yield Event.progress("class", count, count, unit="picture", note="Drawing the class")
    return Concept(tensors(paths, context.model.size), prompts)
