"""Icons from public npm packages: fetched at pinned versions, checked, drawn, kept in one file."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from playground.errors import InvalidInput
from playground.starter import world

EDGE = 96  # pixels of a cached icon


@dataclass(frozen=True)
class Package:
    """One icon set: the style it stands for, where it comes from, whose it is."""

    style: str
    npm: str
    version: str
    sha512: str  # base64, as npm's integrity field has it
    title: str
    licence: str
    attribution: str
    source: str


PACKAGES = (
    Package(
        "noto", "@iconify-json/noto", "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Noto Emoji", "Apache-2.0", "Copyright Google Inc.", "https://github.com/googlefonts/noto-emoji",
    ),
    Package(
        "twemoji", "@iconify-json/twemoji", "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "Twemoji", "CC-BY-4.0", "Copyright Twitter, Inc and other contributors",
        "https://github.com/jdecked/twemoji",
    ),
    Package(
        "flat", "@iconify-json/fluent-emoji-flat", "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "Fluent Emoji Flat", "MIT", "Copyright (c) Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    Package(
        "glossy", "@iconify-json/fluent-emoji", "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "Fluent Emoji", "MIT", "Copyright (c) Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
    ),
)  # fmt: skip


class Icons:
    """Drawn icons.

    Attributes:
        nouns: the names with an icon in every style, in order.
        pixels: uint8, (names, styles, 4, EDGE, EDGE), RGBA not premultiplied, styles as in world.STYLES.
        extra: uint8, (others, 4, EDGE, EDGE): more icons, without names, that only the VAE learns from.
    """

    def __init__(self, nouns: Sequence[str], pixels: np.ndarray, extra: np.ndarray):
        if pixels.shape[:2] != (len(nouns), len(world.STYLES)):
            raise InvalidInput(
                f"The icon file has {pixels.shape[:2]} icons, not {len(nouns)} × {len(world.STYLES)}."
            )
        self.nouns, self.pixels, self.extra = list(nouns), pixels, extra

    def save(self, path: Path) -> None:
        """Write one .npz; an interrupted write leaves no file of that name."""
        beside = path.with_suffix(".part.npz")
        np.savez_compressed(beside, nouns=np.array(self.nouns), pixels=self.pixels, extra=self.extra)
        beside.replace(path)

    def first(self, count: int) -> "Icons":
        """The same with the first ``count`` names only."""
        return Icons(self.nouns[:count], self.pixels[:count], self.extra)

    @classmethod
    def load(cls, path: Path) -> "Icons":
        with np.load(path) as file:
            return cls(file["nouns"].tolist(), file["pixels"], file["extra"])


def fetch(package: Package, folder: Path) -> dict:
    """The package's icon data, fetched with ``npm pack`` unless its checked archive is there already.

    Raises:
        InvalidInput: npm is missing or fails, or the archive is not the pinned one.
    """
    name = package.npm.removeprefix("@").replace("/", "-")
    archive = folder / f"{name}-{package.version}.tgz"
    if not archive.is_file():
        if shutil.which("npm") is None:
            raise InvalidInput("npm was not found. The recipe fetches its icons with it: install Node.js 20.")
        done = subprocess.run(
            ["npm", "pack", f"{package.npm}@{package.version}", "--pack-destination", str(folder)],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise InvalidInput(f"npm could not fetch {package.npm}@{package.version}: {done.stderr.strip()}")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise InvalidInput(
            f"{archive.name} is not the pinned archive (its hash differs). Delete it and run again."
        )
    with tarfile.open(archive) as tar:
        return {name: json.load(tar.extractfile(f"package/{name}.json")) for name in ("icons", "metadata")}


def draw(data: Mapping, icon: str) -> np.ndarray:
    """One icon as uint8 RGBA, (4, EDGE, EDGE).

    Raises:
        InvalidInput: resvg is not installed, or the set has no such icon.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise InvalidInput(
            "Drawing the icons needs resvg: pip install -r requirements-dev.txt (package resvg-py)."
        ) from error
    from PIL import Image

    alias = data.get("aliases", {}).get(icon, {})
    entry = data["icons"].get(alias.get("parent", icon))
    if entry is None:
        raise InvalidInput(f"The icon set {data['prefix']} has no icon “{icon}”.")
    width, height = entry.get("width", data.get("width", 16)), entry.get("height", data.get("height", 16))
    body = entry["body"].replace("currentColor", "#333")
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=EDGE, height=EDGE, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA").resize((EDGE, EDGE))
    return np.asarray(picture).transpose(2, 0, 1).copy()


def build(folder: Path, count: int, extra: int = 600) -> Icons:
    """Icons of ``count`` nouns in all styles, and of ``extra`` more nouns for the VAE, cached in ``folder``."""
    cache = folder / f"icons-{count}.npz"
    if cache.is_file():
        return Icons.load(cache)
    folder.mkdir(parents=True, exist_ok=True)
    sets = {package.style: fetch(package, folder) for package in PACKAGES}
    shared = set.intersection(*(set(data["icons"]["icons"]) for data in sets.values()))
    categories = sets["noto"]["metadata"]["categories"]
    grouped = shared & {icon for group in world.GROUPS for icon in categories[group]}
    every = world.nouns(None, sorted(grouped))
    chosen = dict(list(every.items())[:count])
    pixels = np.stack(
        [[draw(sets[style]["icons"], icon) for style in world.STYLES] for icon in chosen.values()]
    )
    others = list(every.values())[count:][:extra]
    more = [draw(sets[style]["icons"], icon) for icon in others for style in world.STYLES]
    icons = Icons(list(chosen), pixels, np.array(more, dtype=np.uint8).reshape(-1, 4, EDGE, EDGE))
    icons.save(cache)
    return icons
