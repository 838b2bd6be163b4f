"""The visitors' own search indexes: one folder a browser, kept over reloads and restarts.

A visitor is known by a random id that the browser keeps; who does not know it cannot name the folder.
"""

import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from playground.errors import InvalidInput, QueueError, StoreError
from playground.settings import Settings
from playground.ui import uploads

if TYPE_CHECKING:
    from playground.models.embedding import Embedder
    from playground.retrieval.store import Contents, Index

MOST_OPEN = 8  # indexes held in memory; the one unused for longest is closed, and opened again when asked
MOST_KEPT = 50  # indexes on disk
DAYS_KEPT = 30  # days without use

log = logging.getLogger(__name__)


class Indexes:
    """The indexes of the page's visitors. Those on disk are opened when they are needed."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._open: OrderedDict[str, Index] = OrderedDict()
        self._uploads: dict[str, set[str]] = {}  # what each was built from: it goes when the index does
        self._lock = threading.RLock()

    def folder(self, visitor: str) -> Path:
        """Where a visitor's index lies.

        Raises:
            InvalidInput: that is no id as a browser makes it.
        """
        if not re.fullmatch("[0-9a-f]{32}", visitor or ""):
            raise InvalidInput("This page has no visitor's id yet. Reload it, and allow it to keep data.")
        return self.settings.indexes / f"page-{visitor}"

    def contents(self, visitor: str) -> "Contents | None":
        """What lies in the visitor's index, read without opening it; None where there is none."""
        folder = self.folder(visitor)
        if not (folder / "manifest.json").is_file():
            return None
        from playground.retrieval.store import contents

        return contents(folder)

    def get(self, visitor: str, embedder: "Embedder") -> "Index | None":
        """The visitor's index, opened where it is not; None where there is none.

        Raises:
            InvalidInput: it was made with another embedding model.
            StoreError: it is damaged.
            QueueError: another process uses it.
        """
        folder = self.folder(visitor)
        with self._lock:
            index = self._open.get(visitor)
            if index is None and (folder / "manifest.json").is_file():
                from playground.retrieval.store import Index

                index = Index.open(folder, embedder)
            if index is not None:
                self.keep(visitor, index)
            return index

    def keep(self, visitor: str, index: "Index") -> None:
        """Hold a visitor's index; of too many, the one unused for longest is closed."""
        with self._lock:
            self._open[visitor] = index
            self._open.move_to_end(visitor)
            unused = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - MOST_OPEN)]
        os.utime(index.folder)
        for old in unused:
            old.close()

    def built_from(self, visitor: str, files: Iterable[str]) -> None:
        """Note which uploads the visitor's index now holds; those that it held before and lost are removed."""
        before, now = self._uploads.pop(visitor, set()), set(files)
        uploads.forget(before - now)
        if now:
            self._uploads[visitor] = now

    def close(self, visitor: str) -> None:
        """Let go of a visitor's index; its files stay."""
        with self._lock:
            index = self._open.pop(visitor, None)
        if index is not None:
            index.close()

    def delete(self, visitor: str) -> bool:
        """Remove a visitor's index, its files and the uploads that it was built from; False where there is none.

        Raises:
            QueueError: another process uses it, or it is being updated.
            StoreError: its Chroma server does not answer.
        """
        folder = self.folder(visitor)
        if not folder.exists():
            return False
        self.close(visitor)
        from playground.retrieval.store import remove

        if not remove(folder):
            raise QueueError("The index is in use just now. Try again when that is done.")
        self.built_from(visitor, ())
        return True

    def sweep(self) -> list[Path]:
        """Remove the indexes that nobody used for long, and the oldest of too many. Returns their folders."""
        with self._lock:
            held = {index.folder for index in self._open.values()}
        found = [(path.stat().st_mtime, path) for path in self.settings.indexes.glob("page-*")]
        found.sort(reverse=True)
        oldest = time.time() - DAYS_KEPT * 86_400
        gone = []
        for number, (used, path) in enumerate(found):
            if path in held or (number < MOST_KEPT and used >= oldest):
                continue
            from playground.retrieval.store import remove

            try:
                if remove(path):
                    gone.append(path)
            except StoreError as error:  # its server may be back next time
                log.warning("An old index stays: %s", error)
        return gone
