"""Cut a document into chunks for retrieval: along headings, paragraphs and sentences.

Sizes are counted by the caller's own counter (the embedding model's tokens), since a model that
cuts at 256 tokens silently drops the rest. Pure: text in, spans out.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from playground.data.tasks import Document

CountTokens = Callable[[str], int]

_LONGEST_UNIT = 600  # characters: a “sentence” beyond this is cut at spaces first
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_OWN_LINE = re.compile(r"\s*(?:[-*+•]\s|\d{1,3}[.)]\s|\|)")  # list item or table row
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*_]*(?=\s)|[。！？]+")
_NO_END = re.compile(  # a full stop that ends no sentence: an abbreviation, an initial, a list number
    r"(?:.*\b(?:mr|mrs|ms|dr|prof|st|no|nr|vs|etc|approx|e\.g|i\.e|cf|fig|inc|ltd|[a-z])|\s*\d{1,3})\.",
    re.I | re.S,
)


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: ``text == document_text[start:end]``.

    ``heading`` is the path of headings above it, joined with “ › ”, or "".
    """

    document: str
    start: int
    end: int
    text: str
    heading: str = ""

    @property
    def full_text(self) -> str:
        """Heading and text: what is embedded and searched."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


@dataclass(frozen=True)
class _Unit:
    start: int
    end: int
    tokens: int


def chunks(
    document: Document, count_tokens: CountTokens, max_tokens: int = 200, overlap_tokens: int = 30
) -> list[Chunk]:
    """Cut a document.

    Args:
        document: the text, with any line ending.
        count_tokens: tokens of a string as the embedding model counts them.
        max_tokens: most tokens of a chunk with its heading.
        overlap_tokens: the last sentences of a chunk stand again at the start of the next one in the
            same section, up to so many tokens.

    Raises:
        ValueError: the sizes make no sense (``max_tokens`` < 8, or the overlap is more than half of it).
    """
    if max_tokens < 8 or not 0 <= overlap_tokens <= max_tokens // 2:
        raise ValueError(f"max_tokens={max_tokens} with overlap_tokens={overlap_tokens} makes no sense")
    result = []
    for heading, paragraphs in _sections(document.text):
        room = max_tokens - (count_tokens(heading) if heading else 0)
        if room < max_tokens // 2:  # an endless heading must not starve the text
            heading, room = "", max_tokens
        units = [list(_units(document.text, *span, count_tokens, room)) for span in paragraphs]
        for start, end in _pack(units, room, overlap_tokens):
            result.append(Chunk(document.id, start, end, document.text[start:end], heading))
    return result


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans [start, end) of the sentences, list items and table rows of a text, without outer blanks."""
    return [span for paragraph in _paragraphs(text, 0, len(text)) for span in _sentences(text, *paragraph)]


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        newline = text.find("\n", start, end)
        stop = end if newline < 0 else newline + 1
        yield start, stop
        start = stop


def _sections(text: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Heading path and paragraph spans of each section; a heading without a body is its own paragraph."""
    path: list[tuple[int, str]] = []
    heading_span, body_start, fenced = None, 0, False
    position = 0
    for position, stop in _lines(text, 0, len(text)):
        line = text[position:stop] if stop - position < 1_000 else ""
        if _FENCE.match(line):
            fenced = not fenced
        found = None if fenced else _HEADING.match(line.rstrip("\r\n"))
        if not found:
            continue
        yield from _section(text, path, heading_span, body_start, position)
        level = len(found[1])
        path = [(above, title) for above, title in path if above < level] + [(level, found[2])]
        heading_span, body_start = (position, stop), stop
    yield from _section(text, path, heading_span, body_start, len(text))


def _section(text, path, heading_span, start, end) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    paragraphs = list(_paragraphs(text, start, end))
    if paragraphs:
        yield " › ".join(title for _, title in path), paragraphs
    elif heading_span:
        yield " › ".join(title for _, title in path[:-1]), list(_paragraphs(text, *heading_span))


def _paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans between blank lines."""
    first = None
    last = start
    for line_start, line_end in _lines(text, start, end):
        span = _strip(text, line_start, line_end)
        if span is None:
            if first is not None:
                yield first, last
            first = None
            continue
        if first is None:
            first = span[0]
        last = span[1]
    if first is not None:
        yield first, last


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans of sentences in one paragraph; list items and table rows are never joined with others."""
    block = start
    for line_start, line_end in _lines(text, start, end):
        if line_start > block and _OWN_LINE.match(text, line_start, min(line_end, line_start + 20)):
            yield from _prose(text, block, line_start)
            block = line_start
    yield from _prose(text, block, end)


def _prose(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    if text.startswith("|", start):  # a table row is one unit
        found = _strip(text, start, end)
        if found:
            yield found
        return
    for match in _SENTENCE_END.finditer(text, start, end):
        if _NO_END.fullmatch(text, max(start, match.end() - 12), match.end()):
            continue
        span = _strip(text, start, match.end())
        if span:
            yield span
        start = match.end()
    span = _strip(text, start, end)
    if span:
        yield span


def _strip(text: str, start: int, end: int) -> tuple[int, int] | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _units(text: str, start: int, end: int, count_tokens: CountTokens, most: int) -> Iterator[_Unit]:
    for first, last in _sentences(text, start, end):
        for piece in _short_pieces(text, first, last):
            yield from _counted(text, *piece, count_tokens, most)


def _short_pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > _LONGEST_UNIT:
        cut = text.rfind(" ", start + 1, start + _LONGEST_UNIT)
        cut = cut if cut > 0 else start + _LONGEST_UNIT
        span = _strip(text, start, cut)
        if span:
            yield span
        start = cut
    span = _strip(text, start, end)
    if span:
        yield span


def _counted(text: str, start: int, end: int, count_tokens: CountTokens, most: int) -> Iterator[_Unit]:
    tokens = max(1, count_tokens(text[start:end]))
    if tokens <= most or end - start == 1:
        yield _Unit(start, end, tokens)
        return
    middle = (start + end) // 2
    space = text.rfind(" ", start + 1, middle)
    cut = space if space > start + (end - start) // 4 else middle
    for first, last in ((start, cut), (cut, end)):
        span = _strip(text, first, last)
        if span:
            yield from _counted(text, *span, count_tokens, most)


def _pack(paragraphs: list[list[_Unit]], most: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Fill chunks greedily; a paragraph that fits in one chunk is not torn."""
    current: list[_Unit] = []
    fresh = 0  # units of current that no earlier chunk holds
    for paragraph in paragraphs:
        whole = sum(unit.tokens for unit in paragraph)
        for index, unit in enumerate(paragraph):
            needed = whole if index == 0 and whole <= most else unit.tokens
            if fresh and _size(current) + needed > most:
                yield current[0].start, current[-1].end
                current, fresh = _tail(current, min(overlap, most - needed)), 0
            current.append(unit)
            fresh += 1
    if fresh:
        yield current[0].start, current[-1].end


def _size(units: list[_Unit]) -> int:
    return sum(unit.tokens for unit in units)


def _tail(units: list[_Unit], most: int) -> list[_Unit]:
    kept: list[_Unit] = []
    for unit in reversed(units[1:]):
        if _size(kept) + unit.tokens > most:
            break
        kept.insert(0, unit)
    return kept
