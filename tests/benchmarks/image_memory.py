"""Print what the catalogue says of the memory that adapting an image model takes, estimated for each method.

``python tests/benchmarks/image_memory.py`` builds the networks of the models on PyTorch's meta device from their
published configurations, counts them, and runs one step of each method without numbers: one picture (with prior
preservation one of the class, too), bfloat16 on a GPU, no gradient checkpointing; the starter model with its presets
on a CPU. The lines go into ``playground/models/catalogue.toml``.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout is not an installed package

from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from playground.methods import presets
from playground.methods.registry import method
from playground.settings import ASSETS
from playground.training.image_memory import assembled, memory, skeleton

METHODS = ("dreambooth", "dreambooth_lora", "style_lora")


def clip(hidden: int, layers: int, heads: int, kind=CLIPTextModel, projection: int = 768):
    """A CLIP text encoder."""
    return kind(
        CLIPTextConfig(
            hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, num_attention_heads=heads,
            projection_dim=projection,
        )
    )  # fmt: skip


def vae(channels: int = 4, **more):
    """The autoencoder of all these models."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **more,
    )  # fmt: skip


def t5():
    """The encoder of T5-XXL, version 1.1."""
    return T5EncoderModel(
        T5Config(
            d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )  # fmt: skip


def bigg():
    """OpenCLIP ViT-bigG's text encoder."""
    return clip(1280, 32, 20, CLIPTextModelWithProjection, 1280)


def sd15():
    return "StableDiffusionPipeline", {
        "unet": UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        "text_encoder": clip(768, 12, 12), "vae": vae(), "scheduler": DDPMScheduler(),
    }  # fmt: skip


def sd21():
    return "StableDiffusionPipeline", {
        "unet": UNet2DConditionModel(
            sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        ),
        "text_encoder": clip(1024, 23, 16), "vae": vae(), "scheduler": DDPMScheduler(),
    }  # fmt: skip


def sdxl():
    return "StableDiffusionXLPipeline", {
        "unet": UNet2DConditionModel(
            sample_size=128, cross_attention_dim=2048, attention_head_dim=(5, 10, 20), use_linear_projection=True,
            block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        ),
        "text_encoder": clip(768, 12, 12), "text_encoder_2": bigg(), "vae": vae(), "scheduler": DDPMScheduler(),
    }  # fmt: skip


def sd35_medium():
    return "StableDiffusion3Pipeline", {
        "transformer": SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64,
            num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
            pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        ),
        "text_encoder": clip(768, 12, 12, CLIPTextModelWithProjection), "text_encoder_2": bigg(),
        "text_encoder_3": t5(), "vae": vae(16, use_quant_conv=False, use_post_quant_conv=False),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }  # fmt: skip


def flux_schnell():
    return "FluxPipeline", {
        "transformer": FluxTransformer2DModel(guidance_embeds=False),
        "text_encoder": clip(768, 12, 12), "text_encoder_2": t5(),
        "vae": vae(16, use_quant_conv=False, use_post_quant_conv=False),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }  # fmt: skip


MODELS: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "stable-diffusion-1.5": sd15,
    "stable-diffusion-2.1": sd21,
    "sdxl": sdxl,
    "stable-diffusion-3.5-medium": sd35_medium,
    "flux.1-schnell": flux_schnell,
}


def built(model: str):
    """The model's pipeline on the meta device."""
    if model == "starter-stickers":
        return skeleton(ASSETS / "starter-image")
    with torch.device("meta"):
        kind, parts = MODELS[model]()
    return assembled(kind, parts)


def parameters(model: str) -> int:
    """How many a model has, all networks together."""
    networks = [part for part in built(model).components.values() if isinstance(part, torch.nn.Module)]
    return sum(value.numel() for network in networks for value in network.parameters())


def needed(model: str, method_id: str) -> int:
    """Bytes, to two digits."""
    technique, starter = method(method_id), model == "starter-stickers"
    values = presets.preset(method_id, "15m-cpu").values if starter else {"batch_size": 1}
    total = memory(built(model), technique, technique.Params.parse(values), half=not starter).total
    return round(total, 2 - len(str(total)))


def main() -> None:
    """Print a line a model."""
    for model in ("starter-stickers", *MODELS):
        told = ", ".join(f"{id} = {needed(model, id):_}" for id in METHODS)
        print(f"[{model}] parameters = {parameters(model):_}\nadapting = {{ {told} }}", flush=True)


if __name__ == "__main__":
    main()
