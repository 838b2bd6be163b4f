"""Which models there are. Cheap to import: nothing heavy is loaded here."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from playground.errors import ModelUnavailable
from playground.settings import Settings

Modality = Literal["text", "image", "embedding"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class Model:
    """A catalogue entry.

    ``parameters`` is a count, ``memory`` the bytes of its float32 weights; both are None where nobody
    counted. ``sources`` are tried in order; each is "path:…", "assets:folder", "package:module:folder",
    "hub:owner/name", or "wheel:distribution==version:file-in-it". ``download`` is the wheel's size in
    bytes, ``sha256`` its hash. ``steps`` and ``guidance`` are what an image model draws with best; None = as
    its family does. ``adapting`` are the bytes that adapting an image model takes at most by method, estimated.
    """

    id: str
    title: str
    repo: str
    revision: str
    licence: str
    parameters: int | None
    modality: Modality
    memory: int | None
    sources: tuple[str, ...] = ()
    sha256: str = ""
    download: int | None = None
    starter: bool = False
    note: str = ""
    steps: int | None = None
    guidance: float | None = None
    adapting: Mapping[str, int] = field(default_factory=dict)


def models(modality: Modality | None = None) -> dict[str, Model]:
    """The catalogue by id, in its order; of one ``modality`` or of all."""
    return {id: entry for id, entry in _catalogue().items() if modality in (None, entry.modality)}


def model(id_or_repo: str, settings: Settings | None = None, modality: Modality = "text") -> Model:
    """The catalogue's entry of that id or repository, or an entry made for a Hub name or a local folder.

    Whether a Hub name exists is found out when it is fetched.

    Args:
        id_or_repo: an id of the catalogue, "owner/name" on the Hub, or a folder with a config.json or, for a
            text-to-image pipeline, a model_index.json.
        settings: with it, the error's message names the models that are at hand here.
        modality: what a Hub name that the catalogue does not have is taken for.

    Raises:
        ModelUnavailable: it is none of these.
    """
    name = id_or_repo.strip()
    for entry in _catalogue().values():
        if name.lower() in (entry.id, entry.repo.lower()):
            return entry
    folder = _folder(name)
    if folder is not None:
        kind = "image" if (folder / "model_index.json").is_file() else "text"
        return _ad_hoc(str(folder), folder.name, f"path:{folder}", kind)
    if _HUB_NAME.fullmatch(name) and ".." not in name and "--" not in name:
        return _ad_hoc(name, name, f"hub:{name}", modality)
    kind = "text-to-image" if modality == "image" else "language"
    raise ModelUnavailable(
        f"There is no model “{name[:100]}”. {offer(settings, modality)} Any {kind} model on the Hugging Face Hub "
        "can be named as owner/name, and a model on this machine by its folder."
    )


def offer(settings: Settings | None, modality: Modality = "text") -> str:
    """A sentence that says which models can be had: those at hand where ``settings`` are given, else all."""
    from playground.models import sources

    entries = models(modality)
    if settings is not None:
        here = [id for id, entry in entries.items() if sources.at_hand(entry, settings)]
        if here:
            return f"At hand here: {', '.join(here)}."
        return f"No model is at hand here yet. The catalogue has {', '.join(entries)}."
    return f"Models: {', '.join(entries)}."


@cache
def _catalogue() -> dict[str, Model]:
    text = Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8")
    return {id: _entry(id, values) for id, values in tomllib.loads(text).items()}


def _entry(id: str, values: dict) -> Model:
    parameters = values.pop("parameters", None)
    sources = tuple(values.pop("sources", (f"hub:{values['repo']}",)))
    memory = None if parameters is None else 4 * parameters
    return Model(
        id=id,
        revision=values.pop("revision", "main"),
        parameters=parameters,
        memory=memory,
        sources=sources,
        **values,
    )


def _ad_hoc(id: str, title: str, source: str, modality: Modality) -> Model:
    return Model(
        id=id,
        title=title,
        repo=id,
        revision="main",
        licence="",
        parameters=None,
        modality=modality,
        memory=None,
        sources=(source,),
    )


def _folder(name: str) -> Path | None:
    if not name or "\0" in name:
        return None
    path = Path(name).expanduser()
    try:
        found = any((path / name).is_file() for name in ("config.json", "model_index.json"))
        return path.resolve() if found else None
    except OSError:
        return None
