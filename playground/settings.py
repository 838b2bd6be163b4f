"""One frozen Settings object, read from the environment once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from playground.errors import InvalidInput

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Settings:
    """Paths, ports, limits and choices. Every field has an environment variable.

    ``PLAYGROUND_`` plus the upper-case field name, e.g. ``PLAYGROUND_PORT=8080``.
    """

    home: Path = Path("~/.cache/playground").expanduser()  # models, runs, indexes, store
    host: str = "0.0.0.0"
    port: int = 7860
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    dtype: str = "auto"  # auto, float32, bfloat16, float16
    threads: int = 0  # CPU threads of a job; 0 = calibrate
    max_upload_mb: int = 20
    max_rows: int = 20_000  # rows of a visitor's task file
    max_prompt_characters: int = 20_000
    max_queued: int = 50
    chroma_url: str = ""  # a Chroma server for the indexes; empty: files beside each index
    offline: bool = False  # never ask the Hub, as HF_HUB_OFFLINE=1
    allow_push: bool = False  # visitors of the page may push to the Hub with the server's own HF_TOKEN

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings.

        Raises:
            InvalidInput: a variable does not have the type of its field.
        """
        values = {}
        for name, default in cls().__dict__.items():
            text = environment.get(f"PLAYGROUND_{name.upper()}")
            if text is None or text == "":
                continue
            values[name] = _convert(name, text, type(default))
        if environment.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
            values.setdefault("offline", True)
        return cls(**values)

    @property
    def database(self) -> Path:
        """The SQLite file with all runs and their events."""
        return self.home / "playground.sqlite3"

    @property
    def models(self) -> Path:
        """Models fetched from wheels and converted, one folder each."""
        return self.home / "models"

    @property
    def runs(self) -> Path:
        """One folder a run: checkpoints, adapter, index, log."""
        return self.home / "runs"

    @property
    def indexes(self) -> Path:
        """The visitors' own Chroma indexes."""
        return self.home / "indexes"

    @property
    def tasks(self) -> Path:
        """Tasks that visitors brought."""
        return self.home / "tasks"


def _convert(name: str, text: str, kind: type):
    try:
        if kind is bool:
            return {
                "1": True,
                "true": True,
                "yes": True,
                "on": True,
                "0": False,
                "false": False,
                "no": False,
                "off": False,
            }[text.lower()]
        if issubclass(kind, Path):
            return Path(text).expanduser().resolve()
        return kind(text)
    except (KeyError, ValueError):
        raise InvalidInput(
            f"PLAYGROUND_{name.upper()}={text!r} is not a {kind.__name__}.", field=name
        ) from None
