"""The image model as it is: what every other image method is held against."""

from collections.abc import Generator

from playground.events import Event
from playground.methods.base import Params
from playground.methods.diffusion import AdaptedImage, ImageContext, ImageMethod


class ImageBase(ImageMethod):
    """Asks the base model for the subject by its class word: it cannot know the rare token."""

    id = "image_base"
    title = "Base image model"
    family = "non-parametric"
    changes_weights = "No"
    summary = (
        "The image model as it is, asked with words alone: what every other image method is held against."
    )
    training_cost = "None"
    storage_cost = "None"
    use_case = "Pictures of what the model already knows"
    best_for = "A first try, and the baseline of every comparison"
    paper = "Rombach et al. 2022, arXiv:2112.10752"

    def adapt(self, params: Params, context: ImageContext) -> Generator[Event, None, AdaptedImage]:
        """Change nothing."""
        yield Event.progress("adapt", 1, 1)
        return self.restore(params, context)

    def restore(self, params: Params, context: ImageContext) -> AdaptedImage:
        """Nothing was stored."""
        return AdaptedImage(context.model, stored_bytes=0)
