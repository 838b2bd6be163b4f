"""A visitor's own subject or style: photos in, cropped and checked, with captions and a rare word; kept, used."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.data import rare_tokens, subjects
from playground.data.subjects import Photo
from playground.errors import InvalidInput, ModelUnavailable, PlaygroundError
from playground.models import catalogue
from playground.settings import Settings
from playground.ui import uploads
from playground.ui.components import pictures
from playground.ui.components.markup import notice, safe
from playground.ui.messages import placed, sentence
from playground.ui.session import Session

if TYPE_CHECKING:
    from playground.data.pictures import Problem

ENDINGS = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"]
HEADS = ["Picture", "Caption", "Held out"]
UNKNOWN_EDGE = 512  # pixels that a model draws whose files are not here yet
RARE_WORDS = 12  # offered at a time
MOST_NOTES = 8
READING = Lock()  # transformers breaks when two threads import it for the first time at once
QUICK = {"api_visibility": "private", "show_progress": "hidden"}

WORDS = {
    "subject": {
        "files": (
            "Photos",
            "Three to five of one thing from different sides, and one or two more to hold out.",
        ),
        "title": "Name of the subject",
        "token": "A word that means nothing yet: it will mean your subject.",
        "class": ("Class word", "What it is, in a plain word: robot, mug, dog."),
        "caption": "Captions can stay blank: each photo is then called by the rare word and the class.",
        "contexts": (
            "a {} on a blue background\na sticker of a {} on a white background",
            "{} is the subject.",
        ),
    },
    "style": {
        "files": (
            "Pictures",
            "Ten to forty in one style that show different things, and a few more to hold out.",
        ),
        "title": "Name of the style",
        "token": "A word that means nothing yet: it will mean your style.",
        "class": ("Plain pictures are called", "What they are without the style: sticker, photo, drawing."),
        "caption": "Say what each picture shows (“a cat”), not its style: the style is what is left to learn.",
        "contexts": (
            "a cat on a blue background\na house on a white background",
            "The style is added to each.",
        ),
    },
}


@dataclass(frozen=True)
class Incoming:
    """The pictures of an upload that could be read, and what is to be said about all of them."""

    photos: tuple[Photo, ...]
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def build(session: Session, kind: str, name: str, model: gr.Textbox, chosen: gr.Dropdown) -> None:
    """Draw the panel.

    Args:
        model: holds the image model's id.
        chosen: the list of subjects: a saved one is put into it and chosen.
    """
    words = WORDS[kind]
    with gr.Row(elem_classes="pg-split"):
        with gr.Column(scale=2, min_width=280):
            gr.HTML(f'<p class="pg-about">{safe(words["files"][1])}</p>')
            files = gr.File(
                label=words["files"][0], file_count="multiple", type="filepath", height=150, file_types=ENDINGS,
                elem_id=f"{name}-photos", elem_classes="pg-drop",
            )  # fmt: skip
            with gr.Row(elem_classes="pg-form"):
                title = gr.Textbox(label=words["title"], max_lines=1, min_width=160, elem_id=f"{name}-title")
                class_word = gr.Textbox(
                    label=words["class"][0], info=words["class"][1], max_lines=1, min_width=160,
                    elem_id=f"{name}-class",
                )  # fmt: skip
            with gr.Row(elem_classes="pg-form pg-with-button"):
                token = gr.Textbox(
                    label="Rare word",
                    info=words["token"],
                    max_lines=1,
                    min_width=160,
                    elem_id=f"{name}-token",
                )
                find = gr.Button("Find rare words", size="md", scale=0, elem_id=f"{name}-find")
            offered = gr.Radio([], label="Rare words of this model", visible=False, elem_id=f"{name}-rare")
            parts = gr.HTML(elem_id=f"{name}-parts")
            contexts = gr.Textbox(
                label="Pictures to draw while it learns", info=f"One a line. {words['contexts'][1]} Blank = a usual choice.",
                placeholder=words["contexts"][0], lines=3, max_lines=8, elem_id=f"{name}-contexts",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=280):
            preview = gr.HTML(elem_id=f"{name}-preview")
            table = gr.Dataframe(
                [], headers=HEADS, datatype=["str", "str", "bool"], type="array", column_count=3,
                static_columns=[0], label="Captions", interactive=True, buttons=[], wrap=True, visible=False,
                column_widths=["32%", "46%", "22%"], max_height=320, elem_id=f"{name}-captions",
                elem_classes="pg-captions",
            )  # fmt: skip
            about = gr.HTML()
    found_out = gr.HTML(elem_id=f"{name}-findings")
    told = gr.HTML(elem_id=f"{name}-own-told")
    with gr.Row(elem_classes="pg-buttons"):
        save = gr.Button("Save and choose it", variant="primary", size="md", elem_id=f"{name}-save-own")

    def look(paths, rows, model_id):
        if not paths:
            return "", "", gr.update(value=[], visible=False), ""
        found = read(paths, session.settings)
        fresh = table_of(found.photos, rows, kind)
        train, held = split(found.photos, fresh)
        problems = check(train, held, edge_of(session, model_id), kind)
        explained = f'<p class="pg-muted">{safe(words["caption"])} Held-out pictures are never learned from: fidelity is measured against them.</p>'
        return (
            findings(found, problems),
            shown_photos(found.photos),
            gr.update(value=fresh, visible=bool(fresh)),
            explained if fresh else "",
        )

    def keep(paths, rows, name_given, word, class_given, lines, model_id):
        try:
            if not paths:
                raise InvalidInput("Choose your pictures first.", "pictures")
            found = read(paths, session.settings)
            if found.refused:
                raise InvalidInput(
                    f"{found.refused[0]} Take it out of the list, then save again.", "pictures"
                )
            train, held = split(found.photos, table_of(found.photos, rows, kind))
            problems = check(train, held, edge_of(session, model_id), kind)
            severe = next((one for one in problems if one.severe), None)
            if severe:
                raise InvalidInput(severe.message, "pictures")
            made = subjects.save_subject(
                session.settings, title=name_given or "", kind=kind, token=word or "", class_word=class_given or "",
                train=train, held_out=held, prompts=(lines or "").splitlines(),
            )  # fmt: skip
            uploads.forget(paths)  # they say more than is kept: where and when a photo was taken
        except Exception as error:
            return notice(sentence(error), "bad"), *[gr.skip()] * 5
        known = [(one.title, id) for id, one in session.subjects(kind).items()]
        words_now = f"“{made.title}” is saved: “{made.phrase}”, {len(train)} pictures to learn from, {len(held)} held out."
        return (
            notice(words_now, "good"),
            gr.update(choices=known, value=made.id),
            None,
            gr.update(value=[], visible=False),
            "",
            "",
        )

    def suggest(model_id, class_given):
        try:
            found = rare_words(session, model_id, class_given or "")
        except Exception as error:
            return gr.update(visible=False), notice(sentence(error), "warn")
        return gr.update(choices=found, value=None, visible=True), gr.skip()

    def pick(word):
        return word or gr.skip()

    def explain(word, model_id):
        return explain_word(session, word, model_id)

    files.change(
        placed(look, 4), [files, table, model], [found_out, preview, table, about],
        concurrency_limit=None, **QUICK,
    )  # fmt: skip
    save.click(
        keep, [files, table, title, token, class_word, contexts, model],
        [told, chosen, files, table, preview, about], concurrency_limit=None,
        api_visibility="private", show_progress="minimal",
    )  # fmt: skip
    find.click(
        suggest, [model, class_word], [offered, parts], concurrency_limit=None,
        api_visibility="private", show_progress="minimal",
    )  # fmt: skip
    offered.input(pick, offered, token, queue=False, **QUICK)
    gr.on(
        [token.change, model.change], explain, [token, model], parts, trigger_mode="always_last",
        concurrency_limit=1, **QUICK,
    )  # fmt: skip


# Pictures


def read(paths: Sequence[str], settings: Settings) -> Incoming:
    """Read an upload; what cannot be read is named with its reason instead of ending the rest."""
    from playground.data.pictures import open_picture

    photos, refused, notes = [], [], []
    for path in paths:
        try:
            opened = open_picture(Path(path), Path(path).name, settings)
        except PlaygroundError as error:
            refused.append(str(error))
            continue
        photos.append(Photo(opened.image, Path(path).name))
        notes.extend(opened.notes)
    return Incoming(tuple(photos), tuple(refused), tuple(notes))


def table_of(photos: Sequence[Photo], before: Sequence[Sequence[Any]], kind: str) -> list[list[Any]]:
    """A row a picture: its number and name, caption, whether it is held out. What was typed before stays."""
    typed = {str(row[0]): row for row in before or ()}
    held = held_out_count(len(photos), kind)
    rows = []
    for number, photo in enumerate(photos):
        label = f"{number + 1} · {photo.name}"
        known = typed.get(label)
        rows.append(
            [label, str(known[1] or ""), truth(known[2])]
            if known
            else [label, "", number >= len(photos) - held]
        )
    return rows


def truth(cell: Any) -> bool:
    """What a cell with a box in it says; the table hands it over as a truth value or as its name."""
    return cell is True or str(cell).strip().lower() == "true"


def held_out_count(count: int, kind: str) -> int:
    """How many of ``count`` pictures are held out unless one says otherwise: of a subject 1 or 2, of a style a fifth."""
    if kind == "style":
        return count // 5
    return 0 if count < 4 else 1 if count < 7 else 2


def split(photos: Sequence[Photo], rows: Sequence[Sequence[Any]]) -> tuple[list[Photo], list[Photo]]:
    """The photos with their captions: those to learn from, those held out."""
    parts: tuple[list[Photo], list[Photo]] = ([], [])
    for photo, row in zip(photos, rows, strict=True):
        parts[truth(row[2])].append(Photo(photo.image, photo.name, str(row[1] or "").strip()))
    return parts


def check(train: Sequence[Photo], held_out: Sequence[Photo], edge: int, kind: str) -> "list[Problem]":
    """What is odd about the pictures, the severe first."""
    from playground.data.pictures import check_pictures

    return check_pictures(train, edge, kind, held_out)


def findings(found: Incoming, problems: "Sequence[Problem]") -> str:
    """All that has to be said about an upload, the worst first."""
    lines = [(text, "bad") for text in found.refused]
    lines += [(one.message, "bad" if one.severe else "warn") for one in problems]
    lines += [(text, "warn") for text in found.notes]
    parts = [notice(text, tone) for text, tone in lines[:MOST_NOTES]]
    if len(lines) > MOST_NOTES:
        parts.append(f'<p class="pg-muted">And {len(lines) - MOST_NOTES} more.</p>')
    return f'<div class="pg-notices">{"".join(parts)}</div>' if parts else ""


def shown_photos(photos: Sequence[Photo]) -> str:
    """The pictures as they will be learned: cropped to squares."""
    from playground.data.pictures import crop

    figures = (
        pictures.figure(pictures.encoded(crop(photo.image, pictures.EDGE)), str(number), photo.name)
        for number, photo in enumerate(photos, 1)
    )
    return pictures.gallery(
        "As it will be learned: cropped to a square, without the file's metadata", figures
    )


# Words


def explain_word(session: Session, word: str | None, model_id: str | None) -> str:
    """How the model's tokenizer splits a word, and what that means; the reason where it cannot be told."""
    word = (word or "").strip()
    if not word:
        return ""
    try:
        seen = rare_tokens.look(tokenizer(session, model_id), word, taken(session))
    except Exception as error:
        return f'<p class="pg-muted">{safe(sentence(error))}</p>'
    chips = " ".join(f'<span class="pg-token">{safe(piece)}</span>' for piece in seen.pieces)
    mark = "good" if seen.fit else "bad"
    return f'<p class="pg-split-word">The model reads {chips}<br><span class="pg-{mark}">{safe(seen.message)}</span></p>'


def taken(session: Session) -> set[str]:
    """The rare words that stand for a subject or a style already."""
    return {one.token for one in session.subjects().values()}


def rare_words(session: Session, model_id: str | None, class_word: str) -> list[str]:
    """Words that hardly mean anything to the model, for a new subject to be called by.

    Raises:
        ModelUnavailable: the model's tokenizer is not here.
    """
    known = taken(session) | set(class_word.split())
    return rare_tokens.rare(tokenizer(session, model_id), known, RARE_WORDS)


def tokenizer(session: Session, model_id: str | None) -> Any:
    """The tokenizer of an image model's text encoder, kept once it is read.

    Raises:
        ModelUnavailable: the model is not on this machine, or brings none.
    """
    folder = folder_of(session, model_id)
    if folder is None or not (folder / "tokenizer").is_dir():
        raise ModelUnavailable("How the model reads a word can be shown once the model is on this machine.")
    with READING:
        return _tokenizer(folder / "tokenizer")


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"The model's tokenizer cannot be read: {error}.") from None


def folder_of(session: Session, model_id: str | None) -> Path | None:
    """Where the model's files lie; None where it is not on this machine."""
    from playground.models import sources

    try:
        entry = catalogue.model(model_id or "", session.settings)
    except ModelUnavailable:
        return None
    return sources.locate(entry, session.settings) if sources.at_hand(entry, session.settings) else None


def edge_of(session: Session, model_id: str | None) -> int:
    """The edge in pixels of what the model draws; ``UNKNOWN_EDGE`` where its files do not say."""
    folder = folder_of(session, model_id)
    if folder is None:
        return UNKNOWN_EDGE
    sizes = [_setting(folder / part, "sample_size") for part in ("unet", "transformer")]
    channels = _setting(folder / "vae", "block_out_channels")
    size = next((one for one in sizes if isinstance(one, int)), None)
    return size * 2 ** (len(channels) - 1) if size and channels else UNKNOWN_EDGE


def _setting(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError):
        return None
