"""Pictures as files and as what an image model takes: float32 (n, 3, h, w), −1…1."""

from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from playground.data.pictures import arrays, save_png
from playground.training.saving import atomic_file


def tensors(paths: Iterable[Path], size: int) -> Tensor:
    """The pictures in these files, cropped to squares of ``size`` pixels.

    Raises:
        InvalidInput: one cannot be read; the message names it.
    """
    return torch.from_numpy(arrays(paths, size))


def image(picture: Tensor) -> Image.Image:
    """One picture (3, h, w), −1…1, as an RGB image."""
    values = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu()
    return Image.fromarray(values.contiguous().numpy())


def save(picture: Tensor, path: Path) -> None:
    """Write one picture (3, h, w), −1…1, as a PNG.

    Raises:
        RunFailed: the disk is full; nothing is left behind.
    """
    with atomic_file(path) as partial:
        save_png(image(picture), partial)
