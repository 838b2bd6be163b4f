"""Chunks: exact spans, bounded sizes, nothing lost, whatever the text looks like."""

import time

import pytest

from playground.data.chunks import chunks, sentences
from playground.data.tasks import Document

HANDBOOK = """# Fares

Single tickets cost £6.40. Mr. Pryce sells them, e.g. at the quay.
Day Rovers cost £14.50!

| Ticket | Adult |
|---|---|
| Single | £6.40 |

## Dogs

1. Dogs go free.
2. Cats do not.

### Exceptions
```
# not a heading
```
## Empty
"""
TEXTS = {
    "handbook": HANDBOOK,
    "crlf": HANDBOOK.replace("\n", "\r\n"),
    "unicode": "Ωmega 🙂🙂 naïve. Ça va? 日本語の文です。次の文。 العربية هنا. " * 30,
    "one line": "word " * 20_000,
    "no space": "x" * 30_000,
    "blank lines": "\n\n \n\n" * 500 + "end",
    "html": "<script>alert(1)</script>\n\n<p>Hello & goodbye</p>",
    "long heading": "# " + "title " * 200 + "\nbody",
}


def count(text):
    return max(len(text.split()), len(text) // 12)


@pytest.mark.parametrize("name", TEXTS)
def test_spans_are_exact_and_sizes_hold(name):
    text = TEXTS[name]
    found = chunks(Document("d", text), count, max_tokens=40, overlap_tokens=10)
    assert found
    for chunk in found:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip()
        assert count(chunk.text) <= 40 + 1
        assert chunk.document == "d"


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_is_lost(name):
    text = TEXTS[name]
    found = chunks(Document("d", text), count, max_tokens=40, overlap_tokens=0)
    held = set()
    for chunk in found:
        assert held.isdisjoint(range(chunk.start, chunk.end))
        held.update(range(chunk.start, chunk.end))
    lost = "".join(c for i, c in enumerate(text) if i not in held and not c.isspace())
    in_headings = "".join(chunk.heading for chunk in found)
    assert set(lost) <= set(in_headings + "#")


def test_headings_make_a_path():
    found = chunks(Document("d", HANDBOOK), count, max_tokens=60, overlap_tokens=0)
    by_heading = {chunk.heading: chunk.text for chunk in found if chunk.text != "## Empty"}
    assert by_heading["Fares › Dogs"] == "1. Dogs go free.\n2. Cats do not."
    assert "# not a heading" in by_heading["Fares › Dogs › Exceptions"]
    assert by_heading["Fares"].startswith("Single tickets")
    assert any(chunk.text == "## Empty" for chunk in found)


def test_overlap_repeats_the_last_sentence_in_the_same_section_only():
    text = "# A\n" + " ".join(f"Sentence number {i} is here." for i in range(20)) + "\n# B\nOther text."
    found = chunks(Document("d", text), count, max_tokens=21, overlap_tokens=5)
    first, second = found[0], found[1]
    assert second.start < first.end
    assert text[second.start : first.end].endswith("is here.")
    assert found[-1].text == "Other text."


def test_a_paragraph_that_fits_is_not_torn():
    paragraphs = ["One two three four five. Six seven.", "A b c d. E f g h i j.", "K l m. N o p q r s t u."]
    found = chunks(Document("d", "\n\n".join(paragraphs)), lambda t: len(t.split()), 12, 0)
    assert [chunk.text for chunk in found] == paragraphs


def test_empty_document_has_no_chunks():
    assert chunks(Document("d", " \r\n "), count) == []


@pytest.mark.parametrize(("size", "overlap"), [(4, 0), (40, 30), (40, -1)])
def test_sizes_that_make_no_sense(size, overlap):
    with pytest.raises(ValueError, match="makes no sense"):
        chunks(Document("d", "text"), count, size, overlap)


def test_sentences_keep_abbreviations_numbers_and_list_items_whole():
    text = "Mr. Pryce paid £6.40. Why? See e.g. Dr. Holm.\n1. First item.\n2. Second item."
    assert [text[a:b] for a, b in sentences(text)] == [
        "Mr. Pryce paid £6.40.",
        "Why?",
        "See e.g. Dr. Holm.",
        "1. First item.",
        "2. Second item.",
    ]


def test_five_megabytes_take_seconds():
    text = ("A sentence of some words is here. Another follows! " * 30 + "\n\n## Head\n\n") * 3200
    for big in (text[:5_000_000], "y" * 5_000_000, "\n" * 5_000_000):
        begun = time.process_time()
        chunks(Document("d", big), lambda t: len(t) // 5)
        assert time.process_time() - begun < 30  # a few seconds; quadratic work would take hours
