"""Folders and files that are either whole or not there: written beside, flushed to disk, then renamed."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playground.errors import RunFailed

PARTIAL = ".partial"
REPLACED = ".replaced"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to write into; it becomes ``path`` when the block ends without an error.

    A reader, and a process started after kill -9 or a power cut, sees the old folder, the new one or
    none, never a half-written one. ``clear_leftovers`` removes what a killed process left.

    Raises:
        RunFailed: the disk is full; nothing is left behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        _flush(partial)
        _swap(partial, path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if disk_full(error):
            raise _full(path, "resume") from error
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give the name of a file to write; it becomes ``path`` when the block ends without an error.

    Raises:
        RunFailed: the disk is full; nothing is left behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        _flush_one(partial)
        partial.replace(path)
        _flush_one(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if disk_full(error):
            raise _full(path, "try again") from error
        raise


def clear_leftovers(parent: Path) -> None:
    """Remove what a killed process left in ``parent``; bring back a folder it was replacing."""
    for folder in Path(parent).glob(f".*{REPLACED}"):
        original = folder.with_name(folder.name[1 : -len(REPLACED)])
        if original.exists():
            shutil.rmtree(folder)
        else:
            folder.rename(original)
    for partial in Path(parent).glob(f".*{PARTIAL}"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def _swap(partial: Path, path: Path) -> None:
    replaced = path.with_name(f".{path.name}{REPLACED}")
    if path.exists():
        path.rename(replaced)
    partial.rename(path)
    _flush_one(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush(folder: Path) -> None:
    for directory, _, files in os.walk(folder):
        for name in files:
            _flush_one(Path(directory, name))
        _flush_one(Path(directory))


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(path: Path, what_then: str) -> RunFailed:
    free = shutil.disk_usage(path.parent if path.parent.exists() else "/").free
    return RunFailed(
        f"The disk is full: “{path.name}” could not be written, {free / 1e6:.0f} MB are free in "
        f"{path.parent}. Delete runs that are no longer needed, or set PLAYGROUND_HOME to a "
        f"larger disk, and {what_then}."
    )


def disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or the user's share of it, is full."""
    # safetensors reports its input/output errors as text, without an errno
    return getattr(error, "errno", None) in _FULL or "No space left on device" in str(error)
