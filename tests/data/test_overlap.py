"""Copies, near-copies, contradictions and leaks, on small tasks and on large ones."""

import random
import time
from dataclasses import replace

import pytest
import tiny

from playground.data import overlap as module
from playground.data.overlap import NEAR, Pair, normal, overlap, words
from playground.data.tasks import Item

LONG = "please send my parcel to the new address because we moved house last week and nobody ever told your courier about it"


def made(train, dev=(), test=()):
    splits = {"train": train, "dev": dev, "test": test}
    items = {
        split: tuple(Item(f"{split}-{at}", text, target) for at, (text, target) in enumerate(texts))
        for split, texts in splits.items()
    }
    return replace(tiny.task(), **items)


def test_nothing_is_found_where_nothing_is():
    found = overlap(made([("one two three", "north"), ("four five six", "south")], [("seven red", "east")]))
    assert found == module.Overlap()


def test_copies_differ_in_case_space_and_form_only():
    found = overlap(made([("Ｈello  there", "north"), ("hello THERE", "north"), ("hello where", "north")]))
    assert found.duplicates == [Pair("train-0", "train-1", 1.0, True)]
    assert found.near == [] and found.conflicts == []


def test_the_same_text_with_another_answer_is_a_conflict():
    found = overlap(made([("go", "north"), ("Go", "south"), ("go", "north")]))
    assert found.conflicts == [Pair("train-0", "train-1", 1.0, True)]
    assert found.duplicates == [Pair("train-0", "train-2", 1.0, True)]


def test_near_copies_share_nine_words_of_ten():
    near, far = LONG.replace("courier", "driver"), LONG.replace("courier", "driver").replace("house", "flat")
    found = overlap(made([(LONG, "north"), (near, "north"), (far, "south")]))
    pairs = {(pair.first, pair.second) for pair in found.near}
    assert ("train-0", "train-1") in pairs and ("train-0", "train-2") not in pairs
    assert all(NEAR <= pair.similarity < 1 for pair in found.near)


def test_leaks_are_named_by_the_ids_of_both():
    found = overlap(
        made(
            [(LONG, "north"), ("red", "east")],
            dev=[("Red", "east")],
            test=[(LONG + "!", "north"), ("x", "south")],
        )
    )
    assert found.train_dev == [Pair("train-1", "dev-0", 1.0, True)]
    assert [(pair.first, pair.second, pair.exact) for pair in found.train_test] == [
        ("train-0", "test-0", False)
    ]


def test_every_near_pair_is_found():
    """Against comparing all with all."""
    rng = random.Random(0)
    texts = []
    for _ in range(60):
        base = [f"w{rng.randrange(40)}" for _ in range(rng.randrange(1, 30))]
        texts += [" ".join(base), " ".join(w for w in base if rng.random() > 0.06) or "x"]
    task = made([(text, "north") for text in texts])
    first = {}
    unique = [item for item in task.train if first.setdefault(normal(item.input), item) is item]
    expected = set()
    for at, one in enumerate(unique):
        for other in unique[:at]:
            a, b = words(one.input), words(other.input)
            if len(a & b) >= NEAR * len(a | b) and a:
                expected.add((other.id, one.id))
    assert {(pair.first, pair.second) for pair in overlap(task).near} == expected != set()


@pytest.mark.parametrize("text", ["", "!!!", "…", "<b>&amp;</b>", "日本語の文章です", "\x00"])
def test_odd_texts_are_compared(text):
    found = overlap(made([(text, "north"), (text, "north"), ("other", "south")]))
    assert len(found.duplicates) == 1 and found.near == []


def test_scripts_without_spaces_have_words():
    assert len(words("日本語の文章")) == 6


def test_an_empty_task_has_no_overlap():
    assert overlap(made([])) == module.Overlap()


def test_large_tasks_end_soon_and_say_that_a_part_was_looked_at():
    rng = random.Random(0)
    stem = " ".join(f"word{at}" for at in range(16))
    many = [(f"{stem} {rng.random()} {rng.random()}", "north") for _ in range(100_000)]
    many += [("twin", "north"), ("twin", "north")]
    task = made(many)
    start = time.process_time()
    found = overlap(task)
    assert time.process_time() - start < 20
    assert not found.whole
    assert len(found.duplicates) == 1  # exact copies are found among all


def test_endless_pairs_are_cut(monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 10)
    found = overlap(made([(f"{LONG} {at}", "north") for at in range(100)]))
    assert 10 <= len(found.near) < 200 and not found.whole
