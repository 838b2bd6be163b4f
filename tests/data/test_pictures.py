"""Whatever a visitor uploads becomes an upright RGB picture without metadata, or a message that helps."""

import io
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from playground.data import pictures
from playground.data.pictures import (
    arrays,
    check_count,
    check_pictures,
    crop,
    open_picture,
    perceptual_hash,
    read_picture,
    save_png,
)
from playground.errors import InvalidInput
from playground.settings import Settings


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def halves(mode="RGB", size=(40, 20)):
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, (220, 20, 30))
    image.paste((20, 40, 220), (size[0] // 2, 0, *size))
    return image.convert(mode)


def drawn(seed, size=(96, 96)):
    """Soft random blobs: a picture of its own for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def named(*images):
    return [SimpleNamespace(name=f"{number}.png", image=image) for number, image in enumerate(images, 1)]


def near(pixel, colour, tolerance=12):
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def png_header(width, height):
    """A PNG that says how large it is and holds no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    pixels = struct.pack(">I", 1000) + b"IDAT"
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + pixels
    )


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG", "AVIF"])
def test_every_usual_format_is_read(format):
    image = read_picture(encoded(halves(), format))
    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert near(image.getpixel((8, 10)), (220, 20, 30), 30) and near(
        image.getpixel((32, 10)), (20, 40, 220), 30
    )


def test_a_path_is_read_as_its_bytes_are(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(halves(), "JPEG"))
    assert read_picture(path).tobytes() == read_picture(path.read_bytes()).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = drawn(1, (30, 20))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera held that way would have stored
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read_picture(encoded(stored, "PNG", exif=exif)).tobytes() == upright.tobytes()


def test_damaged_exif_is_said_and_the_picture_read():
    opened = open_picture(encoded(halves(), "JPEG", exif=b"Exif\x00\x00" + b"\x07" * 40), "odd.jpg")
    assert opened.image.size == (40, 20)
    assert all("odd.jpg" in note for note in opened.notes)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 10, 20))
    image = image.convert(mode)
    read = read_picture(encoded(image))
    assert near(read.getpixel((15, 10)), (255, 255, 255)) and near(read.getpixel((5, 10)), (10, 10, 10))


def test_a_colour_that_stands_for_transparency_becomes_white():
    image = Image.new("RGB", (10, 10), (1, 2, 3))
    assert read_picture(encoded(image, transparency=(1, 2, 3))).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format):
    image = read_picture(encoded(halves("CMYK"), format))
    assert near(image.getpixel((8, 10)), (220, 20, 30), 40) and near(
        image.getpixel((32, 10)), (20, 40, 220), 40
    )


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits(format):
    image = Image.fromarray(np.tile(np.linspace(0, 65_535, 64, dtype=np.uint16), (8, 1)))
    assert image.mode == "I;16"
    read = np.asarray(read_picture(encoded(image, format)))
    assert read[0, 0].tolist() == [0, 0, 0] and read[0, -1].tolist() == [255, 255, 255]
    assert abs(int(read[0, 32, 0]) - 130) < 3


def test_fractions():
    image = Image.fromarray(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (8, 1)))
    read = np.asarray(read_picture(encoded(image, "TIFF")))
    assert (read[0, 0, 0], read[0, -1, 0]) == (0, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LAB"])
def test_other_modes(mode):
    image = halves(mode) if mode != "LAB" else Image.new("LAB", (40, 20), (128, 128, 128))
    assert read_picture(encoded(image, "TIFF")).mode == "RGB"


def test_a_colour_profile_is_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    read = open_picture(encoded(halves(), icc_profile=profile))
    assert near(read.image.getpixel((8, 10)), (220, 20, 30), 3) and not read.notes


def test_a_damaged_colour_profile_is_said():
    opened = open_picture(encoded(halves(), icc_profile=b"no profile"), "odd.png")
    assert near(opened.image.getpixel((8, 10)), (220, 20, 30), 1)
    assert "colour profile of “odd.png”" in opened.notes[0]


def test_of_an_animation_the_first_frame_is_taken_with_a_note():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    opened = open_picture(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "dance.gif")
    assert near(opened.image.getpixel((5, 5)), (255, 0, 0))
    assert opened.notes == ("“dance.gif” is animated: its first frame is used.",)
    assert open_picture(encoded(frames[0], "GIF"), "still.gif").notes == ()


def test_a_photo_of_100_megapixels_is_decoded_small(monkeypatch):
    data = encoded(Image.new("L", (10_000, 10_000), 90), "JPEG")
    loaded = []
    monkeypatch.setattr(
        pictures, "_small", lambda image, small=pictures._small: loaded.append(image.size) or small(image)
    )
    image = read_picture(data, "huge.jpg")
    assert loaded == [(2500, 2500)] and image.size == (2048, 2048)
    assert near(image.getpixel((1000, 1000)), (90, 90, 90), 3)


def test_a_wide_panorama_is_decoded_small_too(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 20_000)
    monkeypatch.setattr(pictures, "MOST_JPEG_PIXELS", 200_000)
    data = encoded(halves(size=(1600, 100)), "JPEG")
    image = read_picture(data)
    assert image.size == (400, 25) and near(image.getpixel((100, 12)), (220, 20, 30), 30)
    assert read_picture(encoded(halves(size=(160, 100)), "JPEG")).size == (160, 100)


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_other_huge_pictures_are_refused_before_they_are_decoded(size):
    with pytest.raises(InvalidInput, match=r"“huge.png” has .*megapixels"):
        read_picture(png_header(*size), "huge.png")


def test_a_jpeg_beyond_all_measure_is_refused():
    data = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(InvalidInput, match="megapixels"):
        read_picture(bytes(data), "huge.jpg")


def test_large_pictures_keep_their_shape(monkeypatch):
    monkeypatch.setattr(pictures, "READ_EDGE", 50)
    for format in ("JPEG", "PNG"):
        assert read_picture(encoded(Image.new("RGB", (300, 150)), format)).size == (100, 50)


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"\x00" * 64


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no bytes"),
        (b"hello, this is text\n" * 20, "a text file, not a picture"),
        ("Größe: 3 m\n".encode(), "a text file, not a picture"),
        (HEIC, "a HEIC photo"),
        (b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 64, "a film"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'<?xml version="1.0"?><svg/>', "an SVG drawing"),
        (b"PK\x03\x04\x00\x00", "a ZIP archive"),
        (b"\x93\x00\x17\xfe" * 50, "not a picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a text file, not a picture"),
    ],
    ids=["empty", "text", "umlauts", "heic", "film", "pdf", "svg", "svg-xml", "zip", "noise", "eps"],
)
def test_what_is_no_picture_is_named(tmp_path, data, said):
    path = tmp_path / "holiday.png"
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=said) as caught:
        read_picture(path)
    assert "“holiday.png”" in str(caught.value) and caught.value.field == "pictures"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_cut_off_file_is_refused(format, share):
    data = encoded(drawn(3, (80, 80)), format)
    with pytest.raises(InvalidInput, match="“cut” is .*(damaged|cut off)"):
        read_picture(data[: int(len(data) * share)], "cut")


def test_damaged_pixels_are_refused():
    data = bytearray(encoded(drawn(3, (200, 200))))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    with pytest.raises(InvalidInput, match="“cut” is damaged"):
        read_picture(bytes(data), "cut")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF", "TIFF"])
def test_damage_anywhere_is_a_message_or_a_picture(format):
    more = {"save_all": True, "append_images": [drawn(5, (24, 24))]} if format == "GIF" else {}
    data, random = encoded(drawn(4, (24, 24)), format, **more), np.random.default_rng(7)
    for _ in range(40):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 400), 3):
            damaged[place] = random.integers(256)
        try:
            assert read_picture(bytes(damaged), "odd").mode == "RGB"
        except InvalidInput as error:
            assert "“odd”" in str(error)


def test_a_file_above_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.truncate(1_000_001)
    with pytest.raises(InvalidInput, match=r"“mine.png” has 1.0 MB; at most 1 MB"):
        read_picture(path, "mine.png", Settings(max_upload_mb=1))
    with pytest.raises(InvalidInput, match="at most 1 MB"):
        read_picture(b"\x00" * 1_000_001, "mine.png", Settings(max_upload_mb=1))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be opened"):
            read_picture(path)


def with_place():
    """A JPEG as a phone writes it: GPS position, camera, comment, colour profile, thumbnail of the EXIF kind."""
    exif = Image.Exif()
    exif[0x010F] = "SecretCam"
    exif[0x0132] = "2026:05:04 03:02:01"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (52.0, 31.0, 12.5), "E", (13.0, 24.0, 18.25)
    gps[27] = b"ASCII\x00\x00\x00SECRETPLACE"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(halves(), "JPEG", exif=exif, comment=b"SECRETWORDS", icc_profile=profile)


def test_location_and_all_other_metadata_are_stripped(tmp_path):
    data = with_place()
    assert Image.open(io.BytesIO(data)).getexif().get_ifd(0x8825)[2] == (52.0, 31.0, 12.5)
    assert b"SecretCam" in data and b"SECRETPLACE" in data and b"SECRETWORDS" in data
    image = read_picture(data)
    assert not image.info and not image.getexif()
    save_png(image, tmp_path / "kept.png")
    kept = (tmp_path / "kept.png").read_bytes()
    assert not any(
        secret in kept for secret in (b"SecretCam", b"SECRET", b"eXIf", b"iCCP", b"tEXt", b"2026:05")
    )
    assert chunks(kept) <= {b"IHDR", b"IDAT", b"IEND"}


def test_saving_strips_metadata_that_a_picture_still_carries(tmp_path):
    words = PngImagePlugin.PngInfo()
    words.add_text("Author", "SECRETNAME")
    exif = Image.Exif()
    exif[0x010F] = "SecretCam"
    image = Image.open(io.BytesIO(encoded(halves("RGBA"), pnginfo=words, exif=exif, dpi=(300, 300))))
    save_png(image.convert("RGB"), tmp_path / "kept.png")
    assert chunks((tmp_path / "kept.png").read_bytes()) <= {b"IHDR", b"IDAT", b"IEND"}


def chunks(data):
    found, place = set(), 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.add(data[place + 4 : place + 8])
        place += length + 12
    return found


def test_a_crop_is_square_and_in_the_middle_unless_asked_otherwise():
    image = Image.new("RGB", (300, 100), "white")
    image.paste("red", (0, 0, 100, 100))
    image.paste("lime", (100, 0, 200, 100))
    image.paste("blue", (200, 0, 300, 100))
    assert crop(image, 64).size == (64, 64)
    assert crop(image, 64).getpixel((32, 32)) == (0, 255, 0)
    assert crop(image, 64, (0.0, 0.5)).getpixel((32, 32)) == (255, 0, 0)
    assert crop(image, 64, (5.0, 0.5)).getpixel((32, 32)) == (0, 0, 255)
    assert near(crop(image, 64, (1 / 3, 0.5)).getpixel((16, 32)), (255, 0, 0))
    assert near(crop(image, 64, (1 / 3, 0.5)).getpixel((48, 32)), (0, 255, 0))


def test_a_crop_enlarges_small_pictures():
    assert crop(Image.new("RGB", (3, 9), "red"), 64).getpixel((32, 32)) == (255, 0, 0)


def test_arrays(tmp_path):
    save_png(halves(size=(40, 40)), tmp_path / "a.png")
    save_png(Image.new("RGB", (90, 30), "white"), tmp_path / "b.png")
    found = arrays([tmp_path / "a.png", tmp_path / "b.png"], 16)
    assert (found.shape, found.dtype) == ((2, 3, 16, 16), np.float32)
    assert found[1].min() == found[1].max() == 1.0
    assert found[0, 0, 8, 2] == pytest.approx(220 / 127.5 - 1, abs=0.02)
    assert arrays([], 16).shape == (0, 3, 16, 16)


def test_good_pictures_have_no_problem():
    assert check_pictures(named(*map(drawn, range(4))), 64, held_out=named(drawn(8))) == []


def test_too_small_pictures_are_named():
    tiny, soft = check_pictures(
        named(drawn(1), drawn(2, (50, 80)), drawn(3), drawn(4, (12, 90))), 64, held_out=named(drawn(8))
    )
    assert (tiny.pictures, tiny.severe) == (("4.png",), True) and "12 × 90 pixels" in tiny.message
    assert (soft.pictures, soft.severe) == (("2.png",), False) and "50 × 80" in soft.message


def test_narrow_pictures_are_named():
    (narrow,) = check_pictures(named(drawn(1), drawn(2), drawn(3, (90, 300))), 64, held_out=named(drawn(8)))
    assert narrow.pictures == ("3.png",) and not narrow.severe


@pytest.mark.parametrize(
    "changed",
    [
        lambda image: image.copy(),
        lambda image: image.resize((70, 70)),
        lambda image: read_picture(encoded(image, "JPEG", quality=40)),
        lambda image: image.point(lambda value: min(255, value + 10)),
        lambda image: image.crop((1, 1, 95, 95)),
    ],
    ids=["copy", "smaller", "jpeg", "brighter", "trimmed"],
)
def test_near_duplicates_are_found(changed):
    first = drawn(1)
    (found,) = check_pictures(named(first, drawn(2), changed(first)), 64, held_out=named(drawn(8)))
    assert found.pictures == ("1.png", "3.png") and "nearly the same" in found.message and not found.severe


def test_a_held_out_duplicate_says_why_it_matters():
    (found,) = check_pictures(
        named(drawn(1), drawn(2), drawn(3)), 64, held_out=[SimpleNamespace(name="x.png", image=drawn(2))]
    )
    assert found.pictures == ("2.png", "x.png") and "measured too high" in found.message


def test_the_same_shapes_in_other_colours_are_no_duplicates():
    plain = [Image.new("RGB", (96, 96), colour) for colour in ("red", "blue", "green")]
    assert check_pictures(named(*plain), 64, held_out=named(drawn(8))) == []


def test_hashes_of_different_pictures_differ():
    hashes = [perceptual_hash(drawn(seed)) for seed in range(12)]
    distances = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > pictures.DUPLICATE_BITS


@pytest.mark.parametrize(
    ("train", "held_out", "kind", "said", "severe"),
    [
        (0, 1, "subject", "at least 1", True),
        (2, 1, "subject", "only 2 training pictures", False),
        (1, 1, "subject", "only 1 training picture;", False),
        (15, 1, "subject", "are enough", False),
        (21, 1, "subject", "at most 20", True),
        (2, 1, "style", "at least 3", True),
        (5, 1, "style", "10 to 40", False),
        (60, 1, "style", "are enough", False),
        (101, 1, "style", "at most 100", True),
        (4, 21, "subject", "held out; there are 21", True),
        (4, 0, "subject", "No picture is held out", False),
    ],
)
def test_too_few_and_too_many(train, held_out, kind, said, severe):
    (problem,) = check_count(train, held_out, kind)
    assert said in problem.message and problem.severe == severe


def test_severe_problems_come_first():
    found = check_pictures(named(drawn(1), drawn(2, (10, 10))), 64)
    assert [problem.severe for problem in found] == [True, False, False]
