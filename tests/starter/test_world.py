import random

import pytest

from playground.starter import world


def scene(noun="apple", style="flat", background="orange"):
    return world.Scene(background, (world.Placed(noun, style, 0.86),))


def test_caption_names_the_object_and_at_times_leaves_out_style_and_colour():
    rng = random.Random(0)
    captions = [world.caption(scene(), rng) for _ in range(400)]
    assert all("an apple" in text for text in captions)
    with_style = sum("flat" in text for text in captions)
    with_colour = sum("orange" in text for text in captions)
    assert 0.75 < with_style / 400 < 0.95
    assert 0.75 < with_colour / 400 < 0.95
    assert len(set(captions)) > 30
    assert not any(" a orange" in text or "  " in text or "{" in text for text in captions)


def test_two_objects_stand_where_the_caption_says():
    rng = random.Random(1)
    seen = set()
    for _ in range(60):
        made = world.pair("cat", "dog", "noto", "blue", rng)
        first, second = made.objects
        seen.add(made.relation)
        if made.relation == "left":
            assert first.x < second.x
        if made.relation == "right":
            assert first.x > second.x
        assert "cat" in world.caption(made, rng)
        assert "dog" in world.caption(made, rng)
    assert seen == {"left", "right", "next"}


def test_a_loose_object_varies_and_a_fixed_one_does_not():
    rng = random.Random(2)
    loose = {world.single("cat", "noto", "red", rng).objects[0].size for _ in range(10)}
    fixed = {world.single("cat", "noto", "red", rng, loose=0).objects[0] for _ in range(10)}
    assert len(loose) == 10
    assert fixed == {world.Placed("cat", "noto", 0.86, 0.0, 0.0)}


def test_held_out_pairs_are_fixed_and_at_most_one_a_name():
    names = [f"n{i}" for i in range(120)]
    pairs = world.held_out(names)
    assert pairs == world.held_out(list(reversed(names)))
    assert len(pairs) == 24
    assert len({noun for noun, _ in pairs}) == 24


def test_holding_out_more_than_one_style_of_a_name_is_refused():
    with pytest.raises(ValueError, match="share"):
        world.held_out(["a", "b"], share=0.9)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("apple", "an apple"), ("unicorn", "a unicorn"), ("ufo", "a ufo"), ("cherries", "cherries"), ("cookie", "a cookie")],
)  # fmt: skip
def test_articles(words, expected):
    assert world.with_article(words) == expected


def test_more_names_come_after_the_picked_ones_without_repeating_an_icon():
    chosen = world.nouns(None, ["abacus", "red-apple", "waving-hand", "woman-astronaut", "anchor"])
    assert list(chosen)[: len(world.NOUNS)] == list(world.NOUNS)
    assert list(chosen)[len(world.NOUNS) :] == ["abacus"]
    assert len(set(world.NOUNS.values())) == len(world.NOUNS)


def test_made_up_words_leave_the_caption_readable():
    rng = random.Random(3)
    changed = [world.distracted("a cat on blue", rng, share=1.0) for _ in range(20)]
    assert all(len(text.split()) == 5 for text in changed)
    assert all([w for w in text.split() if w in ("a", "cat", "on", "blue")][-3:] == ["cat", "on", "blue"] for text in changed)  # fmt: skip
    assert world.distracted("a cat", rng, share=0.0) == "a cat"
