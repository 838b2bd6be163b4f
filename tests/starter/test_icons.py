import dataclasses
import io
import json
import tarfile

import numpy as np
import pytest

from playground.errors import InvalidInput
from playground.starter import icons

SQUARE = '<path fill="#f00" d="M0 0h8v16H0z"/>'


def archive(folder, package, data):
    name = package.npm.removeprefix("@").replace("/", "-")
    path = folder / f"{name}-{package.version}.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for part, content in data.items():
            raw = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{part}.json")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path):
    package = icons.PACKAGES[0]
    archive(tmp_path, package, {"icons": {}, "metadata": {}})
    with pytest.raises(InvalidInput, match="hash differs"):
        icons.fetch(package, tmp_path)


def test_an_archive_with_the_pinned_hash_is_read(tmp_path):
    import base64
    import hashlib

    package = icons.PACKAGES[0]
    path = archive(tmp_path, package, {"icons": {"prefix": "x"}, "metadata": {"categories": {}}})
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    found = icons.fetch(dataclasses.replace(package, sha512=digest), tmp_path)
    assert found == {"icons": {"prefix": "x"}, "metadata": {"categories": {}}}


def test_without_npm_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(icons.shutil, "which", lambda name: None)
    with pytest.raises(InvalidInput, match=r"Node\.js"):
        icons.fetch(icons.PACKAGES[0], tmp_path)


def test_an_icon_is_drawn_with_its_transparency():
    pytest.importorskip("resvg_py")
    data = {"prefix": "x", "width": 16, "height": 16, "icons": {"half": {"body": SQUARE}},
            "aliases": {"other": {"parent": "half"}}}  # fmt: skip
    drawn = icons.draw(data, "other")
    assert drawn.shape == (4, icons.EDGE, icons.EDGE)
    assert drawn[:, 10, 10].tolist() == [255, 0, 0, 255]
    assert drawn[3, 10, -10] == 0
    with pytest.raises(InvalidInput, match="no icon"):
        icons.draw(data, "missing")


def test_icons_survive_saving(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 96, 96), dtype=np.uint8)
    made = icons.Icons(["cat", "dog"], pixels, pixels[0])
    made.save(tmp_path / "icons.npz")
    loaded = icons.Icons.load(tmp_path / "icons.npz")
    assert loaded.nouns == ["cat", "dog"]
    assert np.array_equal(loaded.pixels, pixels)
    with pytest.raises(InvalidInput, match="icon file"):
        icons.Icons(["cat"], pixels, pixels[0])


def test_the_style_that_style_lora_learns_stays_out_of_training():
    assert not any("openmoji" in package.npm for package in icons.PACKAGES)
