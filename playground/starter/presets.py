"""How large, how long: the two presets, and what a test makes of them. No heavy imports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Sizes and lengths of one training. Steps are optimiser steps, learning rates peaks.

    ``pool`` is the number of scenes composed and encoded once for the U-Net; captions are drawn anew each time
    one is used. ``pairs`` is the share of those scenes with two objects, ``places`` allows small ones aside.
    """

    name: str
    nouns: int
    pool: int
    drawn: int | None = None  # names that the U-Net learns, the first ones; None for all
    pairs: float = 0.0
    places: bool = False
    loose: float = 1.0  # how much size and place vary
    extra: int = 600  # further nouns for the VAE only
    held_out: float = 0.05

    vae_channels: tuple[int, ...] = (24, 48, 64)
    latent_channels: int = 8
    vae_steps: int = 4000
    vae_batch: int = 8
    decoder_steps: int = 1500
    vae_rate: float = 1.5e-3

    text_width: int = 128
    text_layers: int = 3
    vision_width: int = 128
    vision_layers: int = 3
    clip_steps: int = 1200
    clip_batch: int = 128
    clip_rate: float = 1e-3

    unet_channels: tuple[int, ...] = (64, 128, 224)
    unet_layers: int = 1
    unet_steps: int = 16_000
    unet_batch: int = 16
    unet_rate: float = 6e-4
    unsaid: float = 0.05  # how often the U-Net's captions leave out style, and colour
    empty: float = 0.05  # how many of them are empty

    classifier_steps: int = 1500
    classifier_batch: int = 64
    classifier_rate: float = 2e-3

    minutes: str = ""  # roughly, for people


PRESETS = {
    "cpu": Preset(
        "cpu", nouns=120, pool=5_472, loose=0.0, minutes="estimated at two to three hours on two idle cores"
    ),
    "gpu": Preset(
        "gpu",
        nouns=700,
        pool=200_000,
        pairs=0.35,
        places=True,
        vae_channels=(32, 64, 128),
        vae_steps=3000,
        vae_batch=32,
        text_width=192,
        text_layers=4,
        vision_width=192,
        vision_layers=4,
        clip_steps=1500,
        clip_batch=256,
        unet_channels=(96, 192, 256),
        unet_steps=12_000,
        unet_batch=512,
        classifier_steps=2000,
        classifier_batch=128,
        minutes="meant for about 20 minutes on one data-centre GPU; not measured yet",
    ),
}
