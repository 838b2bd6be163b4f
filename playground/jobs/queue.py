"""The queue: files runs after checking them, starts them one at a time, stops them, finds lost ones.

Page and CLI may share a store, each with its own Queue: the order is the store's, a device does one
job at a time (see ``playground.jobs.local``), and each Queue starts the runs that it filed or that
nobody living owns.
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from playground.data.subjects import Subject
from playground.data.tasks import Task
from playground.errors import InvalidInput, PlaygroundError, QueueError, RunNotFound, StoreError
from playground.jobs import local, processes
from playground.jobs.material import material
from playground.methods import presets
from playground.methods.base import Method, Params
from playground.methods.registry import method, methods
from playground.models import catalogue
from playground.models.catalogue import Model
from playground.results.comparison import REFERENCE
from playground.results.runs import ACTIVE, Filing, Run, RunStore
from playground.settings import Settings

TICK = 0.2  # seconds between two looks at the queue
SWEEP = 2.0  # seconds between two looks for runs whose process is gone
COURTESY = 5.0  # seconds that a free device waits for the process whose run is first
LOST = "Its process ended without a word while it was running. Resume it to go on from its last checkpoint."
LOWER = "Lower the batch size or the maximum length, choose a smaller model, or close other programs."
CLOSED = "The playground was closed while it was running. Resume it to go on from its last checkpoint."

log = logging.getLogger(__name__)


class Queue:
    """Files, starts and stops runs.

    Args:
        settings: the same for the workers.
        store: where runs are filed.
        release: called before a job starts, to free memory that it needs (``Arbiter.release``).
        check_model: called before a run is filed, to refuse a model that cannot be had now
            (``models.sources.obtainable``).
        check_fit: called after that, to refuse what the technique cannot adapt so (``jobs.forecast.fits``).
    """

    def __init__(
        self,
        settings: Settings,
        store: RunStore,
        release: Callable[[], None] | None = None,
        check_model: Callable[[Model, Settings], None] | None = None,
        check_fit: Callable[[Method, Params, Model, Settings], None] | None = None,
    ):
        self.settings = settings
        self.store = store
        self.release = release
        self.check_model = check_model
        self.check_fit = check_fit
        self.identity = processes.identity(uuid.uuid4().hex[:6])
        self._job: tuple[int, subprocess.Popen] | None = None
        self._memory_kills: int | None = None  # of the whole system, when the present job was started
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._adopt = True
        self._ended: list[tuple[int, int, str]] = []  # run, process, reason: ends not yet in the store
        self._free_since: float | None = None  # when the device was first seen free though runs wait

    # Filing

    def submit(
        self,
        method_id: str,
        params: Mapping[str, Any],
        task_id: str,
        model_id: str,
        seed: int = 0,
        limit: int | None = None,
        group: str | None = None,
        reference: Literal["first", "last"] | None = None,
    ) -> Run:
        """Check a run and file it.

        Args:
            reference: also file the zero-shot run that it is compared with, where there is none: in front of it, or
                behind it, so that what takes long begins at once.

        Raises:
            InvalidInput: the method, task, a parameter, the seed or the limit is wrong.
            ModelUnavailable: the model cannot be had.
            QueueError: the same run is queued or running, or the queue is full.
            StoreError: it cannot be written.
        """
        filing = self.prepare(method_id, params, task_id, model_id, seed, limit, group)
        filings = self.with_reference([filing]) if reference else [filing]
        if reference == "last":
            filings = [filing, *filings[:-1]]
        return next(run for run in self.file(filings) if run.key == filing.key)

    def race(
        self,
        task_id: str,
        model_id: str,
        method_ids: Sequence[str],
        params_by_method: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> list[Run]:
        """Check one run a method on the same task and model, and file all or none; they share a group.

        Raises: as ``submit``.
        """
        return self.file(self.prepare_race(task_id, model_id, method_ids, params_by_method, seed, limit))

    def file(self, filings: Sequence[Filing]) -> list[Run]:
        """File what ``prepare`` or ``prepare_race`` checked, all or none.

        Raises:
            QueueError: one of them is queued or running, or the queue is full.
            StoreError: it cannot be written.
        """
        owner = self.identity if self._thread else None
        runs = self.store.submit_all(filings, owner=owner, max_queued=self.settings.max_queued)
        self._wake.set()
        return runs

    def prepare_race(
        self,
        task_id: str,
        model_id: str,
        method_ids: Sequence[str],
        params_by_method: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> list[Filing]:
        """Check a race without filing it. Raises: as ``prepare``.

        Methods without a word in ``params_by_method`` take the preset for this size of model where one was tried.
        """
        if not method_ids:
            raise InvalidInput("Choose at least one method.", field="methods")
        twice = {id for id in method_ids if list(method_ids).count(id) > 1}
        if twice:
            raise InvalidInput(f"{', '.join(sorted(twice))} is named twice.", field="methods")
        given = dict(params_by_method or {})
        parameters = catalogue.model(model_id, self.settings).parameters
        for id in method_ids:
            preset = presets.fitting(id, parameters, self.settings.device_kind, only_tried=True)
            if id not in given and preset:
                given[id] = preset.values
        group = uuid.uuid4().hex[:8]
        return [
            self.prepare(id, given.get(id, {}), task_id, model_id, seed, limit, group) for id in method_ids
        ]

    def prepare(
        self,
        method_id: str,
        params: Mapping[str, Any],
        task_id: str,
        model_id: str,
        seed: int = 0,
        limit: int | None = None,
        group: str | None = None,
    ) -> Filing:
        """Check a run without filing it.

        Raises:
            InvalidInput: the method, task, a parameter, the seed or the limit is wrong.
            ModelUnavailable: the model cannot be had.
        """
        technique = method(method_id)
        values = technique.Params.parse(dict(params))
        chosen = material(technique, task_id, self.settings)
        technique.check(values, chosen)
        entry = catalogue.model(model_id, self.settings)
        if technique.modality != entry.modality:
            raise InvalidInput(
                f"{technique.title} works on {technique.modality}; {entry.title} is for {entry.modality}.",
                field="model",
            )
        if self.check_model:
            self.check_model(entry, self.settings)
        if self.check_fit:
            self.check_fit(technique, values, entry, self.settings)
        seed = _whole(seed, "seed", 0, 2**32 - 1)
        limit = _limit(limit, chosen)
        dumped = values.model_dump(mode="json")
        return Filing(
            key=run_key(method_id, dumped, entry, chosen, seed, limit, self.settings.dtype),
            method=method_id,
            params=dumped,
            model=entry.id,
            task=chosen.id,
            seed=seed,
            limit=limit,
            group=group,
        )

    def with_reference(self, filings: Sequence[Filing]) -> list[Filing]:
        """The same filings, of one task and model, with the zero-shot run that they are compared with in front.

        One is added where there is none among them, nor done, waiting or running in the store.
        """
        first = next((filing for filing in filings if filing.method == REFERENCE), None)
        if first is None:
            first = self._missing_reference(filings[0])
        rest = [filing for filing in filings if filing is not first]
        return rest if first is None else [first, *rest]

    def _missing_reference(self, filing: Filing) -> Filing | None:
        if method(filing.method).modality != method(REFERENCE).modality:
            return None
        wanted = self.prepare(
            REFERENCE, {}, filing.task, filing.model, limit=filing.limit, group=filing.group
        )
        at_hand = {"done", *ACTIVE}
        known = self.store.list(task=filing.task, method=REFERENCE)
        return None if any(run.key == wanted.key and run.status in at_hand for run in known) else wanted

    # Changing

    def cancel(self, run_id: int) -> Run:
        """Stop a running run, or take a waiting one out of the queue. Takes at most about two seconds.

        Raises:
            RunNotFound: there is no such run.
            QueueError: it has ended already (stopping twice is harmless, and says so).
        """
        if not self.store.transition(run_id, "cancelled", expect=ACTIVE, error="Stopped by hand."):
            status = self.store.get(run_id).status
            ended = "stopped" if status == "cancelled" else status
            raise QueueError(f"Run {run_id} is already {ended}; there is nothing to stop.")
        run = self.store.get(run_id)  # after the change: a pid noted before it is seen here
        if run.process is not None:
            processes.end_group(run.process, run.process_started)
        self._wake.set()
        return run

    def cancel_all(self, runs: Iterable[Run]) -> int:
        """Stop those that have not ended by themselves meanwhile, or been deleted; waiting ones first, so that none
        of them begins. Returns how many."""
        stopped = 0
        for run in sorted(runs, key=lambda run: run.status == "running"):
            with suppress(QueueError, RunNotFound):
                self.cancel(run.id)
                stopped += 1
        return stopped

    def resume(self, run_id: int) -> Run:
        """File a stopped, failed or interrupted run again under its id, from its last checkpoint.

        Raises:
            RunNotFound: there is no such run.
            QueueError: it is waiting, running or done, its data or its model have changed, or the queue is full.
            InvalidInput, ModelUnavailable: its task or its model is gone.
        """
        self._refuse_changed(self.store.get(run_id))
        owner = self.identity if self._thread else None
        run = self.store.refile(run_id, owner=owner, max_queued=self.settings.max_queued)
        self._wake.set()
        return run

    def _refuse_changed(self, run: Run) -> None:
        chosen = material(method(run.method), run.task, self.settings)
        entry = catalogue.model(run.model, self.settings)
        key = run_key(run.method, run.params, entry, chosen, run.seed, run.limit, self.settings.dtype)
        if key != run.key:
            raise QueueError(
                f"Run {run.id} cannot go on: the data of “{chosen.title}”, the model or the number type have changed "
                "since it was filed. Start a new one."
            )

    def delete(self, run_id: int) -> None:
        """Remove an ended run: its row, its events and its folder.

        Raises:
            RunNotFound: there is no such run.
            QueueError: it is waiting or running.
            StoreError: what it keeps on another server cannot be removed now.
        """
        run = self.store.get(run_id)
        folder = local.run_folder(self.settings, run_id)
        if run.status not in ACTIVE and run.method in methods():
            method(run.method).discard(folder)
        self.store.delete(run_id)
        shutil.rmtree(folder, ignore_errors=True)

    # Working

    def start(self, adopt: bool = True) -> None:
        """Mark lost runs as interrupted, and start working off the queue in a thread.

        Args:
            adopt: also start waiting runs that another process filed which is gone.
        """
        if self._thread:
            return
        self._adopt = adopt
        self._closing = False
        self.recover()
        self._thread = threading.Thread(target=self._work, name="queue", daemon=True)
        self._thread.start()

    def recover(self) -> list[int]:
        """Mark runs as interrupted whose worker and owner are gone. Returns their ids."""
        lost = []
        for run in self.store.list(status="running"):
            if self._is_lost(run) and self.store.finish(run.id, "interrupted", LOST):
                lost.append(run.id)
        return lost

    def _is_lost(self, run: Run) -> bool:
        if processes.alive(run.process, run.process_started):
            return False
        if run.owner == self.identity:  # its end may still be on the way through this very queue
            mine = self._job is not None and self._job[0] == run.id
            return not mine and all(run.id != ended for ended, _, _ in self._ended)
        return not processes.identity_alive(run.owner)

    def close(self) -> None:
        """Stop working: a running run becomes interrupted, waiting ones stay for the next start."""
        if self._thread is None:
            return
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=10)
        self._thread = None
        if self._job:
            run_id, process = self._job
            self.store.finish(run_id, "interrupted", CLOSED)
            processes.end_group(process.pid, processes.started(process.pid))
            process.wait()
            self._job = None
        mine = [run.id for run in self.store.queued() if run.owner == self.identity]
        self.store.set_owner(mine, None)

    def _work(self) -> None:
        swept = time.monotonic()
        while not self._closing:
            try:
                self._reap()
                if time.monotonic() - swept >= SWEEP:
                    swept = time.monotonic()
                    self.recover()
                if self._job is None:
                    self._start_next()
            except StoreError as error:  # e.g. the disk is full: keep trying, it may be freed
                log.error("The queue waits: %s", error)
                time.sleep(1)
            except Exception:
                log.exception("The queue met an error and goes on")
                time.sleep(1)
            self._wake.wait(TICK)
            self._wake.clear()

    def _reap(self) -> None:
        if self._job and self._job[1].poll() is not None:
            run_id, process = self._job
            self._ended.append((run_id, process.pid, self._reason(run_id, process.returncode)))
            self._job = None
        while self._ended:
            run_id, pid, reason = self._ended[0]
            self.store.finish(run_id, "failed", reason, process=pid)  # does nothing if it ended in order
            self._ended.pop(0)

    def _reason(self, run_id: int, code: int) -> str:
        if code == -signal.SIGKILL:
            return self._killed(run_id)
        words = local.last_words(self.settings, run_id)
        ended = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return f"The run's process ended {ended} without a result." + (
            f" Last words: {words}" if words else ""
        )

    def _killed(self, run_id: int) -> str:
        """Nobody but the system tells why it killed a process: by counting those it killed for memory."""
        before, now = self._memory_kills, processes.memory_kills()
        points = [event.data for event in self.store.events(run_id, kinds={"metric"})]
        held = next((p["value"] for p in reversed(points) if p["name"] == "train_memory_bytes"), None)
        last = f" It last held {held / 1e9:.2f} GB." if held else ""
        if before is not None and now is not None and now > before:
            return f"Out of memory: the system killed the run's process.{last} {LOWER} Then start it again."
        return (
            f"The run's process was killed by the system or by hand, possibly out of memory.{last} Resume it to go "
            f"on from its last checkpoint; if that happens again: {LOWER[0].lower()}{LOWER[1:]}"
        )

    def _start_next(self) -> None:
        waiting = self.store.queued()
        if not waiting:
            self._free_since = None
            return
        lock = local.lock_device(self.settings)
        if lock is None:
            self._free_since = None
            return
        try:
            self._free_since = self._free_since or time.monotonic()
            run = self._next(waiting)
            if run and self.store.transition(run.id, "running", expect={"queued"}, owner=self.identity):
                self._free_since = None
                self._launch(run, lock)
        finally:
            os.close(lock)

    def _next(self, waiting: Sequence[Run]) -> Run | None:
        """The first in the queue, if it is ours or nobody's. Another living process takes its own, unless
        it leaves the device free for long (it may be suspended)."""
        patient = time.monotonic() - (self._free_since or 0) < COURTESY
        for run in waiting:
            if run.owner == self.identity:
                return run
            if processes.identity_alive(run.owner):
                if patient:
                    return None
            elif self._adopt:
                return run
        return None

    def _launch(self, run: Run, lock: int) -> None:
        try:
            if self.release:
                self.release()
            self._memory_kills = processes.memory_kills()
            process = local.launch(run, self.settings, lock)
        except (OSError, PlaygroundError) as error:
            self.store.finish(run.id, "failed", f"The run could not be started: {error}.")
            return
        self._job = (run.id, process)
        since = processes.started(process.pid) or "gone"
        if not self.store.set_process(run.id, process.pid, since):
            processes.end_group(process.pid, since)  # it was stopped between filing and starting


def run_key(
    method_id: str,
    params: Mapping[str, Any],
    entry: Model,
    data: Task | Subject,
    seed: int,
    limit: int | None,
    dtype: str,
) -> str:
    """A hash of all that decides a run's result.

    Args:
        dtype: the number type that is asked for; "auto" = the device's.
    """
    parts = [method_id, params, entry.id, entry.repo, entry.revision, entry.sha256]
    parts += [data.id, data.data_hash, seed, limit, *([] if dtype == "auto" else [dtype])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _limit(limit: Any, chosen: Task | Subject) -> int | None:
    """None where nothing is capped, so that rows with and without it compare; subjects are tested whole."""
    if limit is None:
        return None
    limit = _whole(limit, "limit", 1)
    return limit if isinstance(chosen, Task) and limit < len(chosen.test) else None


def _whole(value: Any, name: str, low: int, high: int | None = None) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a form's number field
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high and value > high):
        label = {"limit": "The limit of test items", "seed": "The seed"}[name]
        bounds = f"of at least {low}" if high is None else f"from {low} to {high:,}"
        raise InvalidInput(f"{label} must be a whole number {bounds}, not {value!r}.", field=name)
    return value
