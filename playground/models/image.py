"""Text-to-image models: load one, and draw pictures with it, each from its own seed."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils import logging as transformers_logging

from playground.errors import InvalidInput, ModelUnavailable, OutOfMemory
from playground.models import device as devices
from playground.models import sources
from playground.models.catalogue import Model
from playground.models.families import Family, family_of, named
from playground.settings import Settings


@dataclass
class ImageModel:
    """A loaded pipeline, frozen and in evaluation mode: a technique switches on what it trains.

    ``size`` is the edge of the pictures it draws, ``steps`` and ``guidance`` what it draws with when nothing
    else is asked for. ``weight_bytes`` counts all components.
    """

    entry: Model
    pipeline: DiffusionPipeline
    family: Family
    device: torch.device
    dtype: torch.dtype
    load_seconds: float
    weight_bytes: int
    revision: str
    size: int
    steps: int
    guidance: float

    @property
    def denoiser(self) -> nn.Module:
        """The network that turns noise into latents: the U-Net or the transformer."""
        return self.family.denoiser(self.pipeline)

    @denoiser.setter
    def denoiser(self, network: nn.Module) -> None:
        self.pipeline.register_modules(**{self.family.denoiser_name: network})

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The text encoders that can be trained along, by component name."""
        return self.family.text_encoders(self.pipeline)

    @property
    def mixed(self) -> bool:
        """Whether to compute in bfloat16 where that is safe: the device is fast at it, or weights are in it."""
        return self.dtype != torch.float32 or half(self.device)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        batch: int = 4,
    ) -> Tensor:
        """Draw a picture for each prompt with the pipeline's own scheduler.

        A picture's noise depends on its seed alone, not on what else is in its batch.

        Args:
            prompts: one a picture.
            seeds: one a picture.
            steps: steps of the scheduler; None = the model's usual ones.
            guidance: the guidance scale; None = the model's usual one.
            batch: pictures drawn at once; memory follows it.

        Returns:
            (n, 3, size, size), -1…1, float32, on the CPU.

        Raises:
            InvalidInput: there are not as many seeds as prompts.
            OutOfMemory: says what to lower.
        """
        if len(prompts) != len(seeds):
            raise InvalidInput(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}.", field="seeds")
        drawn = [torch.empty(0, 3, self.size, self.size)]
        try:
            with torch.no_grad(), self._drawing(), precision(self.device, self.mixed):
                for start in range(0, len(prompts), batch):
                    part = slice(start, start + batch)
                    latents = self.family.draw(
                        self.pipeline,
                        prompts[part],
                        [torch.Generator().manual_seed(seed) for seed in seeds[part]],
                        steps=self.steps if steps is None else steps,
                        guidance=self.guidance if guidance is None else guidance,
                        size=self.size,
                    )
                    drawn.append(self.family.decode(self.pipeline, latents).clamp(-1, 1).cpu())
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"Out of memory while drawing {batch} pictures of {self.size}×{self.size} at once. Draw fewer at "
                f"once, or choose a smaller model. ({str(error).splitlines()[0]})"
            ) from error
        return torch.cat(drawn)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Networks in evaluation mode, as they were afterwards; guidance and scheduler compute in float32."""
        networks = [self.denoiser, *self.text_encoders.values()]
        modes = [network.training for network in networks]
        hook = self.denoiser.register_forward_hook(lambda network, given, out: (out[0].float(), *out[1:]))
        for network in networks:
            network.eval()
        try:
            yield
        finally:
            hook.remove()
            for network, training in zip(networks, modes, strict=True):
                network.train(training)


def half(device: torch.device) -> bool:
    """Whether the device is faster in bfloat16: it is used there, weights aside."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and devices.half_pays()


@contextmanager
def precision(device: torch.device, mixed: bool) -> Iterator[None]:
    """With ``mixed``, compute in bfloat16 where that is safe; on a CPU with attention by plain matrix products."""
    if not mixed:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":  # faster there than the fused kernel
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def load(
    entry: Model, settings: Settings, *, folder: Path | None = None, dtype: torch.dtype | None = None
) -> ImageModel:
    """Load a pipeline from its ``folder`` (default: wherever ``sources.locate`` finds it).

    Only safetensors are read, and only pipelines of the known families. Sets torch's CPU threads for this
    process.

    Args:
        dtype: type of the weights; None = the device's, but float32 for float16, whose range is too small to
            train in. The VAE is always float32.

    Raises:
        ModelUnavailable: it cannot be had here, or cannot be read as a pipeline of these families.
        OutOfMemory: it does not fit on the device.
        InvalidInput: the settings name a device that is not here.
    """
    folder = folder or sources.locate(entry, settings)
    family = named(sources.pipeline_class(folder, entry.title))
    chosen = devices.choose(settings)
    torch.set_num_threads(chosen.threads)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    kind = dtype or (torch.float32 if chosen.dtype == torch.float16 else chosen.dtype)
    start = time.perf_counter()
    try:
        pipeline = _read(family, folder, kind)
        pipeline.vae.to(torch.float32)
        pipeline.to(chosen.name)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{entry.title} does not fit on the device. Choose a smaller model, or set PLAYGROUND_DEVICE=cpu."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise ModelUnavailable(f"{entry.title} cannot be read as a text-to-image model: {error}") from error
    return of(pipeline, entry, revision=sources.revision(folder), load_seconds=time.perf_counter() - start)


def of(
    pipeline: DiffusionPipeline,
    entry: Model | None = None,
    *,
    revision: str = "",
    load_seconds: float = 0.0,
) -> ImageModel:
    """The model of a loaded pipeline; it is frozen and put in evaluation mode.

    Raises:
        ModelUnavailable: no family knows its class.
    """
    family = family_of(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    for network in networks:
        network.requires_grad_(False).eval()
    denoiser = family.denoiser(pipeline)
    if denoiser.device.type == "cuda":  # convolutions in bfloat16 are fastest so
        pipeline.vae.to(memory_format=torch.channels_last)
        denoiser.to(memory_format=torch.channels_last)
    entry = entry or _unlisted(pipeline)
    return ImageModel(
        entry=entry,
        pipeline=pipeline,
        family=family,
        device=denoiser.device,
        dtype=denoiser.dtype,
        load_seconds=load_seconds,
        weight_bytes=sum(value.nbytes for network in networks for value in network.parameters()),
        revision=revision,
        size=family.size(pipeline),
        steps=entry.steps or family.steps,
        guidance=family.guidance if entry.guidance is None else entry.guidance,
    )


def _read(family: Family, folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    index = json.loads((folder / sources.PIPELINE).read_text(encoding="utf-8"))
    without = {name: None for name in sources.LEFT_OUT if name in index}
    if "requires_safety_checker" in index:
        without["requires_safety_checker"] = False
    return family.pipeline_class.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, **without
    )


def _unlisted(pipeline: DiffusionPipeline) -> Model:
    name = type(pipeline).__name__
    return Model(
        id=name, title=name, repo="", revision="", licence="", parameters=None, modality="image", memory=None
    )
