"""Pictures on the page: only from inside one folder, small, and never a way to anything else."""

import base64
import io

import pytest
from PIL import Image

from playground.ui.components import pictures


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "run"
    (made / "samples").mkdir(parents=True)
    Image.new("RGB", (64, 64), "orange").save(made / "samples/one.webp")
    Image.new("RGB", (1024, 512), "teal").save(made / "large.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    return made


def opened(src):
    assert src.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(src.split(",")[1])))


def test_a_picture_is_carried_within_the_page(folder):
    assert opened(pictures.source(folder, "samples/one.webp")).size == (64, 64)


def test_a_large_one_is_made_small(folder):
    assert opened(pictures.source(folder, "large.png")).size == (256, 128)
    assert opened(pictures.source(folder, "large.png", edge=48)).size == (48, 24)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "samples/../../secret.png",
        "/etc/hostname",
        "samples",
        "none.png",
        "a\0b.png",
        "link.png",
    ],
)
def test_nothing_outside_the_folder_is_read(folder, tmp_path, name):
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    assert pictures.source(folder, name) is None
    assert pictures.source(folder, tmp_path / "secret.png") is None


@pytest.mark.parametrize(
    ("name", "content"), [("text.png", b"no picture"), ("half.webp", None), ("log.txt", b"x")]
)
def test_what_is_no_picture_is_left_out(folder, name, content):
    (folder / name).write_bytes(content or (folder / "samples/one.webp").read_bytes()[:30])
    assert pictures.source(folder, name) is None


def test_a_changed_file_is_read_anew(folder):
    before = pictures.source(folder, "samples/one.webp")
    Image.new("RGB", (32, 32), "blue").save(folder / "samples/one.webp")
    assert pictures.source(folder, "samples/one.webp") != before


def test_words_beside_a_picture_stay_words():
    drawn = pictures.figure("data:image/png;base64,AA==", '<b onclick="x">{{1}}', '"><script>')
    assert "<b " not in drawn
    assert "<script" not in drawn
    assert "{{" not in drawn


def test_a_download_has_all_pixels():
    assert opened(pictures.encoded(Image.new("RGB", (700, 700)), None)).size == (700, 700)
