"""Kinds of text-to-image pipelines: one file each says how it encodes, normalises, packs and is called."""

from diffusers import DiffusionPipeline

from playground.errors import ModelUnavailable
from playground.models.families.base import Family, Moments
from playground.models.families.flux import Flux
from playground.models.families.sd3 import StableDiffusion3
from playground.models.families.sdxl import StableDiffusionXL
from playground.models.families.stable_diffusion import StableDiffusion

__all__ = ["FAMILIES", "Family", "Moments", "family_of", "named"]

FAMILIES: tuple[Family, ...] = (StableDiffusion(), StableDiffusionXL(), StableDiffusion3(), Flux())


def family_of(pipeline: DiffusionPipeline) -> Family:
    """The family of a loaded pipeline.

    Raises:
        ModelUnavailable: it is of none; names those that there are.
    """
    return named(type(pipeline).__name__)


def named(pipeline_class: str) -> Family:
    """The family whose pipelines have that class name, as ``model_index.json`` gives it.

    Raises:
        ModelUnavailable: there is none; names those that there are.
    """
    for family in FAMILIES:
        if family.pipeline_class.__name__ == pipeline_class:
            return family
    known = "; ".join(f"{family.title} ({family.pipeline_class.__name__})" for family in FAMILIES)
    raise ModelUnavailable(f"A {pipeline_class[:100]} cannot be adapted here. These can: {known}.")
