"""Pictures as files and as what an image model takes: float32 (n, 3, h, w), −1…1."""

from collections.abc import Iterable
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from playground.data.pictures import crop, read_picture


def tensors(paths: Iterable[Path], size: int) -> Tensor:
    """The pictures in these files, cropped to squares of ``size`` pixels.

    Raises:
        InvalidInput: one cannot be read; the message names it.
    """
    paths = list(paths)
    if not paths:
        return torch.empty(0, 3, size, size)
    pictures = [numpy.asarray(crop(read_picture(path), size), dtype=numpy.float32) for path in paths]
    return torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1


def image(picture: Tensor) -> Image.Image:
    """One picture (3, h, w), −1…1, as an RGB image."""
    values = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu()
    return Image.fromarray(values.contiguous().numpy())


def save(picture: Tensor, path: Path) -> None:
    """Write one picture (3, h, w), −1…1, as a PNG; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    image(picture).save(partial, format="PNG")
    partial.replace(path)
