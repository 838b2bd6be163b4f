"""Rows from a CSV, TSV or JSONL file, each with the line on which it starts."""

import codecs
import csv
import io
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from playground.errors import TaskError
from playground.settings import Settings

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}

_BINARY = {
    b"PK\x03\x04": "a spreadsheet or zip",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
    b"\x1f\x8b": "a gzip",
}


@dataclass(frozen=True)
class Row:
    """One row and the 1-based line of the file on which it starts. JSONL cells may be any JSON value."""

    line: int
    cells: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A file that was read: at most ``max_rows`` of its ``total`` rows."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    total: int
    format: str


def read_table(path: Path, settings: Settings, sample: bool = False, seed: int = 0) -> Table:
    """Read a CSV, TSV or JSONL file, at most ``settings.max_rows`` rows of it.

    Raises:
        TaskError: too large, empty, not text, not UTF-8, or a line is wrong.
    """
    text = _decode(path, settings)
    if path.suffix.lower() in {".jsonl", ".ndjson", ".json"} or text.lstrip().startswith("{"):
        kind, columns, rows = "JSONL", None, _json_rows(text)
    else:
        delimiter = _delimiter(text, path)
        kind = f"{'TSV' if delimiter == chr(9) else 'CSV'}, separated by {DELIMITERS[delimiter]}"
        columns, rows = _csv_rows(text, delimiter)
    kept, total = _keep(rows, settings.max_rows, random.Random(seed) if sample else None)
    if not kept:
        raise TaskError("The file has a header and no rows.")
    if columns is None:
        columns = tuple(dict.fromkeys(key for row in kept for key in row.cells))
    if len(columns) < 2:
        raise TaskError(
            f"The file has one column only (“{(columns or ('',))[0][:40]}”). It needs two, the input and the "
            "target, separated by comma, semicolon, tab or vertical bar.",
            line=1,
        )
    return Table(columns, tuple(kept), total, kind)


def _keep(rows: Iterator[Row], most: int, generator: random.Random | None) -> tuple[list[Row], int]:
    """Up to ``most`` rows and how many there are; more are refused, or drawn from (algorithm R)."""
    kept: list[Row] = []
    total = 0
    for total, row in enumerate(rows, 1):
        if total <= most:
            kept.append(row)
        elif generator is not None and (place := generator.randrange(total)) < most:
            kept[place] = row
    if total > most and generator is None:
        raise TaskError(
            f"The file has {total:,} rows; at most {most:,} can be used. "
            f"Shorten it, or let {most:,} rows be drawn from it at random."
        )
    return sorted(kept, key=lambda row: row.line), total


def _decode(path: Path, settings: Settings) -> str:
    try:
        size = path.stat().st_size
        if size > settings.max_upload_mb * 1_000_000:
            raise TaskError(
                f"{path.name} has {size / 1e6:.0f} MB; at most {settings.max_upload_mb} MB can be used."
            )
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path.name} cannot be read: {error.strerror}. Choose it again.") from None
    for magic, kind in _BINARY.items():
        if data.startswith(magic):
            raise TaskError(f"{path.name} is {kind} file, not text. Save it as CSV in UTF-8.")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and b"\0" in data:
        raise TaskError(f"{path.name} is not text. Save it as CSV, TSV or JSONL in UTF-8.")
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = (before.decode("utf-16", "ignore") if wide else before.decode("latin-1")).count("\n") + 1
        raise TaskError(
            f"the byte 0x{data[error.start]:02X} is not {'UTF-16' if wide else 'UTF-8'} text. "
            "Save the file as UTF-8 (in Excel: “CSV UTF-8”).",
            line,
        ) from None
    if not text.strip():
        raise TaskError(f"{path.name} is empty.")
    return text


def _delimiter(text: str, path: Path) -> str:
    """The separator under which the first rows have the header's number of cells, above one."""
    lines = list(islice(io.StringIO(text, newline=""), 200))
    best, score = ",", (0.0, 1)
    for delimiter in DELIMITERS:
        rows = _first_rows(lines, delimiter)
        header = next((row for row in rows if row), [])
        width = len(header)
        share = sum(len(row) == width for row in rows if row) / max(1, len(rows))
        if path.suffix.lower() == ".tsv" and delimiter == "\t" and width > 1:
            return delimiter
        if width > 1 and (share, width) > score:
            best, score = delimiter, (share, width)
    return best


def _first_rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """The first rows, up to one with too long a cell: under the right separator there may be none."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        for row in islice(csv.reader(lines, delimiter=delimiter), 50):
            rows.append(row)
    return rows


def _csv_rows(text: str, delimiter: str) -> tuple[tuple[str, ...], Iterator[Row]]:
    records = _records(text, delimiter)
    line, header = next(records, (1, []))
    columns = tuple(name.strip() for name in header)
    for number, name in enumerate(columns, 1):
        if not name:
            raise TaskError(f"column {number} has no name in the header.", line)
        if columns.index(name) != number - 1:
            raise TaskError("two columns have this name.", line, name)

    def rows() -> Iterator[Row]:
        for line, cells in records:
            if len(cells) > len(columns):
                raise TaskError(
                    f'{len(cells)} cells, but the header has {len(columns)}. Put quotes (") around text '
                    f"that holds a {DELIMITERS[delimiter]}.",
                    line,
                )
            if len(cells) < len(columns):
                raise TaskError("this cell is missing.", line, columns[len(cells)])
            yield Row(line, dict(zip(columns, cells, strict=True)))

    return columns, rows()


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each record that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise TaskError(_unreadable(error), line) from None
        if any(cell.strip() for cell in cells):
            yield line, cells


def _unreadable(error: csv.Error) -> str:
    if "field limit" in str(error):
        most = csv.field_size_limit()
        return (
            f'a cell has more than {most:,} characters. Shorten it, or close the quote (") that opens here.'
        )
    return f'this row cannot be read ({error}). Usually a quote (") opens here and never closes.'


def _json_rows(text: str) -> Iterator[Row]:
    for line, part in enumerate(text.split("\n"), 1):
        if not part.strip():
            continue
        try:
            record = json.loads(part)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"this is not JSON ({error}). Each line holds one object.", line) from None
        if not isinstance(record, dict):
            raise TaskError("this is not a JSON object, such as {“input”: …, “target”: …}.", line)
        yield Row(line, record)


def shown(value: Any) -> str:
    """A cell as text: a JSON value other than a text is written as JSON, null is empty."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
