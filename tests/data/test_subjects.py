"""Subjects: the bundled ones are whole, visitors' own are kept whole or not at all."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from playground.data import subjects as module
from playground.data.pictures import check_pictures, read_picture
from playground.data.subjects import (
    BUNDLED,
    Photo,
    Subject,
    data_hash,
    delete_subject,
    read,
    save_subject,
    subject,
    subjects,
    with_article,
)
from playground.errors import InvalidInput, StoreError
from playground.settings import Settings
from playground.starter import world


def drawn(seed, size=(80, 60)):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def photos(count, start=0, **more):
    return [Photo(drawn(start + number), f"{number}.jpg", **more) for number in range(count)]


def keep(settings, **changes):
    values = {
        "title": "My lamp",
        "kind": "subject",
        "token": "zwx",
        "class_word": "lamp",
        "train": photos(3),
        "held_out": photos(2, 50),
    }
    return save_subject(settings, **values | changes)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", offline=True)


# --- bundled ones


def test_what_is_bundled():
    found = subjects(Settings())
    assert {id: (one.kind, one.train, one.held_out) for id, one in found.items() if one.bundled} == {
        "backpack": ("subject", 5, 5),
        "mascot": ("subject", 5, 5),
        "outline": ("style", 16, 8),
    }
    assert list(subjects(Settings(), "style")) == ["outline"]
    assert all(
        one.cover.is_file() and one.summary and one.description and one.licence for one in found.values()
    )


@pytest.mark.parametrize("id", ["backpack", "mascot", "outline"])
def test_bundled_pictures_are_sound(id):
    found = read(BUNDLED / id)
    every = (*found.train, *found.held_out)
    opened = [Photo(read_picture(picture.path), picture.id) for picture in every]
    assert check_pictures(opened[: len(found.train)], 64, found.kind, opened[len(found.train) :]) == []
    edge = 256 if found.kind == "subject" else 128
    assert {photo.image.size for photo in opened} == {(edge, edge)}
    assert all(picture.path.stat().st_size < 30_000 for picture in every)
    assert len({picture.id for picture in every}) == len(every)


@pytest.mark.parametrize("id", ["backpack", "mascot", "outline"])
def test_the_starter_model_knows_the_words_of_bundled_subjects(id):
    found = read(BUNDLED / id)
    names = list(world.NOUNS)[:120]
    known = set(world.words(names))
    texts = [found.instance_prompt(picture) for picture in (*found.train, *found.held_out)]
    texts += [*found.class_prompts, *(found.context(prompt) for prompt in found.prompts)]
    words = {word.strip(",") for text in texts for word in text.split()}
    assert words - known == {found.token}
    assert found.class_word in known
    assert (found.class_word in names) == (found.kind == "subject")


def test_each_bundled_token_is_its_own():
    tokens = [one.token for one in subjects(Settings()).values() if one.bundled]
    assert len(set(tokens)) == len(tokens)


def test_the_style_set_says_whose_it_is():
    found = read(BUNDLED / "outline")
    notice = (BUNDLED / "outline" / "NOTICE").read_text(encoding="utf-8")
    assert found.licence == "CC-BY-SA-4.0" and "OpenMoji" in found.attribution
    assert "creativecommons.org/licenses/by-sa/4.0" in notice
    assert all(picture.path.stem in notice for picture in (*found.train, *found.held_out))


# --- words


def test_prompts_of_a_subject():
    found = read(BUNDLED / "mascot")
    assert found.phrase == "zwx alien"
    assert found.context("a {} on a blue background") == "a zwx alien on a blue background"
    assert found.context("a {} on a blue background", subject=False) == "an alien on a blue background"
    assert found.context("An {}", subject=False) == "An alien" and found.context("An {}") == "A zwx alien"
    assert found.context("two {} of {}") == "two zwx alien of zwx alien"
    assert found.instance_prompt(replace(found.train[0], caption="")) == "a zwx alien"
    assert found.instance_prompt(replace(found.train[0], caption="my {} at home")) == "my zwx alien at home"
    assert found.instance_prompt(replace(found.train[0], caption="something else")) == "something else"
    assert found.instance_prompt(found.train[0], subject=False) == "an alien on a blue background"
    assert found.class_prompts[0] == "an alien on a gray background"


def test_prompts_of_a_style():
    found = read(BUNDLED / "outline")
    assert found.phrase == "vyx style"
    assert found.context("an apple on a white background") == "an apple on a white background, vyx style"
    assert found.context("an apple", subject=False) == "an apple"
    assert found.instance_prompt(replace(found.train[0], caption="")) == "a sticker, vyx style"
    assert found.context("an apple in vyx style") == "an apple in vyx style"


def test_articles():
    assert [with_article(word) for word in ("robot", "alien", "umbrella", "unicorn", "ufo")] == [
        "a robot", "an alien", "an umbrella", "a unicorn", "a ufo",
    ]  # fmt: skip


# --- a visitor's own


def test_a_visitors_own_is_kept_and_read(settings):
    kept = keep(
        settings,
        train=[
            Photo(drawn(1, (300, 100)), "wide.jpg", "a {} at <b>night</b> “ö”\n now", (0.0, 0.5)),
            *photos(2, 7),
        ],
        prompts=["a {} on  a blue background", "  "],
        class_prompts=["a lamp, flat style"],
    )
    assert subject("my-lamp", settings) == kept and list(subjects(settings))[-1] == "my-lamp"
    assert (kept.title, kept.token, kept.class_word, kept.bundled) == ("My lamp", "zwx", "lamp", False)
    assert kept.prompts == ("a {} on a blue background",) and kept.class_prompts == ("a lamp, flat style",)
    assert kept.instance_prompt(kept.train[0]) == "a zwx lamp at <b>night</b> “ö” now"
    assert [picture.id for picture in kept.train] == ["train-01", "train-02", "train-03"]
    assert all(picture.path.is_relative_to(settings.home / "subjects" / "my-lamp") for picture in kept.train)
    saved = Image.open(kept.train[0].path)
    assert saved.size == (100, 100)
    assert saved.tobytes() == drawn(1, (300, 100)).crop((0, 0, 100, 100)).tobytes()


def test_large_photos_are_kept_smaller(settings, monkeypatch):
    monkeypatch.setattr(module, "STORED_EDGE", 70)
    kept = keep(settings, train=[Photo(drawn(1, (150, 140)), "l.jpg"), *photos(2)])
    assert Image.open(kept.train[0].path).size == (70, 70)
    assert Image.open(kept.train[1].path).size == (60, 60)


def test_prompts_that_are_not_written_are_filled_in(settings):
    one = keep(settings)
    assert len(one.prompts) == len(one.class_prompts) > 2 and one.class_prompts[0].startswith("a lamp")
    style = keep(settings, title="Ink", kind="style", class_word="picture", train=photos(4))
    assert all("{}" not in prompt for prompt in style.prompts) and style.class_prompts == style.prompts


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"title": "  "}, "title", "title"),
        ({"title": "x" * 81}, "title", "80 characters"),
        ({"title": "Mascot"}, "title", "bundled subject"),
        ({"kind": "video"}, "kind", "subject, style"),
        ({"token": "two words"}, "token", "one word"),
        ({"token": "x"}, "token", "2 to 24"),
        ({"token": "lamp"}, "token", "must not be a word of the class"),
        ({"class_word": ""}, "class_word", "plain name"),
        ({"class_word": "{} lamp"}, "class_word", "plain name"),
        ({"train": []}, "pictures", "at least 1"),
        ({"train": photos(21)}, "pictures", "at most 20"),
        ({"held_out": photos(21)}, "pictures", "At most 20 pictures can be held out"),
        ({"prompts": ["a lamp at home"]}, "prompts", "needs {}"),
        ({"kind": "style", "prompts": ["a {}"]}, "prompts", "must not hold {}"),
        ({"prompts": ["a {}" + " x" * 20_000]}, "prompts", "characters"),
        ({"train": [*photos(2), Photo(drawn(9), caption="half \ud83d")]}, "prompts", "Unicode"),
    ],
)
def test_what_cannot_be_kept_leaves_nothing(settings, changes, field, said):
    with pytest.raises(InvalidInput, match=said) as caught:
        keep(settings, **changes)
    assert caught.value.field == field
    assert not list((settings.home / "subjects").glob("*"))


def test_titles_become_safe_names(settings):
    assert keep(settings, title="../../etc/passwd").id == "etc-passwd"
    assert keep(settings, title="Größe: 3").id == "groe-3"
    assert keep(settings, title="猫").id.startswith("task-")
    assert {path.parent for path in settings.home.rglob("subject.toml")} == {
        settings.home / "subjects" / id for id, one in subjects(settings).items() if not one.bundled
    }


def test_a_taken_title_is_replaced_only_when_asked(settings):
    first = keep(settings)
    with pytest.raises(InvalidInput, match="already have a subject “my-lamp”. Choose another title.$"):
        keep(settings, token="qqx")
    assert subject("my-lamp", settings) == first
    second = keep(settings, token="qqx", train=photos(2), replace_own=True)
    assert subject("my-lamp", settings) == second and len(second.train) == 2
    assert [path.name for path in (settings.home / "subjects").iterdir()] == ["my-lamp"]


def test_a_tasks_name_is_taken(settings):
    (settings.tasks / "my-lamp").mkdir(parents=True)
    for title, words in [("Handbook", "“handbook” is a bundled task"), ("My lamp", "a task “my-lamp”")]:
        with pytest.raises(InvalidInput, match=words) as caught:
            keep(settings, title=title, replace_own=True)
        assert caught.value.field == "title"
    assert not (settings.home / "subjects").exists()


def test_a_save_that_breaks_off_leaves_what_was_there(settings, monkeypatch):
    first = keep(settings)
    from playground.data import pictures

    def full(image, path, written=[]):  # noqa: B006 (counts the calls)
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        image.save(path)

    monkeypatch.setattr(pictures, "save_png", full)
    with pytest.raises(StoreError, match="No space left on device"):
        keep(settings, token="qqx", replace_own=True)
    assert subject("my-lamp", settings) == first
    assert [path.name for path in (settings.home / "subjects").iterdir()] == ["my-lamp"]


def test_deleting(settings):
    keep(settings)
    delete_subject("my-lamp", settings)
    assert "my-lamp" not in subjects(settings) and not list((settings.home / "subjects").iterdir())
    for id in ("my-lamp", "mascot", "..", "../home", ""):
        with pytest.raises(InvalidInput, match="no subject"):
            delete_subject(id, settings)
    assert (BUNDLED / "mascot").is_dir()


# --- what is wrong on disk


def cut(folder):
    path = folder / "train" / "02.png"
    path.write_bytes(path.read_bytes()[:200])


def head(**changes):
    def change(folder):
        values = {"title": "T", "kind": "subject", "token": "zwx", "class_word": "lamp", "prompts": ["a {}"]}
        lines = [
            f"{key} = {json.dumps(value)}" for key, value in (values | changes).items() if value is not None
        ]
        (folder / "subject.toml").write_text("\n".join(lines))

    return change


BROKEN = {
    "cut picture": (cut, "02.png” is damaged"),
    "not TOML": (lambda folder: (folder / "subject.toml").write_text("title = "), "not valid TOML"),
    "not text": (lambda folder: (folder / "subject.toml").write_bytes(b"\xff\xfe"), "not valid TOML"),
    "no pictures": (lambda folder: shutil.rmtree(folder / "train"), "no training picture"),
    "no token": (head(token=None), "needs a text “token”"),
    "bad kind": (head(kind="film"), "kind must be one of"),
    "unknown key": (head(licens="x"), "unknown keys: licens"),
    "bad prompts": (head(prompts=[1]), "prompts must be a list of texts"),
    "bad title": (head(title="  "), "needs a text “title”"),
    "bad summary": (head(summary=3), "summary must be a text"),
    "bad captions": (head(captions="x"), "captions must be a table"),
    "bad token": (head(token="a b"), "one word"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_subject_is_left_out_and_says_why(settings, name):
    keep(settings, title="Fine")
    keep(settings)
    spoil, said = BROKEN[name]
    spoil(settings.home / "subjects" / "my-lamp")
    found = subjects(settings)
    assert "my-lamp" not in found and "fine" in found
    with pytest.raises(InvalidInput, match=said):
        subject("my-lamp", settings)


def test_a_caption_without_its_picture_is_said(settings):
    keep(settings, train=photos(3, caption="a {}"))
    (settings.home / "subjects" / "my-lamp" / "train" / "03.png").unlink()
    with pytest.raises(InvalidInput, match="caption for train/03.png"):
        subject("my-lamp", settings)


def test_an_unknown_subject_names_those_there_are(settings):
    for id in ("nothing", "../mascot", ""):
        with pytest.raises(InvalidInput, match="There is no subject .*mascot"):
            subject(id, settings)


def test_a_broken_bundled_subject_is_not_hidden(settings, tmp_path):
    shutil.copytree(BUNDLED / "mascot", tmp_path / "bundled" / "mascot")
    (tmp_path / "bundled" / "mascot" / "train" / "1.png").write_bytes(b"")
    with pytest.raises(InvalidInput, match="1.png"):
        subjects(settings, bundled=tmp_path / "bundled")


def test_a_changed_file_is_read_again(settings):
    before = keep(settings)
    before.train[0].path.write_bytes(before.train[1].path.read_bytes())
    assert subject("my-lamp", settings).data_hash != before.data_hash


# --- the hash


def variants(found: Subject):
    first = found.train[0]
    yield replace(found, token="other")
    yield replace(found, class_word="other")
    yield replace(found, kind="style")
    yield replace(found, prompts=found.prompts[1:])
    yield replace(found, class_prompts=found.class_prompts[1:])
    yield replace(found, train=found.train[1:])
    yield replace(found, train=(replace(first, caption="a {} elsewhere"), *found.train[1:]))
    yield replace(found, train=(replace(first, path=found.held_out[0].path), *found.train[1:]))
    yield replace(found, held_out=found.held_out[1:])


def test_the_hash_covers_all_that_the_model_sees(settings):
    found = keep(settings)
    hashes = [found.data_hash, *(data_hash(changed) for changed in variants(found))]
    assert len(set(hashes)) == len(hashes)


def test_the_hash_leaves_out_what_the_model_does_not_see(settings):
    found = keep(settings)
    assert (
        data_hash(replace(found, title="T", summary="S", description="D", licence="L", id="x"))
        == found.data_hash
    )
    Image.open(found.train[0].path).save(found.train[0].path, "PNG", compress_level=0)
    assert data_hash(found) == found.data_hash


def test_all_fields_are_kept(settings):
    keep(settings)
    text = (settings.home / "subjects" / "my-lamp" / "subject.toml").read_text(encoding="utf-8")
    assert all(f"{key} = " in text for key in (*module.TEXT_KEYS, *module.DEFAULTS) if key != "captions")
