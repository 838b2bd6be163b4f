"""Fetching the starter models while the page is already open."""

import logging
import threading
from dataclasses import dataclass

from playground.errors import PlaygroundError
from playground.models import sources
from playground.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StarterState:
    """Where the fetching stands. ``done`` and ``total`` are bytes, ``total`` None = unknown."""

    phase: str = ""
    done: int = 0
    total: int | None = None
    ready: bool = False
    error: str | None = None


class Starter:
    """Fetches the models of the first run in a thread; ``state`` says how far it is."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.state = StarterState()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, or begin again after a failure; does nothing while it is under way or done."""
        with self._lock:
            if self.state.ready or (self._thread and self._thread.is_alive()):
                return
            self.state = StarterState("Looking for the starter model")
            self._thread = threading.Thread(target=self._fetch, name="starter", daemon=True)
            self._thread.start()

    def _fetch(self) -> None:
        try:
            sources.fetch_starters(self.settings, self._tell)
            self.state = StarterState("The starter model is ready.", ready=True)
        except PlaygroundError as error:
            self.state = StarterState(error=str(error))
        except Exception as error:
            log.exception("Fetching the starter model failed")
            self.state = StarterState(error=f"The starter model could not be fetched: {error}.")

    def _tell(self, phase: str, done: int, total: int | None) -> None:
        self.state = StarterState(phase, done, total)
