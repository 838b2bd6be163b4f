"""One frozen Settings object, read from the environment once."""

import importlib.util
import os
import platform
import runpy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from glob import glob
from pathlib import Path

from playground.errors import InvalidInput

ASSETS = Path(__file__).resolve().parent.parent / "assets"

# What an NVIDIA driver leaves on Linux for each GPU that the process may use, on WSL, on Windows.
DRIVERS = ("/dev/nvidia[0-9]*", "/usr/lib/wsl/lib/libcuda.so.1", "C:/Windows/System32/nvcuda.dll")


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
            InvalidInput: a variable does not have the type of its field, or is a number below 0.
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
    def device_kind(self) -> str:
        """Where runs compute: "cpu", "cuda" or "mps". What "auto" means here is told without loading PyTorch."""
        return _kind_here() if self.device == "auto" else self.device.partition(":")[0]

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
    def uploads(self) -> Path:
        """Files that browsers sent or fetch; none stays for long."""
        return self.home / "uploads"

    @property
    def tasks(self) -> Path:
        """Tasks that visitors brought."""
        return self.home / "tasks"


def _kind_here() -> str:
    """As ``models.device`` chooses, which asks PyTorch."""
    if (sys.platform, platform.machine()) == ("darwin", "arm64"):
        return "mps"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}
    there = not hidden and any(glob(driver) for driver in DRIVERS)
    return "cuda" if there and _built_for_cuda() else "cpu"


@cache
def _built_for_cuda() -> bool:
    """Whether the installed PyTorch was built for NVIDIA's GPUs; its version file says so without the rest of it."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    return runpy.run_path(str(Path(found.origin).with_name("version.py")))["cuda"] is not None


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
        value = kind(text)
    except (KeyError, ValueError):
        raise InvalidInput(
            f"PLAYGROUND_{name.upper()}={text!r} is not a {kind.__name__}.", field=name
        ) from None
    if kind is int and value < 0:
        raise InvalidInput(f"PLAYGROUND_{name.upper()}={text!r} is below 0.", field=name)
    return value
