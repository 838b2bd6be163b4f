"""What adapting an image model holds in memory at most, estimated on its networks without their weights.

The estimate in bytes is the sum of

- weights: all networks of the pipeline in the number type they are loaded in (bfloat16 on a GPU, the VAE always in
  float32), those that train in float32; on a GPU also the copies in bfloat16 that autocast keeps of these,
- adapter: the matrices that the method adds, in float32,
- gradients and optimiser: one number and AdamW's two for each trained one, in float32,
- activations: what else lives at the highest point of one step, as ``dry_run`` finds it by running the step
  without numbers on pictures of the model's own size,
- runtime: on a CPU what Python and its libraries take; on a GPU nothing, see ``playground.training.estimate``.

What it does not count: the activations of a text encoder that trains along, workspaces of kernels, and what
encoding and drawing pictures take, which is less than a step.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from playground.models import image, sources
from playground.models.families import named
from playground.models.families.base import Conditioning
from playground.models.image import ImageModel
from playground.training.dry_step import dry_run
from playground.training.estimate import Memory

if TYPE_CHECKING:
    from playground.methods.diffusion import Diffusion, DiffusionParams

# resident set of a worker beside all that: 760 to 800 MB in runs of the starter model, with the judge and what drawing
# left with the allocator; measured on Linux
RUNTIME_BYTES = 780_000_000
ADAM = 2  # numbers that AdamW keeps of each trained one


def memory(
    pipeline: DiffusionPipeline, technique: "Diffusion", params: "DiffusionParams", *, half: bool
) -> Memory:
    """What a training holds at most.

    Args:
        pipeline: on the meta device, as ``skeleton`` or ``assembled`` gives it; it is changed.
        half: whether the device computes in bfloat16 and keeps frozen weights in it, as GPUs do.
    """
    model = image.of(pipeline)
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    if half:
        for network in networks:
            network.to(torch.float32 if network is pipeline.vae else torch.bfloat16)
    plain = sum(map(_count, networks))
    technique.wrap(params, model)
    trained = [value for network in networks for value in network.parameters() if value.requires_grad]
    trained_bytes = sum(map(_size, trained))
    added = 4 * (sum(map(_count, networks)) - plain)
    return Memory(
        weights=sum(map(_bytes, networks)) - added + (trained_bytes // 2 if half else 0),
        adapter=added,
        gradients=trained_bytes,
        optimizer=ADAM * trained_bytes,
        activations=_activations(model, technique, params, half),
        runtime=0 if half else RUNTIME_BYTES,
    )


def skeleton(folder: Path) -> DiffusionPipeline:
    """The pipeline in a folder without its weights, on the meta device.

    Raises:
        ModelUnavailable: it is of no known family.
    """
    index = json.loads((folder / sources.PIPELINE).read_text(encoding="utf-8"))
    parts = {}
    for name, kind in index.items():
        if isinstance(kind, list) and kind[0] and name not in sources.LEFT_OUT and "tokenizer" not in name:
            parts[name] = _component(folder / name, *kind)
    return assembled(index["_class_name"], parts)


def assembled(pipeline_class: str, parts: Mapping[str, Any]) -> DiffusionPipeline:
    """A pipeline of these networks and this scheduler; what it wants beside them is left out.

    Raises:
        ModelUnavailable: it is of no known family.
    """
    kind = named(pipeline_class).pipeline_class
    wanted = inspect.signature(kind).parameters
    missing = {name: None for name, one in wanted.items() if one.default is one.empty and name not in parts}
    unchecked = {"requires_safety_checker": False} if "requires_safety_checker" in wanted else {}
    return kind(**parts, **missing, **unchecked)


def _component(folder: Path, library: str, name: str) -> Any:
    kind = getattr(diffusers if library == "diffusers" else transformers, name)
    if issubclass(kind, diffusers.SchedulerMixin):
        return kind.from_pretrained(folder)
    with torch.device("meta"):
        if library == "diffusers":
            return kind.from_config(kind.load_config(folder))
        return kind(kind.config_class.from_pretrained(folder, local_files_only=True))


def _activations(model: ImageModel, technique: "Diffusion", params: "DiffusionParams", half: bool) -> int:
    """Bytes beside weights and gradients at the highest point of a step."""
    dtype = torch.bfloat16 if half else torch.float32
    network = model.denoiser.to(dtype)
    count = params.batch_size
    if technique.prior_weight(params):
        count += technique.class_batch(params) or params.batch_size
    edge = model.size // model.pipeline.vae_scale_factor
    with torch.device("meta"):
        noisy = torch.empty(count, model.pipeline.vae.config.latent_channels, edge, edge, dtype=dtype)
        times = torch.empty(count, dtype=dtype if model.family.objective == "flow" else torch.long)
        texts = _texts(model, count, dtype)

    def loss() -> Tensor:
        return model.family.predict(network, noisy, times, texts, model.pipeline).float().square().mean()

    peak = dry_run(network, loss).peak_bytes
    return max(0, peak - sum(_size(value) for value in network.parameters() if value.requires_grad))


# Tokens of text: CLIP's, and T5's where a family has it.
TOKENS = {"stable-diffusion": 77, "sdxl": 77, "sd3": 77 + 256, "flux": 512}


def _texts(model: ImageModel, count: int, dtype: torch.dtype) -> Conditioning:
    """Conditioning of the shapes that the family's ``encode_prompts`` gives."""
    config = model.denoiser.config
    width = config.get("cross_attention_dim") or config["joint_attention_dim"]
    made = {"prompt_embeds": torch.empty(count, TOKENS[model.family.id], width, dtype=dtype)}
    if model.family.id == "sdxl":
        pooled = model.pipeline.text_encoder_2.config.projection_dim
    else:
        pooled = config.get("pooled_projection_dim")
    return made | ({"pooled": torch.empty(count, pooled, dtype=dtype)} if pooled else {})


def _count(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def _size(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _bytes(network: nn.Module) -> int:
    return sum(map(_size, (*network.parameters(), *network.buffers())))
