"""Read a visitor's pictures, or say why that is not possible; crop, check and keep them.

Whatever comes in, what goes on is an upright 8-bit RGB picture without metadata.
"""

import io
import struct
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from playground.errors import InvalidInput
from playground.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MOST_PIXELS = 40_000_000  # decoded whole
MOST_JPEG_PIXELS = 120_000_000  # decoded at a half, a quarter or an eighth
READ_EDGE = 2048  # a picture's shorter edge after reading, at most
DUPLICATE_BITS = 8  # of 63, by which the hashes of near-duplicates differ at most
DUPLICATE_COLOUR = 20.0  # of 255, by which their thumbnails differ at most on average

# How many pictures can be used, and how many are advised: the DreamBooth paper takes 3 to 5 of a subject.
COUNTS = {"subject": (1, 20), "style": (3, 100)}
ADVISED = {"subject": (3, 10), "style": (10, 40)}
MOST_HELD_OUT = 20

# What Pillow's readers raise on damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, RuntimeError, struct.error)
_SIGNATURES = (
    (b"%PDF-", "a PDF"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"8BPS", "a Photoshop file"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
)
_HEIC = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


@dataclass(frozen=True)
class Opened:
    """A picture as it was read, and what its owner should know about that, as sentences."""

    image: "Image"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """What is wrong with one or more pictures. A severe one keeps them from being used.

    ``pictures`` are the names of the files, in the order in which they were given.
    """

    message: str
    pictures: tuple[str, ...] = ()
    severe: bool = False


class Named(Protocol):
    """A picture with the name of its file."""

    name: str
    image: "Image"


def read_picture(
    source: Path | str | bytes, name: str | None = None, settings: Settings | None = None
) -> "Image":
    """The picture as an upright RGB image without metadata; see ``open_picture``."""
    return open_picture(source, name, settings).image


def open_picture(
    source: Path | str | bytes, name: str | None = None, settings: Settings | None = None
) -> Opened:
    """Read a picture.

    It is turned as its EXIF data says, its colours are brought to 8-bit sRGB, what is transparent becomes
    white, of an animation the first frame is taken. Large ones are reduced, JPEGs while they are decoded.

    Args:
        source: a path or the file's bytes.
        name: the file's name as its owner knows it, where ``source`` is a temporary one.
        settings: gives the largest size of an upload; None for files of the playground's own.

    Raises:
        InvalidInput: it is missing, too large, damaged or no picture; names the file and what to do.
    """
    from PIL import Image

    name = name or ("the picture" if isinstance(source, bytes) else Path(source).name)
    data = _bytes(source, name, settings)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise InvalidInput(_too_many_pixels(name), field="pictures") from None
    except _BROKEN:
        raise InvalidInput(_what_it_is(data, name), field="pictures") from None
    with image:
        return _decode(image, name)


def crop(image: "Image", size: int, centre: tuple[float, float] = (0.5, 0.5)) -> "Image":
    """The largest square around ``centre`` that fits, resampled to ``size`` × ``size`` (Lanczos).

    Args:
        size: edge in pixels.
        centre: of the square, in shares of width and height; it moves inwards where the square would not fit.
    """
    from PIL import Image

    edge = min(image.size)
    left, top = (
        min(max(share * length - edge / 2, 0), length - edge)
        for share, length in zip(centre, image.size, strict=True)
    )
    box = (left, top, left + edge, top + edge)
    return image.resize((size, size), Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def save_png(image: "Image", path: Path) -> None:
    """Write the pixels as PNG, and nothing else: no EXIF, colour profile, text or time."""
    _bare(image).save(path, "PNG")


def arrays(paths: Iterable[Path], size: int) -> "np.ndarray":
    """Pictures as a model takes them: float32, (n, 3, size, size), -1…1, cropped in the middle.

    Raises:
        InvalidInput: one cannot be read; names it.
    """
    import numpy as np

    pixels = [np.asarray(crop(read_picture(path), size), dtype=np.float32) for path in paths]
    stacked = np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.float32)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)) / 127.5 - 1


def check_pictures(
    train: Sequence[Named], size: int, kind: str = "subject", held_out: Sequence[Named] = ()
) -> list[Problem]:
    """What is odd about pictures that are to be learned; the severe ones first.

    Args:
        size: edge in pixels of what the model draws.
        kind: "subject" or "style".
    """
    found = check_count(len(train), len(held_out), kind)
    for picture in (*train, *held_out):
        found += _check_size(picture, size)
    found += _check_duplicates(train, held_out)
    return sorted(found, key=lambda problem: not problem.severe)


def check_count(train: int, held_out: int, kind: str = "subject") -> list[Problem]:
    """Whether there are too few or too many pictures."""
    (fewest, most), (few, many) = COUNTS[kind], ADVISED[kind]
    thing = f"of a {kind}"
    have = f"{train} training {'picture' if train == 1 else 'pictures'}"
    found = []
    if train < fewest:
        found.append(Problem(f"There are {have}; {thing} at least {fewest} must be given.", severe=True))
    elif train > most:
        found.append(
            Problem(f"There are {have}; {thing} at most {most} can be used. Keep the best.", severe=True)
        )
    elif train < few:
        found.append(Problem(f"There are only {have}; {thing} {few} to {many} give a better result."))
    elif train > many:
        found.append(Problem(f"There are {have}; {thing} {few} to {many} are enough, more take longer."))
    if held_out > MOST_HELD_OUT:
        found.append(
            Problem(f"At most {MOST_HELD_OUT} pictures can be held out; there are {held_out}.", severe=True)
        )
    elif not held_out:
        found.append(
            Problem(
                "No picture is held out: likeness to pictures that training has not seen cannot be measured."
            )
        )
    return found


def perceptual_hash(image: "Image") -> int:
    """63 bits that stay alike when a picture is resized, re-encoded or made a little brighter.

    The signs, against their median, of the lowest frequencies of a 32 × 32 grey copy's cosine transform
    (pHash, Zauner 2010).
    """
    import numpy as np

    grey = np.asarray(image.convert("L").resize((32, 32), 1), dtype=np.float64)
    position = np.arange(32)
    basis = np.cos(np.pi / 32 * (position[None] + 0.5) * np.arange(8)[:, None])
    low = (basis @ grey @ basis.T).ravel()[1:]
    return int("".join("1" if value > np.median(low) else "0" for value in low), 2)


def _bytes(source: Path | str | bytes, name: str, settings: Settings | None) -> bytes:
    limit = settings.max_upload_mb * 1_000_000 if settings else None
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if limit is not None and size > limit:
            raise InvalidInput(
                f"“{name}” has {size / 1e6:,.1f} MB; at most {settings.max_upload_mb} MB can be uploaded. "
                "Save it smaller or as a JPEG.",
                field="pictures",
            )
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"“{name}” cannot be opened: {error.strerror}. Choose it again.", field="pictures"
        ) from None
    if not data:
        raise InvalidInput(f"“{name}” is empty: the file has no bytes. Upload it again.", field="pictures")
    return data


def _too_many_pixels(name: str, size: tuple[int, int] | None = None, most: int = MOST_JPEG_PIXELS) -> str:
    have = f"{size[0]:,} × {size[1]:,} pixels" if size else "too many pixels"
    return f"“{name}” has {have}; at most {most // 1_000_000} megapixels can be read. Save it smaller."


def _what_it_is(data: bytes, name: str) -> str:
    """Why a file cannot be read as a picture."""
    advice = "Save it as JPEG or PNG and upload that."
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis"):
        heic = data[8:12] in _HEIC
        kind = "a HEIC photo, as phones take them" if heic else "a film or a picture of an unknown kind"
        return f"“{name}” is {kind}, which cannot be read here. {advice}"
    head = data[:1000].lstrip().lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in data[:4000]:
        return f"“{name}” is an SVG drawing, which cannot be read here. {advice}"
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return f"“{name}” is {kind}, which cannot be read here. {advice}"
    if b"\x00" not in data[:4000] and _is_text(data[:4000]):
        return f"“{name}” is a text file, not a picture, whatever its name says. Choose a picture."
    return f"“{name}” is not a picture that can be read, or it is damaged. {advice}"


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(data) - 4  # cut within the last character
    return True


def _decode(image: "Image", name: str) -> Opened:
    jpeg = image.format in ("JPEG", "MPO")
    most = MOST_JPEG_PIXELS if jpeg else MOST_PIXELS
    if image.width * image.height > most:
        raise InvalidInput(_too_many_pixels(name, image.size, most), field="pictures")
    notes = []
    try:
        if image.format != "MPO" and getattr(image, "is_animated", False):
            notes.append(f"“{name}” is animated: its first frame is used.")
        if jpeg:
            _reduce(image)
        image.load()
        flat = _small(_rgb(image, name, notes))
    except _BROKEN:
        raise InvalidInput(
            f"“{name}” is damaged or cut off: only a part of the picture can be read. Upload it again.",
            field="pictures",
        ) from None
    return Opened(_bare(_upright(flat, image, name, notes)), tuple(notes))


def _reduce(image: "Image") -> None:
    """Have a large JPEG decoded at a half, a quarter or an eighth, so that little memory is taken."""
    width, height = image.size
    by = min(width, height) // READ_EDGE
    while width * height > MOST_PIXELS * max(1, by) ** 2:
        by = max(1, by) * 2
    if by > 1:
        image.draft(None, (width // by, height // by))


def _rgb(image: "Image", name: str, notes: list[str]) -> "Image":
    """The picture in 8-bit sRGB, on white where it is transparent."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        return _eight_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.new("RGBA", rgba.size, "white")
        flat.alpha_composite(rgba)
        return _from_profile(flat.convert("RGB"), image, name, notes)
    plain = image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")
    return _from_profile(plain, image, name, notes)


def _eight_bit(image: "Image") -> "Image":
    """Grey values of 16 or 32 bits, or fractions, as RGB."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    top = values.max(initial=0)
    if not image.mode.startswith("I;16"):
        top = next((limit for limit in (1, 255, 65_535) if top <= limit), top)
    else:
        top = 65_535
    return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")


def _from_profile(pixels: "Image", image: "Image", name: str, notes: list[str]) -> "Image":
    """The pixels in sRGB, by the colour profile that the file brings."""
    profile = image.info.get("icc_profile")
    if not profile:
        return _lab(pixels) if pixels.mode == "LAB" else pixels.convert("RGB")
    from PIL import ImageCms

    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(pixels, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        notes.append(f"The colour profile of “{name}” does not fit: its colours may look different.")
        return _lab(pixels) if pixels.mode == "LAB" else pixels.convert("RGB")


def _lab(pixels: "Image") -> "Image":
    from PIL import ImageCms

    return ImageCms.profileToProfile(
        pixels, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )


def _small(image: "Image") -> "Image":
    """The picture reduced to ``READ_EDGE`` where it is larger."""
    from PIL import Image

    scale = READ_EDGE / min(image.size)
    if scale >= 1:
        return image
    size = tuple(max(1, round(length * scale)) for length in image.size)
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _upright(flat: "Image", image: "Image", name: str, notes: list[str]) -> "Image":
    """The pixels turned as the file's EXIF data says."""
    from PIL import ExifTags, Image

    turns = (
        None,
        None,
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        notes.append(f"The EXIF data of “{name}” is damaged: look whether the picture stands upright.")
        return flat
    known = isinstance(orientation, int) and 1 < orientation < len(turns)
    return flat.transpose(turns[orientation]) if known else flat


def _bare(image: "Image") -> "Image":
    """The pixels alone, as RGB."""
    from PIL import Image

    bare = Image.new("RGB", image.size)
    bare.paste(image)
    return bare


def _check_size(picture: Named, size: int) -> list[Problem]:
    width, height = picture.image.size
    short, long = sorted((width, height))
    name = picture.name
    if short < size / 4:
        message = (
            f"“{name}” has {width} × {height} pixels; the model draws {size} × {size}. Choose a larger one."
        )
        return [Problem(message, (name,), severe=True)]
    if short < size:
        message = (
            f"“{name}” has only {width} × {height} pixels; enlarged to {size} × {size} it will look soft."
        )
        return [Problem(message, (name,))]
    if long > 2 * short:
        message = (
            f"“{name}” is long and narrow: more than half of it is cut away. Look at where it is cropped."
        )
        return [Problem(message, (name,))]
    return []


def _check_duplicates(train: Sequence[Named], held_out: Sequence[Named]) -> list[Problem]:
    prints = [(picture.name, part, _print(picture.image)) for part in (train, held_out) for picture in part]
    found = []
    for (name, part, one), (other_name, other_part, other) in combinations(prints, 2):
        if not _alike(one, other):
            continue
        message = f"“{name}” and “{other_name}” are nearly the same picture."
        if part is other_part:
            message += " Keep one of them."
        else:
            message += " One is held out, so likeness will be measured too high: use it in one place only."
        found.append(Problem(message, (name, other_name)))
    return found


def _print(image: "Image") -> tuple[int, "np.ndarray"]:
    import numpy as np

    return perceptual_hash(image), np.asarray(image.resize((16, 16), 4), dtype=np.float32)


def _alike(one: tuple[int, "np.ndarray"], other: tuple[int, "np.ndarray"]) -> bool:
    if (one[0] ^ other[0]).bit_count() > DUPLICATE_BITS:
        return False
    return float(abs(one[1] - other[1]).mean()) <= DUPLICATE_COLOUR
