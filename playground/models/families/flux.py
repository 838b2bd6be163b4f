"""FLUX.1: a flow-matching transformer over packed latents, with a CLIP and a T5 encoder."""

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from torch import Tensor, nn

from playground.models.families.base import Conditioning, Family
from playground.models.families.sd3 import dynamic_shift

TRAINED_GUIDANCE = 1.0  # what a guidance-distilled denoiser is told: that its output is not to be sharpened


class Flux(Family):
    """FLUX.1 [dev] and [schnell], Black Forest Labs 2024. The T5 encoder is never trained."""

    id = "flux"
    title = "FLUX.1"
    pipeline_class = FluxPipeline
    denoiser_name = "transformer"
    objective = "flow"
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )
    wide_lora_targets = (
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        "proj_mlp",
    )
    steps, guidance = 28, 3.5

    def multiple(self, pipeline: DiffusionPipeline) -> int:
        return 2 * pipeline.vae_scale_factor

    def encode_prompts(self, pipeline: DiffusionPipeline, prompts: Sequence[str]) -> Conditioning:
        embeddings, pooled, _ = pipeline.encode_prompt(
            list(prompts),
            None,
            device=pipeline.transformer.device,
            max_sequence_length=_text_tokens(pipeline),
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
        embeddings = conditioning["prompt_embeds"]
        height, width = noisy.shape[-2:]
        distilled = pipeline.transformer.config.guidance_embeds
        output = denoiser(
            hidden_states=pack(noisy),
            timestep=times,
            guidance=times.new_full((len(noisy),), TRAINED_GUIDANCE) if distilled else None,
            pooled_projections=conditioning["pooled"],
            encoder_hidden_states=embeddings,
            txt_ids=embeddings.new_zeros(embeddings.shape[1], 3),
            img_ids=_positions(height // 2, width // 2).to(embeddings),
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def shift(self, pipeline: DiffusionPipeline, height: int, width: int) -> float:
        if not pipeline.scheduler.config.use_dynamic_shifting:
            return pipeline.scheduler.config.shift
        return dynamic_shift(pipeline.scheduler.config, (height // 2) * (width // 2))

    def draw(self, pipeline, prompts, generators, *, steps, guidance, size) -> Tensor:
        packed = pipeline(
            prompt=list(prompts),
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=list(generators),
            max_sequence_length=_text_tokens(pipeline),
            output_type="latent",
        ).images
        edge = 2 * (size // (2 * pipeline.vae_scale_factor))
        return unpack(packed, edge, edge)


def pack(latents: Tensor) -> Tensor:
    """Latents (n, c, h, w) as tokens (n, h/2 · w/2, 4 c), a token for 2×2 places."""
    n, c, h, w = latents.shape
    blocks = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(n, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """What ``pack`` made of latents with that height and width, as it was."""
    n, _, channels = tokens.shape
    blocks = tokens.view(n, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(n, channels // 4, height, width)


def _positions(rows: int, columns: int) -> Tensor:
    """(0, row, column) of every token, in the order of ``pack``."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).view(-1, 3)


def _text_tokens(pipeline: DiffusionPipeline) -> int:
    """The length of texts for T5: [schnell], which has no guidance, takes 256 tokens at most, [dev] 512."""
    return 512 if pipeline.transformer.config.guidance_embeds else 256
