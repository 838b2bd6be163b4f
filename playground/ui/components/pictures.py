"""Pictures on the page: small copies inside the HTML itself, read from inside one folder and nowhere else."""

import base64
import io
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from playground.ui.components.markup import safe

if TYPE_CHECKING:
    from PIL.Image import Image

EDGE = 256  # pixels: the longer edge of a picture on the page
ENDINGS = {".png", ".webp", ".jpg", ".jpeg"}
QUALITY = 90  # of the small copies (WebP)
SHARP_EDGE = 128  # pixels up to which copies lose nothing: a few pixels wrong would be seen
MOST_PIXELS = 16_000_000  # of a file that is read for the page; what runs write is far below


def source(folder: Path, name: str | Path, edge: int = EDGE) -> str | None:
    """The ``src`` of a picture: a data address with a copy of at most ``edge`` pixels.

    Args:
        folder: only files in it are read, whatever ``name`` says.
        name: the file's place, relative to ``folder``.

    Returns: None where there is no such picture.
    """
    if "\0" in str(name):
        return None
    inside = folder.resolve()
    try:
        path = (inside / name).resolve()
        if not path.is_relative_to(inside) or path.suffix.lower() not in ENDINGS or not path.is_file():
            return None
        found = path.stat()
    except OSError:
        return None
    return _small(path, found.st_mtime_ns, found.st_size, edge)


@lru_cache(maxsize=2000)
def _small(path: Path, changed: int, size: int, edge: int) -> str | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return None
            return encoded(picture.convert("RGB"), edge)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # half written, or no picture at all: its place stays empty until the next look


def encoded(picture: "Image", edge: int | None = EDGE) -> str:
    """A picture as a data address: WebP of at most ``edge`` pixels or, with None, PNG in full size."""
    out = io.BytesIO()
    if edge is None:
        picture.save(out, "PNG")
    else:
        small = picture.copy()
        small.thumbnail((edge, edge))
        small.save(out, "WEBP", quality=QUALITY, method=3, lossless=max(small.size) <= SHARP_EDGE)
    kind = "png" if edge is None else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def figure(src: str | None, words: str = "", alt: str = "") -> str:
    """A picture that grows when it is pressed, with words below; a blank square where it cannot be read."""
    below = f"<figcaption>{safe(words)}</figcaption>" if words else ""
    return f'<figure class="pg-picture">{button(src, alt or words)}{below}</figure>'


def button(src: str | None, alt: str) -> str:
    """The picture alone, inside a button that shows it large."""
    if src is None:
        return '<span class="pg-no-picture" role="img" aria-label="No picture yet"></span>'
    return (
        f'<button type="button" class="pg-zoom" data-zoom aria-label="{safe(f"Enlarge: {alt}")}">'
        f'<img src="{safe(src)}" alt="{safe(alt)}" decoding="async"></button>'
    )


def gallery(title: str, figures: Iterable[str]) -> str:
    """Pictures side by side under a title; empty where there is none."""
    shown = "".join(figures)
    if not shown:
        return ""
    return f'<section class="pg-gallery"><h4 class="pg-small-head">{safe(title)}</h4><div>{shown}</div></section>'
