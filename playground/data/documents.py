"""Read a visitor's files as text, or say why that is not possible.

A reader per file ending stands in ``READERS``; another format is one more entry there.
"""

import codecs
from collections.abc import Callable, Iterable
from pathlib import Path

from playground.data.tasks import Document
from playground.errors import DocumentError
from playground.settings import Settings

# Longest first: the mark of UTF-32 LE begins with the one of UTF-16 LE.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\x1f\x8b", "a compressed file"),
    (b"\xd0\xcf\x11\xe0", "an old office document"),
)
_SAMPLE_BYTES = 64_000  # what the guess of an encoding looks at
_MOST_CHAOS = 10.0  # per cent of odd characters above which a guessed encoding is not trusted


def read_text(data: bytes, name: str) -> str:
    """Decode a text file: UTF-8, UTF-16/32 with a byte order mark, else an encoding that is beyond doubt.

    Line endings stay as they are, so that character spans hold in the file's own text.

    Raises:
        DocumentError: it is no text, or its encoding is unclear; names the byte and what to do.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decode(data, encoding, name)
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            raise DocumentError(
                f"“{name}” is {kind}, not text. Save it as a .txt or .md file and upload that."
            )
    if (at := data.find(b"\x00")) >= 0:
        raise DocumentError(
            f"“{name}” is not a text file: byte {at} is zero. Save it as a .txt or .md file in UTF-8."
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        text = _guess(data, name, error)
    _refuse_control_characters(text, name)
    return text


READERS: dict[str, Callable[[bytes, str], str]] = {
    ".md": read_text,
    ".markdown": read_text,
    ".txt": read_text,
    ".text": read_text,
    "": read_text,
}


def read(path: Path, settings: Settings, name: str | None = None) -> Document:
    """Read one file.

    Args:
        path: where the file lies.
        settings: gives the largest size, ``max_upload_mb``.
        name: the file's name as its owner knows it, where ``path`` is a temporary one.

    Raises:
        DocumentError: missing, too large, empty, of an unknown kind or no text.
    """
    path = Path(path)
    name = Path(name or path.name).name
    reader = READERS.get(Path(name).suffix.lower())
    if reader is None:
        kinds = ", ".join(suffix for suffix in READERS if suffix)
        raise DocumentError(f"“{name}” cannot be read: the kinds that can are {kinds}.")
    text = reader(_bytes(path, name, settings.max_upload_mb), name)
    if not text.strip():
        raise DocumentError(f"“{name}” is empty. Upload a file with text in it.")
    return Document(id=Path(name).stem or name, text=text)


def distinct(documents: Iterable[Document]) -> list[Document]:
    """The same documents with ids that differ."""
    documents = list(documents)
    taken: set[str] = set()
    result = []
    for document in documents:
        id, number = document.id, 1
        while id in taken:
            number += 1
            id = f"{document.id} ({number})"
        taken.add(id)
        result.append(Document(id, document.text))
    return result


def _bytes(path: Path, name: str, limit_mb: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > limit_mb * 1_000_000:
            raise DocumentError(
                f"“{name}” has {size / 1e6:,.1f} MB; at most {limit_mb} MB can be uploaded. Split it into parts."
            )
        return path.read_bytes()
    except OSError as error:
        raise DocumentError(f"“{name}” cannot be opened: {error.strerror}. Choose it again.") from None


def _decode(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"“{name}” says that it is {encoding.upper().removesuffix('-SIG')}, but byte {error.start} is not. "
            "Open it in an editor and save it again as UTF-8."
        ) from None


def _guess(data: bytes, name: str, error: UnicodeDecodeError) -> str:
    start = max(0, error.start - _SAMPLE_BYTES // 2)
    encoding = _encoding(data[start : start + _SAMPLE_BYTES])
    if encoding:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass  # the guess fits the sample only: the message below names the byte
    raise DocumentError(
        f"“{name}” is not UTF-8: byte {error.start} (0x{data[error.start]:02x}) does not fit, and its encoding "
        "is unclear. Open it in an editor and save it as UTF-8."
    )


def _encoding(sample: bytes) -> str | None:
    """The encoding beyond doubt, or None. Western European text fits Central European tables as well:
    among equals it is Windows-1252, by far the most usual.
    """
    from charset_normalizer import from_bytes

    matches = list(from_bytes(sample))
    if not matches or matches[0].percent_chaos > _MOST_CHAOS or matches[0].percent_coherence == 0:
        return None
    top = (matches[0].percent_chaos, matches[0].percent_coherence)
    equals = [match for match in matches if (match.percent_chaos, match.percent_coherence) == top]
    if len({str(match) for match in equals}) == 1:
        return equals[0].encoding
    return "cp1252" if "cp1252" in {match.encoding for match in equals} else None


def _refuse_control_characters(text: str, name: str) -> None:
    sample = text[:100_000]
    odd = sum(character < " " and character not in "\t\n\r\f\x1b" for character in sample)
    if odd > max(2, len(sample) // 100):
        raise DocumentError(
            f"“{name}” is not a text file: it is full of control characters. Save it as .txt or .md in UTF-8."
        )
