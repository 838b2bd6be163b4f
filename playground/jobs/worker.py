"""The worker: ``python -m playground.jobs.worker RUN_ID`` does one run in its own process.

It writes events and the end into the store. It ends when the process that started it is gone, so that
a killed page leaves a run that is marked interrupted and can be resumed, never a job nobody sees.
"""

import errno
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

from playground.errors import PlaygroundError
from playground.events import Event
from playground.jobs import local, processes
from playground.jobs.pipeline import pipeline
from playground.methods.registry import method
from playground.results.runs import Run, RunStore
from playground.settings import Settings

FLUSH_SECONDS = 0.2  # at most five progress events a second and phase are kept
WATCH_SECONDS = 0.5
KERNELS = 64  # kernels for products in bfloat16; a step needs about thirty
ORPHANED = "The playground ended while it was running. Resume it to go on from its last checkpoint."
MEMORY = "Out of memory: lower the batch size or the maximum length, or choose a smaller model"


class EventWriter:
    """Puts events into the store in small batches, from a thread, so that a slow step delays none.

    Of the progress events of one phase that fall into a batch the last is kept.
    """

    def __init__(self, store: RunStore, run_id: int):
        self._store = store
        self._run_id = run_id
        self._pending: list[Event] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._error: Exception | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._flush_often, name="events", daemon=True)
        self._thread.start()

    def add(self, event: Event) -> None:
        """Queue an event.

        Raises:
            StoreError: an earlier batch could not be written.
            TypeError: it has something in it that JSON cannot hold.
        """
        if self._error:
            raise self._error
        with self._lock:
            last = self._pending[-1] if self._pending else None
            if last and event.kind == last.kind == "progress" and event.data["phase"] == last.data["phase"]:
                self._pending[-1] = event
            else:
                self._pending.append(event)

    def flush(self) -> None:
        """Write what is pending.

        Raises: as ``add``.
        """
        with self._writing:  # keeps batches in order
            with self._lock:
                batch, self._pending = self._pending, []
            self._store.append(self._run_id, batch)

    def close(self) -> None:
        """Write the rest. Raises: as ``flush``, and what an earlier batch met."""
        self._closed.set()
        self._thread.join()
        if self._error:
            raise self._error
        self.flush()

    def _flush_often(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Exception as error:  # else the run would go on, and end as done without what it told
                self._error = error
                return


def main(arguments: list[str]) -> int:
    """Do the run with that id. Exit code 0: its end stands in the store; 1: it could not be written."""
    run_id = int(arguments[0])
    settings = Settings.from_environment()
    store = RunStore(settings.database)
    run = _claim(store, run_id)
    if run is None:
        print(f"Run {run_id} is not waiting to be done.", file=sys.stderr)
        return 0
    _watch_parent(store, run_id)
    status, reason = _do(run, settings, store)
    try:
        store.finish(run_id, status, reason)
    except PlaygroundError as error:
        print(reason or error, file=sys.stderr)
        return 1
    return 0


def _claim(store: RunStore, run_id: int) -> Run | None:
    """The run, marked as running; None if it was stopped before it began."""
    me = os.getpid()
    store.transition(run_id, "running", expect={"queued"}, owner=processes.identity())  # started by hand
    if not store.set_process(run_id, me, str(processes.started(me))):
        return None
    return store.get(run_id)


def _do(run: Run, settings: Settings, store: RunStore) -> tuple[Any, str | None]:
    """Returns the status and the reason."""
    folder = local.run_folder(settings, run.id)
    writer = EventWriter(store, run.id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _spare_memory(run)
        for event in pipeline(run, settings, folder):
            writer.add(event)
        writer.close()
        return "done", None
    except BaseException as error:
        reason = explain(error)
        if not isinstance(error, PlaygroundError):
            traceback.print_exc()
        _close_after(writer)
        return "failed", reason


def _spare_memory(run: Run) -> None:
    if method(run.method).modality == "text":
        keep_few_kernels()


def keep_few_kernels() -> None:
    """Let PyTorch keep few of the kernels that it makes for bfloat16 products; before the first one of the process.

    It makes one for each number of rows, of about a megabyte, and keeps 1,024: packed rows have hundreds of lengths,
    and a training held 1 GB of them. Making them anew costs no time that could be measured. Not for image models,
    whose one step needs several hundred.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))


def _close_after(writer: EventWriter) -> None:
    try:
        writer.close()
    except Exception as error:
        print(f"The last events were lost: {error}", file=sys.stderr)


def explain(error: BaseException) -> str:
    """The reason of a failure in a sentence for the user; tracebacks go to the log only."""
    from playground.training.memory import out_of_memory

    if isinstance(error, PlaygroundError):
        return str(error)
    text = str(error).strip()
    first = text.splitlines()[0][:300] if text else ""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC or "No space left on device" in text:
        return "The disk is full: free some space, or delete old runs, then resume this one."
    if out_of_memory(error):
        return f"{MEMORY} ({first})." if first else f"{MEMORY}."
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _watch_parent(store: RunStore, run_id: int) -> None:
    """End with the process that started this one (named in the environment; none = run by hand)."""
    parent = int(os.environ.get(local.PARENT, "0"))
    if parent:
        watch = threading.Thread(target=_end_with, args=(parent, store, run_id), name="parent", daemon=True)
        watch.start()


def _end_with(parent: int, store: RunStore, run_id: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    try:
        store.finish(run_id, "interrupted", ORPHANED)
    finally:
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)


if __name__ == "__main__":
    os.nice(5)  # the page answers first
    sys.exit(main(sys.argv[1:]))
