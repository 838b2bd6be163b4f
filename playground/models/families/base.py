"""What training and drawing have to know of a kind of text-to-image pipeline."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

Conditioning = dict[str, Tensor]  # what the denoiser is told of the text; the first dimension is the batch


@dataclass(frozen=True)
class Moments:
    """The VAE's posterior of n pictures: ``mean`` and ``std``, float32, (n, channels, height, width)."""

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: Any) -> "Moments":
        return Moments(self.mean[index], self.std[index])

    @staticmethod
    def cat(parts: Sequence["Moments"]) -> "Moments":
        """All parts' pictures in one."""
        return Moments(torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts]))


class Family(ABC):
    """One kind of pipeline. It keeps no state: the pipeline is handed to every call.

    ``denoiser_name`` and ``text_encoder_names`` are components of the pipeline; the encoders named are those
    that can be trained along. ``lora_targets`` and ``text_lora_targets`` are the ends of the names of the layers
    that LoRA usually adapts, ``wide_lora_targets`` those that it can adapt besides. ``objective`` is what the denoiser learnt: "diffusion" (DDPM; epsilon or v) or
    "flow" (rectified flow). ``steps`` and ``guidance`` are what its pictures are usually drawn with.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    denoiser_name: ClassVar[str] = "unet"
    text_encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)
    objective: ClassVar[Literal["diffusion", "flow"]] = "diffusion"
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    wide_lora_targets: ClassVar[tuple[str, ...]] = (
        *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut", "conv"),
        "time_emb_proj",
    )
    text_lora_targets: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj", "out_proj")
    steps: ClassVar[int]
    guidance: ClassVar[float]

    # ---- components

    def denoiser(self, pipeline: DiffusionPipeline) -> nn.Module:
        """The network that training changes."""
        return getattr(pipeline, self.denoiser_name)

    def text_encoders(self, pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
        """The text encoders that can be trained along, by component name; those that the pipeline has."""
        found = {name: getattr(pipeline, name, None) for name in self.text_encoder_names}
        return {name: network for name, network in found.items() if network is not None}

    def size(self, pipeline: DiffusionPipeline) -> int:
        """The edge of the pipeline's own pictures, in pixels."""
        return pipeline.default_sample_size * pipeline.vae_scale_factor

    def multiple(self, pipeline: DiffusionPipeline) -> int:
        """Height and width of pictures have to be multiples of it, in pixels."""
        return pipeline.vae_scale_factor

    # ---- pictures and latents

    @torch.no_grad()
    def moments(self, pipeline: DiffusionPipeline, pictures: Tensor, batch: int = 4) -> Iterator[Moments]:
        """The posterior of pictures (n, 3, h, w), -1…1, in batches, on the VAE's device."""
        vae = pipeline.vae
        for part in pictures.split(batch):
            posterior = vae.encode(part.to(vae.device, vae.dtype)).latent_dist
            yield Moments(posterior.mean.float(), posterior.std.float())

    def encode_pictures(self, pipeline: DiffusionPipeline, pictures: Tensor, batch: int = 4) -> Moments:
        """The posterior of pictures (n, 3, h, w), -1…1, on the VAE's device."""
        return Moments.cat(list(self.moments(pipeline, pictures, batch)))

    def latents(
        self, pipeline: DiffusionPipeline, moments: Moments, generator: torch.Generator | None
    ) -> Tensor:
        """Latents drawn from the posterior as the denoiser knows them: shifted and scaled, float32."""
        noise = torch.randn(moments.mean.shape, generator=generator, device=moments.mean.device)
        shift, scale = self._normalisation(pipeline)
        return (moments.mean + moments.std * noise - shift) * scale

    @torch.no_grad()
    def decode(self, pipeline: DiffusionPipeline, latents: Tensor) -> Tensor:
        """Pictures (n, 3, h, w), about -1…1, float32, of latents (n, channels, h, w)."""
        shift, scale = self._normalisation(pipeline)
        plain = latents / scale + shift
        return pipeline.vae.decode(plain.to(pipeline.vae.dtype), return_dict=False)[0].float()

    def _normalisation(self, pipeline: DiffusionPipeline) -> tuple[float, float]:
        config = pipeline.vae.config
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor

    # ---- text and denoiser

    @abstractmethod
    def encode_prompts(self, pipeline: DiffusionPipeline, prompts: Sequence[str]) -> Conditioning:
        """What the denoiser is told of each prompt. Differentiable where the text encoders train."""

    @abstractmethod
    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        times: Tensor,
        conditioning: Conditioning,
        pipeline: DiffusionPipeline,
    ) -> Tensor:
        """The denoiser's output (n, channels, h, w) for noisy latents of that shape.

        ``times`` (n,) are timesteps of the scheduler, or for "flow" the share of noise, 0…1.
        """

    def shift(self, pipeline: DiffusionPipeline, height: int, width: int) -> float:
        """For "flow": how far the sampling schedule is shifted towards noise for latents of that size."""
        return pipeline.scheduler.config.shift

    # ---- drawing

    def draw(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        *,
        steps: int,
        guidance: float,
        size: int,
    ) -> Tensor:
        """Latents (n, channels, h, w) drawn by the pipeline itself, one generator a picture."""
        return pipeline(
            prompt=list(prompts),
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=list(generators),
            output_type="latent",
        ).images
