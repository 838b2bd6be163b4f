"""The folder of a trained result: what it holds, whether it is whole, and whose it is.

Only safetensors and our own JSON are read: a foreign configuration or a pickle is never opened.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from playground.errors import AdapterError
from playground.training.saving import atomic_folder

ABOUT = "playground.json"


def save(folder: Path, write: Callable[[Path], None], about: Mapping[str, Any]) -> None:
    """Let ``write`` fill a new folder; add ``about`` and each weight file's SHA-256; make it appear whole.

    Raises:
        RunFailed: the disk is full; nothing is left behind.
    """
    with atomic_folder(folder) as partial:
        write(partial)
        files = sorted(partial.rglob("*.safetensors"))
        digests = {_place(path, partial): _digest(path) for path in files}
        (partial / ABOUT).write_text(json.dumps({**about, "sha256": digests}, indent=1))


def verify(folder: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Make sure that a folder is whole, unchanged, and made for what is ``expected`` of it.

    Returns: what the folder says of itself.

    Raises:
        AdapterError: it is missing, incomplete, damaged, or was made for something else.
    """
    if not folder.is_dir():
        raise AdapterError("There is no adapter in this run's folder: the training did not finish.")
    if not (folder / ABOUT).is_file():
        raise AdapterError(f"The adapter is incomplete: {ABOUT} is missing.")
    try:
        about = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError) as error:
        raise AdapterError(f"The adapter cannot be read, it is damaged: {error}") from error
    digests = about.get("sha256") if isinstance(about, dict) else None
    if not isinstance(digests, dict) or not digests:
        raise AdapterError(f"The adapter's {ABOUT} is not one that the playground wrote.")
    for name, value in expected.items():
        if about.get(name) != value:
            raise AdapterError(f"The adapter was made for {name} {about.get(name)!r}, not for {value!r}.")
    strangers = sorted(
        path.name for path in folder.rglob("*.safetensors") if _place(path, folder) not in digests
    )
    if strangers:
        raise AdapterError(f"The adapter's folder holds {strangers[0]}, which no training saved there.")
    for name, digest in digests.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise AdapterError(f"The adapter's {ABOUT} names a file outside its folder.")
        if not path.is_file():
            raise AdapterError(f"The adapter is incomplete: {name} is missing.")
        if _digest(path) != digest:
            raise AdapterError(f"The adapter is damaged: {name} is not the file that was saved.")
    return about


def says(folder: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a folder says what is ``expected`` of it; its files are not looked at. True where it cannot be read:
    ``verify`` tells why."""
    try:
        about = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError):
        return True
    return isinstance(about, dict) and all(about.get(name) == value for name, value in expected.items())


def description(path: Path, method: str) -> dict[str, Any]:
    """What an adapter's own configuration file says, after making sure that it is of that method.

    Raises:
        AdapterError: it is missing, damaged or of another method.
    """
    try:
        about = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise AdapterError(f"The adapter is incomplete: {path.name} is missing.") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"The adapter cannot be read, it is damaged: {error}") from error
    if not isinstance(about, dict) or about.get("method") != method:
        raise AdapterError(f"The adapter's {path.name} is not one of {method}.")
    return about


def tensors(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, after comparing names, shapes and values with what is expected.

    Raises:
        AdapterError: they cannot be read, do not fit, or hold numbers that are not finite.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"The adapter cannot be read, it is damaged: {error}") from error
    wrong = sorted(
        name
        for name in expected.keys() | found.keys()
        if name not in expected or name not in found or expected[name].shape != found[name].shape
    )
    if wrong:
        raise AdapterError(
            f"The adapter does not fit this model: {len(wrong)} tensors differ, first {wrong[0]}."
        )
    if not all(torch.isfinite(value).all() for value in found.values()):
        raise AdapterError("The adapter is damaged: it holds numbers that are not finite.")
    return found


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
