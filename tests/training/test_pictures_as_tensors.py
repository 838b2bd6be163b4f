"""Pictures between files and tensors."""

import torch
from PIL import Image

from playground.training import pictures


def test_pixels_come_out_as_they_were_drawn(tmp_path):
    drawn = torch.tensor([-1.0, 0.0, 3.0]).view(3, 1, 1).expand(3, 8, 8)
    assert pictures.image(drawn).getpixel((0, 0)) == (0, 128, 255)
    pictures.save(drawn, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as kept:
        assert kept.getpixel((7, 7)) == (0, 128, 255)
    back = pictures.tensors([tmp_path / "new" / "a.png"], 4)
    assert back.shape == (1, 3, 4, 4)
    torch.testing.assert_close(back[0, :, 0, 0], torch.tensor([-1.0, 1 / 255, 1.0]))


def test_no_files_are_no_pictures():
    assert pictures.tensors([], 16).shape == (0, 3, 16, 16)
