"""Settings for a method by model size and device, from presets.toml beside this file."""

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from playground.errors import InvalidInput

FILE = Path(__file__).with_name("presets.toml")

# Size classes, each with the most parameters that a model of it has.
SIZES = {"15m": 50_000_000, "135m": 500_000_000, "1b": 3_500_000_000, "8b": 15_000_000_000}
DEVICES = {"cpu": "CPU", "cuda": "GPU"}


@dataclass(frozen=True)
class Preset:
    """One entry: ``values`` are parameters of ``method`` that differ from its defaults.

    ``size`` is a key of ``SIZES``, ``device`` one of ``DEVICES``. ``found`` says how the values were
    found; with ``tried`` False nobody has run them yet.
    """

    method: str
    size: str
    device: str
    tried: bool
    found: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As on the command line: "135m-cpu"."""
        return f"{self.size}-{self.device}"

    @property
    def title(self) -> str:
        """As in the form: "135M model, CPU", and whether anybody tried it."""
        return f"{self.size.upper()} model, {DEVICES[self.device]}" + ("" if self.tried else " (untried)")


def presets(method_id: str | None = None) -> list[Preset]:
    """All presets, or those of one method, in the file's order."""
    return [preset for preset in _read(FILE) if method_id in (None, preset.method)]


def preset(method_id: str, name: str) -> Preset:
    """One preset by its name.

    Raises:
        InvalidInput: the method has none of that name; the message names those it has.
    """
    own = {preset.name: preset for preset in presets(method_id)}
    try:
        return own[name]
    except KeyError:
        known = f"Presets: {', '.join(own)}." if own else "It has no presets."
        raise InvalidInput(
            f"The method “{method_id}” has no preset “{name}”. {known}", field="preset"
        ) from None


def size_of(parameters: int | None) -> str | None:
    """The size class of a model with so many parameters; None where it has none or nobody counted."""
    if parameters is None:
        return None
    return next((size for size, most in SIZES.items() if parameters <= most), None)


def fitting(method_id: str, parameters: int | None, device: str, only_tried: bool = False) -> Preset | None:
    """The preset of a method for a model with so many parameters; None where there is none of that size.

    Args:
        device: ``Settings.device_kind``: of several presets the one for it goes first, then one that was tried.
        only_tried: better one that was tried on another device than one that nobody has tried.
    """
    size = size_of(parameters)
    own = [
        preset for preset in presets(method_id) if preset.size == size and (preset.tried or not only_tried)
    ]
    return min(own, key=lambda preset: (preset.device != device, not preset.tried), default=None)


@cache
def _read(path: Path) -> tuple[Preset, ...]:
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(
        _entry(method, name, entry) for method, entries in found.items() for name, entry in entries.items()
    )


def _entry(method: str, name: str, entry: dict[str, Any]) -> Preset:
    size, _, device = name.rpartition("-")
    if size not in SIZES or device not in DEVICES:
        raise ValueError(f"{FILE.name}: [{method}.{name}] is not named size-device, like 135m-cpu")
    return Preset(method, size, device, entry["tried"], entry["found"], entry.get("values", {}))
