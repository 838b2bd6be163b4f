"""Reading uploads: what is text, in which encoding, and what the visitor is told otherwise."""

import pytest

from playground.data.documents import distinct, read
from playground.data.tasks import Document
from playground.errors import DocumentError
from playground.settings import Settings

SETTINGS = Settings(max_upload_mb=1)


def write(folder, name, data: bytes):
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        "Grüße aus Køge 🙂\r\n".encode(),
        "Grüße aus Køge 🙂\r\n".encode("utf-8-sig"),
        "Grüße aus Køge 🙂\r\n".encode("utf-16"),
        b"\xfe\xff" + "Grüße aus Køge 🙂\r\n".encode("utf-16-be"),
        "Grüße aus Køge 🙂\r\n".encode("utf-32"),
    ],
)
def test_encodings_with_a_clear_mark(tmp_path, data):
    assert read(write(tmp_path, "a.md", data), SETTINGS) == Document("a", "Grüße aus Køge 🙂\r\n")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Le café est fermé le dimanche. Les élèves y déjeunent après le théâtre, à côté. " * 9, "cp1252"),
        ("Die Fähre fährt täglich außer montags. Für Hunde gilt eine Gebühr von fünf Euro. " * 9, "latin-1"),
        ("Паром ходит каждый день, кроме понедельника. Собаки ездят бесплатно. " * 9, "cp1251"),
        ("日本語の文章です。船は毎日出ます。" * 9, "shift_jis"),
    ],
)
def test_old_encodings_are_recognised(tmp_path, text, encoding):
    assert read(write(tmp_path, "a.txt", text.encode(encoding)), SETTINGS).text == text


def test_unclear_bytes_name_the_offset(tmp_path):
    with pytest.raises(DocumentError, match=r"byte 5 \(0xff\).*save it as UTF-8"):
        read(write(tmp_path, "a.txt", b"hello\xff\xfe\xfa\x81\x8d\x90"), SETTINGS)


def test_broken_utf16_says_so(tmp_path):
    with pytest.raises(DocumentError, match="says that it is UTF-16"):
        read(write(tmp_path, "a.txt", b"\xff\xfea\x00b"), SETTINGS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc\x00def", "byte 3 is zero"),
        (b"%PDF-1.7 ...", "is a PDF"),
        (b"\x89PNG\r\n\x1a\n", "is an image"),
        (b"PK\x03\x04rest", "ZIP archive"),
        (bytes(range(1, 32)) * 10, "control characters"),
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, data, message):
    with pytest.raises(DocumentError, match=message):
        read(write(tmp_path, "a.txt", data), SETTINGS)


def test_kind_size_and_presence(tmp_path):
    with pytest.raises(DocumentError, match=r"“a.exe” cannot be read: the kinds that can are .md"):
        read(write(tmp_path, "a.exe", b"text"), SETTINGS)
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(DocumentError, match="50.0 MB; at most 1 MB"):
        read(tmp_path / "big.txt", SETTINGS)
    with pytest.raises(DocumentError, match="“none.txt” cannot be opened"):
        read(tmp_path / "none.txt", SETTINGS)


def test_the_owners_name_counts_not_the_temporary_one(tmp_path):
    path = write(tmp_path, "tmp123", b"text")
    assert read(path, SETTINGS, name="../../Opening hours.md").id == "Opening hours"


def test_html_stays_text(tmp_path):
    text = "<script>alert('x')</script> & <b>bold</b>"
    assert read(write(tmp_path, "a.md", text.encode()), SETTINGS).text == text


def test_names_that_come_twice(tmp_path):
    (tmp_path / "b").mkdir()
    paths = [
        write(tmp_path, "a.md", b"one"),
        write(tmp_path, "a.txt", b"two"),
        write(tmp_path / "b", "a.md", b"three"),
    ]
    assert [d.id for d in distinct(read(path, SETTINGS) for path in paths)] == ["a", "a (2)", "a (3)"]
    ids = [d.id for d in distinct([Document("a", ""), Document("a (2)", ""), Document("a", "")])]
    assert len(set(ids)) == 3
