"""Stable Diffusion 3 and 3.5: a transformer trained by flow matching, with two CLIP encoders and a T5."""

import math
from collections.abc import Sequence

from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from torch import Tensor, nn

from playground.models.families.base import Conditioning, Family


class StableDiffusion3(Family):
    """Esser et al. 2024, arXiv:2403.03206. The T5 encoder is never trained."""

    id = "sd3"
    title = "Stable Diffusion 3"
    pipeline_class = StableDiffusion3Pipeline
    denoiser_name = "transformer"
    text_encoder_names = ("text_encoder", "text_encoder_2")
    objective = "flow"
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )
    wide_lora_targets = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
    steps, guidance = 28, 4.5

    def multiple(self, pipeline: DiffusionPipeline) -> int:
        return pipeline.vae_scale_factor * pipeline.transformer.config.patch_size

    def encode_prompts(self, pipeline: DiffusionPipeline, prompts: Sequence[str]) -> Conditioning:
        texts = list(prompts)
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            texts,
            texts,
            texts,
            device=pipeline.transformer.device,
            do_classifier_free_guidance=False,
        )
        return {"prompt_embeds": embeddings, "pooled": pooled}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        times: Tensor,
        conditioning: Conditioning,
        pipeline: DiffusionPipeline,
    ) -> Tensor:
        return denoiser(
            hidden_states=noisy,
            timestep=times * pipeline.scheduler.config.num_train_timesteps,
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]

    def shift(self, pipeline: DiffusionPipeline, height: int, width: int) -> float:
        if not pipeline.scheduler.config.use_dynamic_shifting:
            return pipeline.scheduler.config.shift
        patch = pipeline.transformer.config.patch_size
        return dynamic_shift(pipeline.scheduler.config, (height // patch) * (width // patch))


def dynamic_shift(config, tokens: int) -> float:
    """The shift that the pipelines take for that many picture tokens, by the scheduler's ``config``."""
    share = (tokens - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
    exponent = config.base_shift + share * (config.max_shift - config.base_shift)
    return math.exp(exponent)
