"""Checks on the handbook data set: counts, evidence spans, overlap between the splits."""

import collections
import difflib
import json
import re
import string
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "assets" / "tasks" / "handbook"
REFUSAL = "The handbook does not say."
SPLITS = ("train", "dev", "test")
COUNTS = {
    "train": {"train": 104, "unanswerable": 16},
    "dev": {"covered": 10, "documents": 20, "unanswerable": 10},
    "test": {"covered": 60, "documents": 90, "unanswerable": 50},
}
FIELDS = {"id", "input", "target", "accept", "group", "evidence"}


def read(path):
    return path.read_bytes().decode("utf-8")


def rows_of(split):
    return [json.loads(line) for line in read(ROOT / f"{split}.jsonl").splitlines()]


DOCUMENTS = {path.stem: read(path) for path in sorted((ROOT / "documents").glob("*.md"))}
ROWS = {split: rows_of(split) for split in SPLITS}
ALL = [row for split in SPLITS for row in ROWS[split]]


def normalise(text):
    """Lower case, without punctuation and articles; a pound sign stays."""
    dropped = set(string.punctuation) | set("–—‘’“”")
    words = "".join(c for c in text.lower() if c not in dropped).split()
    return " ".join(word for word in words if word not in {"a", "an", "the"})


def words_of(text):
    return re.findall(r"[\w'’]+", text.lower())


def trigrams(text):
    words = words_of(text)
    if len(words) < 3:
        return {tuple(words)}
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def test_task_file():
    task = tomllib.loads(read(ROOT / "task.toml"))
    assert task["id"] == "handbook"
    assert task["refusal"] == REFUSAL
    assert REFUSAL in task["instruction"]
    assert task["groups"] == ["covered", "documents", "unanswerable"]
    assert task["answer"] == "free"
    assert task["metric"] == "token_f1"


def test_documents():
    assert len(DOCUMENTS) >= 16
    assert sum(len(words_of(text)) for text in DOCUMENTS.values()) >= 8000
    for name, text in DOCUMENTS.items():
        assert re.fullmatch(r"\d\d-[a-z-]+", name)
        assert text.startswith("# ")
        assert "\r" not in text


@pytest.mark.parametrize("split", SPLITS)
def test_counts_by_group(split):
    assert collections.Counter(row["group"] for row in ROWS[split]) == COUNTS[split]


def test_fields_and_ids():
    for split in SPLITS:
        for row in ROWS[split]:
            assert set(row) - {"covers"} == FIELDS
            assert re.fullmatch(rf"{split}-\d\d\d", row["id"])
            assert row["input"] == row["input"].strip() and row["input"]
            assert ("covers" in row) == (row["group"] == "covered")
    assert len({row["id"] for row in ALL}) == len(ALL)
    assert len({normalise(row["input"]) for row in ALL}) == len(ALL)


def test_evidence_holds_the_answer():
    for row in ALL:
        if row["group"] == "unanswerable":
            continue
        assert row["evidence"], row["id"]
        forms = [normalise(form) for form in [row["target"], *row["accept"]]]
        assert all(forms), row["id"]
        found = False
        for span in row["evidence"]:
            text = DOCUMENTS[span["document"]]
            assert 0 <= span["start"] < span["end"] <= len(text), row["id"]
            quote = text[span["start"] : span["end"]]
            assert 10 <= len(quote) <= 400, row["id"]
            assert quote == quote.strip() and "\n" not in quote, row["id"]
            padded = f" {normalise(quote)} "
            found = found or any(f" {form} " in padded for form in forms)
        assert found, row["id"]


def test_unanswerable_items():
    for row in ALL:
        if row["group"] == "unanswerable":
            assert row["target"] == REFUSAL
            assert row["accept"] == []
            assert row["evidence"] == []
        else:
            assert row["target"] != REFUSAL


def test_answers_are_short():
    for row in ALL:
        for form in [row["target"], *row["accept"]]:
            assert 1 <= len(form.split()) <= 8, row["id"]
        assert row["target"] not in row["accept"], row["id"]


def test_covered_items_point_to_train():
    train = {row["id"]: row for row in ROWS["train"]}
    for split in ("dev", "test"):
        covered = [row for row in ROWS[split] if row["group"] == "covered"]
        assert len({row["covers"] for row in covered}) == len(covered)
        for row in covered:
            documents = {span["document"] for span in row["evidence"]}
            other = {span["document"] for span in train[row["covers"]]["evidence"]}
            assert documents & other, row["id"]


def test_document_items_use_evidence_unseen_in_train():
    seen = {(span["document"], span["start"]) for row in ROWS["train"] for span in row["evidence"]}
    for row in ROWS["test"] + ROWS["dev"]:
        if row["group"] == "documents":
            for span in row["evidence"]:
                assert (span["document"], span["start"]) not in seen, row["id"]


def near_copy(left, right):
    ratio = difflib.SequenceMatcher(None, left.lower(), right.lower(), autojunk=False)
    if ratio.real_quick_ratio() >= 0.8 and ratio.quick_ratio() >= 0.8 and ratio.ratio() >= 0.8:
        return True
    first, second = trigrams(left), trigrams(right)
    return len(first & second) / len(first | second) >= 0.5


def test_no_near_copies_between_splits():
    pairs = [
        (row["id"], other["id"])
        for split, earlier in (("test", ("train", "dev")), ("dev", ("train",)))
        for row in ROWS[split]
        for name in earlier
        for other in ROWS[name]
        if near_copy(row["input"], other["input"])
    ]
    assert pairs == []


@pytest.mark.parametrize("split", SPLITS)
def test_openings_vary(split):
    openings = collections.Counter(" ".join(row["input"].lower().split()[:2]) for row in ROWS[split])
    assert max(openings.values()) <= 0.12 * len(ROWS[split]), openings.most_common(3)
