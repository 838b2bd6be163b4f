"""Checks on the files of the support-desk task: counts, balance, distinct texts, no leaks."""

import json
import re
import tomllib
from collections import Counter
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "tasks" / "support-desk"
SIZES = {"train": 120, "dev": 40, "test": 200}
MIN_WORDS, MAX_WORDS = 4, 70


def read(split):
    text = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def words(text):
    return re.findall(r"[\w']+", text.lower())


def trigrams(tokens):
    return {tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)}


def jaccard(a, b):
    return len(a & b) / len(a | b) if a or b else 0.0


TASK = tomllib.loads((FOLDER / "task.toml").read_text(encoding="utf-8"))
SPLITS = {split: read(split) for split in SIZES}
EVERY = [row for rows in SPLITS.values() for row in rows]


def near_copy(a, b):
    """Whether two messages share most of their wording (with the cheap test first)."""
    words_a, words_b = words(a), words(b)
    if jaccard(set(words_a), set(words_b)) < 0.25:
        return False
    if jaccard(trigrams(words_a), trigrams(words_b)) >= 0.3:
        return True
    return SequenceMatcher(None, a.lower(), b.lower(), autojunk=False).ratio() >= 0.75


def test_task_file():
    assert TASK["id"] == FOLDER.name
    assert TASK["modality"] == "text"
    assert TASK["answer"] == "label"
    assert TASK["metric"] == "accuracy"
    labels = TASK["labels"]
    assert len(labels) == len(set(labels)) == 8
    assert len({label[0] for label in labels}) == 8
    assert set(TASK["label_notes"]) == set(labels)
    for label in labels:
        assert label in TASK["instruction"]


@pytest.mark.parametrize("split", SIZES)
def test_counts_and_balance(split):
    rows = SPLITS[split]
    assert len(rows) == SIZES[split]
    counts = Counter(row["target"] for row in rows)
    assert counts == {label: SIZES[split] // 8 for label in TASK["labels"]}


@pytest.mark.parametrize("split", SIZES)
def test_rows(split):
    for number, row in enumerate(SPLITS[split], 1):
        assert set(row) == {"id", "input", "target"}
        assert row["id"] == f"{split}-{number:03d}"
        assert row["input"] == row["input"].strip()


@pytest.mark.parametrize("split", SIZES)
def test_labels_are_mixed(split):
    targets = [row["target"] for row in SPLITS[split]]
    run = longest = 1
    for before, after in zip(targets, targets[1:], strict=False):
        run = run + 1 if before == after else 1
        longest = max(longest, run)
    assert longest <= 5


def test_ids_and_texts_are_unique():
    assert len({row["id"] for row in EVERY}) == len(EVERY)
    assert len({" ".join(words(row["input"])) for row in EVERY}) == len(EVERY)


def test_near_copy_finds_a_changed_word():
    text = "My parcel was meant to come on Monday and it is still not here, where is it?"
    assert near_copy(text, text.replace("Monday", "Tuesday"))


def test_no_near_copies():
    found = [(a["id"], b["id"]) for a, b in combinations(EVERY, 2) if near_copy(a["input"], b["input"])]
    assert found == []


def test_lengths():
    lengths = [len(row["input"].split()) for row in EVERY]
    assert min(lengths) >= MIN_WORDS
    assert max(lengths) <= MAX_WORDS
    assert 25 <= sum(lengths) / len(lengths) <= 35


def test_openings_vary():
    openings = Counter(tuple(words(row["input"])[:3]) for row in EVERY)
    assert openings.most_common(1)[0][1] <= 0.03 * len(EVERY)
    first_words = Counter(words(row["input"])[0] for row in EVERY)
    assert first_words.most_common(1)[0][1] <= 0.15 * len(EVERY)


def test_no_label_name_in_a_message():
    for row in EVERY:
        for label in TASK["labels"]:
            assert label.lower() not in row["input"].lower(), (row["id"], label)
