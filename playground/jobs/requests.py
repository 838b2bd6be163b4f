"""What a person asks of a run while it trains: to draw samples now, or to save now.

Requests are lines of the file ``requests`` in the run's folder. The page appends, the training reads and
empties the file between two steps; a file lock keeps them from losing a line.
"""

import fcntl
from pathlib import Path

from playground.errors import InvalidInput, QueueError
from playground.jobs.local import run_folder
from playground.settings import Settings

FILE = "requests"
KNOWN = ("sample", "save")  # draw samples now; write a checkpoint now


def ask(settings: Settings, run_id: int, what: str) -> None:
    """Ask a running run to "sample" or to "save". Asking twice before it looks counts once.

    Raises:
        InvalidInput: nothing of that name can be asked.
        QueueError: the run has no folder yet.
    """
    if what not in KNOWN:
        raise InvalidInput(f"A run cannot be asked to “{what}”. It can: {', '.join(KNOWN)}.")
    try:
        with open(run_folder(settings, run_id) / FILE, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{what}\n")
    except FileNotFoundError:
        raise QueueError(f"Run {run_id} has not begun yet. Try again when it trains.") from None


def asked(folder: Path) -> set[str]:
    """What was asked since the last look, of ``KNOWN``; the file is emptied. Cheap where nothing was.

    Args:
        folder: the run's own.
    """
    try:
        with open(folder / FILE, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            words = set(file.read().split())
            if words:
                file.truncate(0)
    except FileNotFoundError:
        return set()
    return words & set(KNOWN)
