"""Stable Diffusion 1.x and 2.x, and the starter model: a U-Net with one CLIP text encoder."""

from collections.abc import Sequence

from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor, nn

from playground.models.families.base import Conditioning, Family


class StableDiffusion(Family):
    """Rombach et al. 2022, arXiv:2112.10752."""

    id = "stable-diffusion"
    title = "Stable Diffusion 1 and 2"
    pipeline_class = StableDiffusionPipeline
    steps, guidance = 30, 7.5

    def size(self, pipeline: DiffusionPipeline) -> int:
        return pipeline.unet.config.sample_size * pipeline.vae_scale_factor

    def encode_prompts(self, pipeline: DiffusionPipeline, prompts: Sequence[str]) -> Conditioning:
        embeddings, _ = pipeline.encode_prompt(list(prompts), pipeline.unet.device, 1, False)
        return {"prompt_embeds": embeddings}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        times: Tensor,
        conditioning: Conditioning,
        pipeline: DiffusionPipeline,
    ) -> Tensor:
        return denoiser(noisy, times, encoder_hidden_states=conditioning["prompt_embeds"], return_dict=False)[
            0
        ]
