"""Subjects and styles: what an image model is adapted to. The image side's tasks.

A subject is a folder: ``subject.toml`` (title, kind, token, class word, prompts, licence, captions …),
``train/*.png`` and ``held_out/*.png``. Bundled ones lie in ``assets/subjects``, visitors' own in the
settings' subjects folder.
"""

import hashlib
import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from playground.data import tasks
from playground.data.upload import slug
from playground.errors import InvalidInput, StoreError
from playground.settings import ASSETS, Settings

if TYPE_CHECKING:
    from PIL.Image import Image

BUNDLED = ASSETS / "subjects"
SPLITS = ("train", "held_out")
KINDS = ("subject", "style")
SUBJECT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
STORED_EDGE = 1024  # a visitor's photo is kept as a square of at most this many pixels

# Contexts of a visitor's own subject where none are written; the starter model knows all their words.
PROMPTS = (
    "a {} on a blue background",
    "a {} on a yellow background",
    "a photo of a {} on a green background",
    "a sticker of a {} on a white background",
)
STYLE_PROMPTS = (
    "a cat on a blue background",
    "an apple on a yellow background",
    "a house on a white background",
    "a rocket on a pink background",
)


@dataclass(frozen=True)
class Picture:
    """One picture of a subject. An empty ``caption`` stands for the subject's own words."""

    id: str
    path: Path
    caption: str = ""


@dataclass(frozen=True)
class Subject:
    """What an image model learns: a subject under a rare word and its class, or a style under a rare word.

    Methods train on ``train`` only; fidelity is measured against ``held_out``.

    Attributes:
        token: the rare word, e.g. "zwx".
        class_word: what the subject is, e.g. "robot"; for a style what plain pictures are called.
        prompts: contexts to draw in. Of a subject "a {} on a blue background", where {} becomes the phrase;
            of a style "a cat on a blue background", to which the phrase is added.
        class_prompts: what must not change, filled in already: the contexts with the class word alone.
        data_hash: SHA-256 of everything that the model can see.
    """

    id: str
    title: str
    kind: Literal["subject", "style"]
    token: str
    class_word: str
    train: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    prompts: tuple[str, ...]
    class_prompts: tuple[str, ...]
    summary: str = ""
    description: str = ""
    licence: str = ""
    attribution: str = ""
    bundled: bool = True
    data_hash: str = ""
    modality: str = "image"

    @property
    def phrase(self) -> str:
        """How a prompt calls it: "zwx robot", of a style "zwx style"."""
        return f"{self.token} {self.class_word if self.kind == 'subject' else 'style'}"

    def instance_prompt(self, picture: Picture, subject: bool = True) -> str:
        """What the picture shows, in words: its caption, else "a zwx robot" ("a sticker, zwx style").

        Without ``subject`` the class word stands alone: "a robot".
        """
        plain = "a {}" if self.kind == "subject" else with_article(self.class_word)
        return self.context(picture.caption or plain, subject)

    def context(self, prompt: str, subject: bool = True) -> str:
        """A context with the phrase in it or, without ``subject``, with the class word alone.

        "a" and "an" before the gap follow the word that fills it.
        """
        if self.kind == "style":
            return f"{prompt}, {self.phrase}" if subject and self.phrase not in prompt else prompt
        words = self.phrase if subject else self.class_word
        return re.sub(r"\b([Aa])n? \{\}", rf"\g<1>{_n(words)} {{}}", prompt).replace("{}", words)


@dataclass(frozen=True)
class SubjectSummary:
    """What a list of subjects shows. ``train`` and ``held_out`` are counts, ``cover`` a picture of it."""

    id: str
    title: str
    summary: str
    description: str
    kind: str
    token: str
    class_word: str
    train: int
    held_out: int
    licence: str
    bundled: bool
    cover: Path


@dataclass(frozen=True)
class Photo:
    """A visitor's picture on its way into a subject.

    Attributes:
        image: as ``pictures.read_picture`` gives it.
        name: the file's name, for messages.
        caption: what it shows; empty for the subject's own words.
        centre: middle of the square to keep, in shares of width and height.
    """

    image: "Image"
    name: str = ""
    caption: str = ""
    centre: tuple[float, float] = (0.5, 0.5)


def with_article(words: str) -> str:
    """The words after "a" or "an"."""
    return f"a{_n(words)} {words}"


def subjects(
    settings: Settings, kind: str | None = None, bundled: Path = BUNDLED
) -> dict[str, SubjectSummary]:
    """All subjects by id, bundled ones first; with ``kind`` only "subject" or "style".

    A visitor's subject that is broken is left out here: ``subject`` says what is wrong with it.
    """
    found: dict[str, SubjectSummary] = {}
    for root in (bundled, folder_of(settings)):
        for path in sorted(root.glob("*/subject.toml")) if root.is_dir() else ():
            folder = path.parent
            if not SUBJECT_ID.fullmatch(folder.name) or folder.name in found:
                continue
            try:
                one = _subject(folder, root == bundled, _stamp(folder))
            except InvalidInput:
                if root == bundled:
                    raise
                continue
            if kind in (None, one.kind):
                found[one.id] = _summary(one)
    return found


def subject(id: str, settings: Settings, bundled: Path = BUNDLED) -> Subject:
    """The subject with that id, read and validated; kept until its files change.

    Raises:
        InvalidInput: there is none, or a file of it is wrong; names the file.
    """
    if SUBJECT_ID.fullmatch(id):
        for root in (bundled, folder_of(settings)):
            folder = root / id
            if (folder / "subject.toml").is_file():
                return _subject(folder, root == bundled, _stamp(folder))
    raise InvalidInput(
        f"There is no subject “{id}”. Subjects: {', '.join(subjects(settings, bundled=bundled)) or 'none'}.",
        field="subject",
    )


def read(folder: Path, bundled: bool = True) -> Subject:
    """Read and validate the subject in ``folder``; its id is the folder's name.

    Raises:
        InvalidInput: a file is missing or wrong; names the file.
    """
    head = _head(folder)
    captions = head.pop("captions")
    pictures = {split: _pictures(folder, split, captions) for split in SPLITS}
    known = {f"{split}/{picture.path.name}" for split in SPLITS for picture in pictures[split]}
    if unknown := sorted(set(captions) - known):
        raise InvalidInput(
            f"{folder.name}/subject.toml has a caption for {unknown[0]}, but there is no such picture."
        )
    found = Subject(id=folder.name, **head, **pictures, bundled=bundled)
    validate(found)
    filled = tuple(found.context(prompt, subject=False) for prompt in found.class_prompts or found.prompts)
    found = replace(found, class_prompts=filled)
    return replace(found, data_hash=data_hash(found))


def data_hash(subject: Subject) -> str:
    """SHA-256 (hex) of all that the model can see: words, and the pictures' pixels.

    Raises:
        InvalidInput: a picture cannot be read; names the file.
    """
    from playground.data.pictures import read_picture

    seen: dict[str, Any] = {
        key: getattr(subject, key) for key in ("kind", "token", "class_word", "prompts", "class_prompts")
    }
    for split in SPLITS:
        seen[split] = []
        for picture in getattr(subject, split):
            image = read_picture(picture.path)
            pixels = hashlib.sha256(image.tobytes()).hexdigest()
            seen[split].append((picture.id, subject.instance_prompt(picture), image.size, pixels))
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def validate(subject: Subject) -> None:
    """Check the words of a subject.

    Raises:
        InvalidInput: says what is wrong; ``field`` names the form's field.
    """
    if not re.fullmatch(r"[^\W_]{2,24}", subject.token):
        raise InvalidInput(
            f"The rare word “{subject.token}” must be one word of 2 to 24 letters and digits.", field="token"
        )
    if not re.fullmatch(r"[^\W_]+([ -][^\W_]+){0,3}", subject.class_word) or len(subject.class_word) > 40:
        raise InvalidInput(
            f"The class “{subject.class_word}” must be a plain name such as “robot”, of at most four words.",
            field="class_word",
        )
    if subject.token.lower() in subject.class_word.lower().split():
        raise InvalidInput("The rare word must not be a word of the class.", field="token")
    if not subject.train:
        raise InvalidInput(f"{subject.title or subject.id} has no training picture.", field="pictures")
    if not subject.prompts:
        raise InvalidInput(f"{subject.title or subject.id} has no prompt.", field="prompts")
    for prompt in subject.prompts:
        if subject.kind == "subject" and "{}" not in prompt:
            raise InvalidInput(f"The prompt “{prompt}” needs {{}} where the subject stands.", field="prompts")
        if subject.kind == "style" and "{}" in prompt:
            raise InvalidInput(f"The prompt “{prompt}” of a style must not hold {{}}.", field="prompts")


def save_subject(
    settings: Settings,
    *,
    title: str,
    kind: Literal["subject", "style"],
    token: str,
    class_word: str,
    train: Sequence[Photo],
    held_out: Sequence[Photo] = (),
    prompts: Sequence[str] = (),
    class_prompts: Sequence[str] = (),
    summary: str = "",
    replace_own: bool = False,
    bundled: Path = BUNDLED,
) -> Subject:
    """Keep a visitor's own subject in the settings' subjects folder, whole or not at all.

    Photos are cropped to squares of at most ``STORED_EDGE`` pixels and saved without any metadata.

    Raises:
        InvalidInput: a word, a prompt or the number of pictures is wrong, or the title is taken.
        StoreError: the disk is full or not writable.
    """
    from playground.data.pictures import check_count

    title = " ".join(title.split())
    if not title or len(title) > 80:
        raise InvalidInput("Give it a title of at most 80 characters.", field="title")
    if kind not in KINDS:
        raise InvalidInput(f"The kind must be one of {', '.join(KINDS)}.", field="kind")
    for problem in check_count(len(train), len(held_out), kind):
        if problem.severe:
            raise InvalidInput(problem.message, field="pictures")
    prompts = tuple(" ".join(prompt.split()) for prompt in prompts if prompt.strip())
    class_prompts = tuple(" ".join(prompt.split()) for prompt in class_prompts if prompt.strip())
    _check_texts(
        settings, (summary, *prompts, *class_prompts, *(photo.caption for photo in (*train, *held_out)))
    )
    made = Subject(
        id=slug(title),
        title=title,
        kind=kind,
        token=token.strip(),
        class_word=" ".join(class_word.split()),
        train=tuple(_planned("train", number, photo) for number, photo in enumerate(train, 1)),
        held_out=tuple(_planned("held_out", number, photo) for number, photo in enumerate(held_out, 1)),
        prompts=prompts or (PROMPTS if kind == "subject" else STYLE_PROMPTS),
        class_prompts=class_prompts,
        summary=summary.strip() or f"{len(train)} pictures of your own",
        bundled=False,
    )
    validate(made)
    _keep(made, {"train": train, "held_out": held_out}, settings, replace_own, bundled)
    return subject(made.id, settings, bundled)


def delete_subject(id: str, settings: Settings) -> None:
    """Remove a visitor's own subject.

    Raises:
        InvalidInput: there is no own subject with that id.
    """
    folder = folder_of(settings) / id
    if not SUBJECT_ID.fullmatch(id) or not (folder / "subject.toml").is_file():
        raise InvalidInput(f"You have no subject “{id}” that could be deleted.", field="subject")
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"The subject could not be deleted from {folder}: {error.strerror}.") from None


def folder_of(settings: Settings) -> Path:
    """Where visitors' own subjects lie."""
    return settings.home / "subjects"


def _planned(split: str, number: int, photo: Photo) -> Picture:
    return Picture(f"{split}-{number:02}", Path(split) / f"{number:02}.png", " ".join(photo.caption.split()))


def _check_texts(settings: Settings, texts: Sequence[str]) -> None:
    for text in texts:
        if len(text) > settings.max_prompt_characters:
            raise InvalidInput(
                f"A text has {len(text):,} characters; at most {settings.max_prompt_characters:,} can be used.",
                field="prompts",
            )
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InvalidInput("A text holds half of a Unicode character. Type it again.", field="prompts")


def _keep(
    made: Subject, photos: dict[str, Sequence[Photo]], settings: Settings, replace_own: bool, bundled: Path
) -> None:
    """Write the subject beside its place, read it back, and only then move it there."""
    if (bundled / made.id).exists():
        raise InvalidInput(f"“{made.id}” is a bundled subject. Choose another title.", field="title")
    _refuse_tasks_name(made.id, settings)
    root = folder_of(settings)
    folder = root / made.id
    if folder.exists() and not replace_own:
        raise InvalidInput(f"You already have a subject “{made.id}”. Choose another title.", field="title")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".", ignore_cleanup_errors=True) as beside:
            new = Path(beside) / made.id
            _write(made, photos, new)
            read(new, bundled=False)
            if folder.exists():
                folder.rename(Path(beside) / "old")
            new.rename(folder)
    except OSError as error:
        raise StoreError(f"The subject could not be saved in {root}: {error.strerror}.") from None


def _refuse_tasks_name(id: str, settings: Settings) -> None:
    """A name stands for one thing: the command line tells pictures from texts by it."""
    if (tasks.BUNDLED / id).exists():
        raise InvalidInput(f"“{id}” is a bundled task. Choose another title.", field="title")
    if (settings.tasks / id).exists():
        raise InvalidInput(f"You already have a task “{id}”. Choose another title.", field="title")


def _write(subject: Subject, photos: dict[str, Sequence[Photo]], folder: Path) -> None:
    from playground.data.pictures import crop, save_png

    captions = {}
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        for picture, photo in zip(getattr(subject, split), photos[split], strict=True):
            edge = min(STORED_EDGE, *photo.image.size)
            save_png(crop(photo.image, edge, photo.centre), folder / picture.path)
            if picture.caption:
                captions[picture.path.as_posix()] = picture.caption
    keys = (*TEXT_KEYS, *(key for key in DEFAULTS if key != "captions"))
    head = "".join(f"{key} = {_toml(getattr(subject, key))}\n" for key in keys)
    table = "".join(f"{_toml(name)} = {_toml(caption)}\n" for name, caption in captions.items())
    text = head + (f"\n[captions]\n{table}" if table else "")
    (folder / "subject.toml").write_text(text, encoding="utf-8", newline="\n")


def _toml(value: str | Sequence[str]) -> str:
    """A text or a list of texts in TOML: JSON's escapes are TOML's, but for DEL."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(_toml(text) for text in value)}]"


def _n(words: str) -> str:
    return "n" if words[:1].lower() in set("aeiou") and not words.startswith(("uni", "ufo", "eu")) else ""


def _summary(subject: Subject) -> SubjectSummary:
    return SubjectSummary(
        **{
            key: getattr(subject, key)
            for key in (
                "id",
                "title",
                "summary",
                "description",
                "kind",
                "token",
                "class_word",
                "licence",
                "bundled",
            )
        },
        train=len(subject.train),
        held_out=len(subject.held_out),
        cover=subject.train[0].path,
    )


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of a subject's files: changes when the subject does."""
    paths = [folder / "subject.toml", *(path for split in SPLITS for path in _paths(folder, split))]
    stats = [(str(path.relative_to(folder)), path.stat()) for path in paths if path.exists()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


@lru_cache(maxsize=64)
def _subject(folder: Path, bundled: bool, stamp: tuple) -> Subject:
    return read(folder, bundled)


def _paths(folder: Path, split: str) -> list[Path]:
    return sorted((folder / split).glob("*.png"))


def _pictures(folder: Path, split: str, captions: dict[str, str]) -> tuple[Picture, ...]:
    return tuple(
        Picture(f"{split}-{path.stem}", path, captions.get(f"{split}/{path.name}", ""))
        for path in _paths(folder, split)
    )


TEXT_KEYS = ("title", "kind", "token", "class_word")
DEFAULTS: dict[str, Any] = {
    "summary": "",
    "description": "",
    "prompts": (),
    "class_prompts": (),
    "licence": "",
    "attribution": "",
    "captions": {},
}


def _head(folder: Path) -> dict[str, Any]:
    """The checked contents of ``subject.toml``, with defaults filled in."""
    name = f"{folder.name}/subject.toml"
    try:
        values = tomllib.loads((folder / "subject.toml").read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{name} is not valid TOML: {error}.") from None
    for key in TEXT_KEYS:
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise InvalidInput(f"{name} needs a text “{key}”.")
    if values["kind"] not in KINDS:
        raise InvalidInput(f"{name}: kind must be one of {', '.join(KINDS)}.")
    if unknown := set(values) - set(DEFAULTS) - set(TEXT_KEYS):
        raise InvalidInput(f"{name} has unknown keys: {', '.join(sorted(unknown))}.")
    values = DEFAULTS | values
    for key in ("summary", "description", "licence", "attribution"):
        if not isinstance(values[key], str):
            raise InvalidInput(f"{name}: {key} must be a text.")
    for key in ("prompts", "class_prompts"):
        if not isinstance(values[key], list | tuple) or not all(
            isinstance(text, str) for text in values[key]
        ):
            raise InvalidInput(f"{name}: {key} must be a list of texts.")
        values[key] = tuple(values[key])
    captions = values["captions"]
    if not isinstance(captions, dict) or not all(isinstance(text, str) for text in captions.values()):
        raise InvalidInput(f"{name}: captions must be a table of texts.")
    return values
