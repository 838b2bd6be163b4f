"""Tiny random text-to-image pipelines of the real classes, made on the spot: no downloads.

Pictures are 32×32, latents 8×8. Every function takes a seed: the same seed makes the same weights.
"""

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from playground.starter import networks

SIZE = 32  # edge of a picture, in pixels
WIDTH = 16  # of the text encoders
NAMES = ["apple", "robot", "cat", "mug"]


def clip_tokenizer():
    """A CLIP tokenizer with a whole token for each of ``NAMES``; other words fall into pieces."""
    return networks.tokenizer(NAMES)


def t5_tokenizer():
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", *(f"▁{name}" for name in NAMES)]
    pieces += list("abcdefghijklmnopqrstuvwxyz,.")
    return T5Tokenizer(
        vocab=[(piece, 0.0 if at < 3 else -1.0 * len(pieces) / (at + 1)) for at, piece in enumerate(pieces)],
        extra_ids=0,
        model_max_length=64,
    )


def sd(seed=0):
    """StableDiffusionPipeline as the starter model's: 8 latent channels, v-prediction, zero terminal SNR."""
    torch.manual_seed(seed)
    tokens = clip_tokenizer()
    return _quiet(
        StableDiffusionPipeline(
            vae=_vae(latent_channels=8),
            text_encoder=CLIPTextModel(_clip(tokens)).eval(),
            tokenizer=tokens,
            unet=_unet(channels=8),
            scheduler=networks.scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sdxl(seed=0):
    """StableDiffusionXLPipeline: two text encoders, picture sizes among the conditions, predicts the noise."""
    torch.manual_seed(seed)
    tokens = clip_tokenizer()
    return _quiet(
        StableDiffusionXLPipeline(
            vae=_vae(latent_channels=4),
            text_encoder=CLIPTextModel(_clip(tokens)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(_clip(tokens)).eval(),
            tokenizer=tokens,
            tokenizer_2=clip_tokenizer(),
            unet=_unet(
                channels=4,
                cross_attention_dim=2 * WIDTH,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + WIDTH,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                timestep_spacing="leading",
            ),
        )
    )


def sd3(seed=0):
    """StableDiffusion3Pipeline: three text encoders, a transformer, flow matching with a fixed shift."""
    torch.manual_seed(seed)
    tokens = clip_tokenizer()
    return _quiet(
        StableDiffusion3Pipeline(
            vae=_vae(latent_channels=4, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
            text_encoder=CLIPTextModelWithProjection(_clip(tokens)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(_clip(tokens)).eval(),
            text_encoder_3=_t5(),
            tokenizer=tokens,
            tokenizer_2=clip_tokenizer(),
            tokenizer_3=t5_tokenizer(),
            transformer=SD3Transformer2DModel(
                sample_size=SIZE // 4,
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=2 * WIDTH,
                caption_projection_dim=16,
                pooled_projection_dim=2 * WIDTH,
                pos_embed_max_size=8,
                qk_norm="rms_norm",
            ).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


def flux(seed=0, guidance=True):
    """FluxPipeline: packed latents, position ids; with ``guidance`` as FLUX.1-dev, without as schnell."""
    torch.manual_seed(seed)
    tokens = clip_tokenizer()
    pipeline = FluxPipeline(
        vae=_vae(latent_channels=4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(_clip(tokens)).eval(),
        text_encoder_2=_t5(),
        tokenizer=tokens,
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 6, 6),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance),
    )
    pipeline.default_sample_size = SIZE // pipeline.vae_scale_factor
    return _quiet(pipeline)


def pictures(count=4, size=SIZE, seed=0):
    """Plain pictures (count, 3, size, size), -1…1: coloured discs on coloured grounds."""
    generator = torch.Generator().manual_seed(seed)
    ground, disc = torch.rand(2, count, 3, 1, 1, generator=generator) * 2 - 1
    axis = torch.linspace(-1, 1, size)
    inside = (axis[:, None].square() + axis.square()) < 0.4
    return torch.where(inside, disc, ground.expand(count, 3, size, size))


def _vae(latent_channels, **more):
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=SIZE,
        scaling_factor=0.5,
        **more,
    ).eval()


def _unet(channels, cross_attention_dim=WIDTH, **more):
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=2,
        norm_num_groups=8,
        **more,
    ).eval()


def _clip(tokens):
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=networks.TOKENS,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        projection_dim=WIDTH,
    )


def _t5():
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=2 * WIDTH,
            d_kv=8,
            d_ff=2 * WIDTH,
            num_layers=1,
            num_heads=2,
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()


def _quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
