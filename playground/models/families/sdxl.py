"""Stable Diffusion XL: a U-Net with two CLIP text encoders, told the pictures' size."""

from collections.abc import Sequence

from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from playground.models.families.base import Conditioning, Family


class StableDiffusionXL(Family):
    """Podell et al. 2023, arXiv:2307.01952.

    Training pictures count as whole ones of their size: their original size is said to be that, their crop to
    begin in the corner.
    """

    id = "sdxl"
    title = "Stable Diffusion XL"
    pipeline_class = StableDiffusionXLPipeline
    text_encoder_names = ("text_encoder", "text_encoder_2")
    steps, guidance = 30, 5.0

    def encode_prompts(self, pipeline: DiffusionPipeline, prompts: Sequence[str]) -> Conditioning:
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            list(prompts),
            device=pipeline.unet.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        if (
            pipeline.config.force_zeros_for_empty_prompt
        ):  # as the pipeline does where guidance needs "no text"
            written = embeddings.new_tensor([bool(prompt) for prompt in prompts])
            embeddings, pooled = embeddings * written[:, None, None], pooled * written[:, None]
        return {"prompt_embeds": embeddings, "pooled": pooled}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        times: Tensor,
        conditioning: Conditioning,
        pipeline: DiffusionPipeline,
    ) -> Tensor:
        pooled = conditioning["pooled"]
        height, width = (edge * pipeline.vae_scale_factor for edge in noisy.shape[-2:])
        sizes = pooled.new_tensor([height, width, 0, 0, height, width]).expand(len(noisy), -1)
        return denoiser(
            noisy,
            times,
            encoder_hidden_states=conditioning["prompt_embeds"],
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
