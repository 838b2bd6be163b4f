"""The visitors' own search indexes: one folder a visitor, held open by this process alone."""

import logging
import shutil
import threading
from collections import OrderedDict
from typing import Any

from playground.settings import Settings

MOST_OPEN = 8  # visitors whose index stays; the one unused for longest goes

log = logging.getLogger(__name__)


class Indexes:
    """Open indexes (``retrieval.store.Index``) by visitor."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def folder(self, visitor: str):
        """Where a visitor's index lies."""
        return self.settings.indexes / f"page-{visitor}"

    def get(self, visitor: str) -> Any | None:
        """The visitor's index, None where there is none."""
        with self._lock:
            index = self._open.get(visitor)
            if index is not None:
                self._open.move_to_end(visitor)
            return index

    def keep(self, visitor: str, index: Any) -> None:
        """Hold a visitor's index; the oldest of too many is removed."""
        with self._lock:
            self._open[visitor] = index
            self._open.move_to_end(visitor)
            gone = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - MOST_OPEN)]
        for old in gone:
            old.delete()

    def forget(self, visitor: str) -> None:
        """Remove a visitor's index with its files."""
        with self._lock:
            index = self._open.pop(visitor, None)
        if index is not None:
            index.delete()

    def clear_leftovers(self) -> None:
        """Remove the folders of visitors of an earlier process."""
        for folder in self.settings.indexes.glob("page-*"):
            shutil.rmtree(folder, ignore_errors=True)
