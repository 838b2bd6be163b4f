"""Runs and their events in one SQLite file: the only thing that the page and the CLI read.

Many threads and processes may use one store at a time (WAL, one connection a thread). A change of
status names the status it expects, so that a late worker cannot overwrite a cancel.
"""

import builtins
import errno
import json
import math
import shutil
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playground.errors import QueueError, RunNotFound, StoreError
from playground.events import Event, Kind
from playground.results.migrations import migrate

Status = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
ACTIVE = frozenset({"queued", "running"})
FINISHED = frozenset({"done", "failed", "cancelled", "interrupted"})

KEPT = 5000  # ended runs that stay decoded in memory
SPARE_BYTES = 100_000  # with less space on the disk than this, an I/O error means a full disk
BUSY_SECONDS = 15.0  # how long a writer waits for another before it gives up

_COLUMNS = (
    "id, key, method, params, model, task, seed, item_limit, race, status, error, created, started, finished,"
    " process, process_started, owner, resume, provenance, progress,"
    " (SELECT json_group_object(name, value) FROM metrics WHERE run_id = runs.id)"
)


@dataclass(frozen=True)
class Run:
    """One try: a method with its parameters, on one model and one task.

    ``limit`` caps the test items (None = all). ``group`` is shared by the runs of one race.
    ``key`` is a hash of all that decides the result (method, every parameter, model revision, data
    hash, seed, limit). Times are Unix seconds. ``metrics`` holds the results by name,
    ``progress`` the last progress event's data, ``error`` the reason of a failed run.
    ``process`` is the worker's process id, ``process_started`` tells it from a later process with the
    same id; ``owner`` is the process whose queue will start the run (None = any). ``resume`` asks the
    worker to go on from the last checkpoint.
    """

    id: int
    key: str
    method: str
    params: dict[str, Any]
    model: str
    task: str
    seed: int
    limit: int | None
    group: str | None
    status: Status
    error: str | None = None
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    process: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    progress: dict[str, Any] | None = None
    process_started: str | None = None
    owner: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class Filing:
    """What has to be said to file a run; the fields are those of ``Run``."""

    key: str
    method: str
    params: dict[str, Any]
    model: str
    task: str
    seed: int = 0
    limit: int | None = None
    group: str | None = None


class RunStore:
    """The runs in one SQLite file.

    Args:
        path: the file; it and its folder are made where they are missing.
        read_only: never write; another process may be writing meanwhile.

    Raises:
        StoreError: the file cannot be opened, is damaged, or is from a newer version.
    """

    def __init__(self, path: Path, read_only: bool = False):
        self.path = Path(path)
        self.read_only = read_only
        self._local = threading.local()
        self._connections: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        self._kept: dict[int, Run] = {}
        with self._errors():
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connection()
            if read_only:
                connection.execute("SELECT 1 FROM runs LIMIT 1")
            else:
                migrate(connection)

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for _, connection in self._connections:
                connection.close()
            self._connections.clear()
            self._local = threading.local()

    # Filing

    def submit(self, filing: Filing, *, owner: str | None = None, max_queued: int | None = None) -> Run:
        """File one run as queued; see ``submit_all``."""
        return self.submit_all([filing], owner=owner, max_queued=max_queued)[0]

    def submit_all(
        self, filings: Sequence[Filing], *, owner: str | None = None, max_queued: int | None = None
    ) -> builtins.list[Run]:
        """File runs as queued, all or none.

        Raises:
            QueueError: one of them is queued or running already, or more than ``max_queued`` would wait.
            StoreError: they cannot be written.
        """
        now = time.time()
        with self._transaction() as connection:
            self._refuse_full(connection, len(filings), max_queued)
            ids = []
            for filing in filings:
                self._refuse_twin(connection, filing.key)
                row = (filing.key, filing.method, _dump(filing.params), filing.model, filing.task)
                row += (filing.seed, filing.limit, filing.group, now, now, owner)
                cursor = connection.execute(
                    "INSERT INTO runs (key, method, params, model, task, seed, item_limit, race, status,"
                    " created, filed, owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?)",
                    row,
                )
                ids.append(cursor.lastrowid)
        return [self.get(run_id) for run_id in ids]

    def refile(self, run_id: int, *, owner: str | None = None, max_queued: int | None = None) -> Run:
        """File a failed, cancelled or interrupted run again, to go on from its last checkpoint.

        Raises:
            RunNotFound: there is no such run.
            QueueError: it is not in a state to go on from, its twin is active, or the queue is full.
        """
        with self._transaction() as connection:
            run = self._get(connection, run_id)
            if run.status not in FINISHED - {"done"}:
                raise QueueError(
                    f"Run {run_id} is {run.status}; only a stopped, failed or interrupted run can go on."
                )
            self._refuse_twin(connection, run.key)
            self._refuse_full(connection, 1, max_queued)
            connection.execute(
                "UPDATE runs SET status = 'queued', resume = 1, error = NULL, started = NULL, finished = NULL,"
                " process = NULL, process_started = NULL, owner = ?, filed = ? WHERE id = ?",
                (owner, time.time(), run_id),
            )
        return self.get(run_id)

    def transition(
        self,
        run_id: int,
        status: Status,
        *,
        expect: Collection[Status],
        error: str | None = None,
        process: int | None = None,
        owner: str | None = None,
    ) -> bool:
        """Change the status if it is one of ``expect``, in one step. True if it was.

        To "running" sets ``started``; to a finished status sets ``finished`` and ``error``. With
        ``process``, only the worker with that process id may change it.
        """
        marks = ", ".join("?" * len(expect))
        changes, values = ["status = ?", "error = ?"], [status, error]
        if status == "running":
            changes.append("started = ?")
            values.append(time.time())
        if status in FINISHED:
            changes.append("finished = ?")
            values.append(time.time())
        if owner is not None:
            changes.append("owner = ?")
            values.append(owner)
        where = f"id = ? AND status IN ({marks})"
        condition: list[Any] = [run_id, *expect]
        if process is not None:
            where += " AND process = ?"
            condition.append(process)
        with self._transaction() as connection:
            changed = connection.execute(
                f"UPDATE runs SET {', '.join(changes)} WHERE {where}", (*values, *condition)
            ).rowcount
        return changed == 1

    def finish(
        self, run_id: int, status: Status, error: str | None = None, process: int | None = None
    ) -> bool:
        """End a running run; False if it is not running any more (a cancel came first)."""
        return self.transition(run_id, status, expect={"running"}, error=error, process=process)

    def set_process(self, run_id: int, process: int, started: str) -> bool:
        """Note which process works on a running run; False if the run is not running any more."""
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE runs SET process = ?, process_started = ? WHERE id = ? AND status = 'running'",
                (process, started, run_id),
            ).rowcount
        return changed == 1

    def set_owner(self, run_ids: Iterable[int], owner: str | None) -> None:
        """Say which process will start these queued runs (None = any)."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE runs SET owner = ? WHERE id = ? AND status = 'queued'",
                [(owner, run_id) for run_id in run_ids],
            )

    # Events

    def append(self, run_id: int, events: Sequence[Event]) -> int:
        """Append events in one step, with what follows from them: metrics, progress, provenance.

        Returns: the id of the last event (0 for no events).

        Raises:
            RunNotFound: the run was deleted.
            QueueError: the run has ended (it was stopped, say); what a late worker tells is not taken.
            StoreError: they cannot be written, e.g. the disk is full; then none was.
        """
        if not events:
            return 0
        with self._transaction() as connection:
            found = connection.execute("SELECT status FROM runs WHERE id = ?", (run_id,)).fetchone()
            if found is None:
                raise RunNotFound(f"There is no run {run_id}.")
            if found[0] in FINISHED:
                raise QueueError(f"Run {run_id} has ended ({found[0]}) and takes no more events.")
            for event in events:
                last = connection.execute(
                    "INSERT INTO events (run_id, kind, at, data) VALUES (?, ?, ?, ?)",
                    (run_id, event.kind, event.at, _dump(event.data)),
                ).lastrowid
            self._apply(connection, run_id, events)
        return last

    def _apply(self, connection: sqlite3.Connection, run_id: int, events: Sequence[Event]) -> None:
        results = {
            event.data["name"]: _finite(event.data["value"])
            for event in events
            if event.kind == "metric" and event.data.get("step") is None
        }
        connection.executemany(
            "INSERT INTO metrics (run_id, name, value) VALUES (?, ?, ?)"
            " ON CONFLICT (run_id, name) DO UPDATE SET value = excluded.value",
            [(run_id, name, value) for name, value in results.items()],
        )
        progress = [event for event in events if event.kind == "progress"]
        if progress:
            connection.execute(
                "UPDATE runs SET progress = ? WHERE id = ?", (_dump(progress[-1].data), run_id)
            )
        for event in events:
            if event.kind == "provenance":
                known = connection.execute("SELECT provenance FROM runs WHERE id = ?", (run_id,)).fetchone()
                facts = json.loads(known[0]) | event.data
                connection.execute("UPDATE runs SET provenance = ? WHERE id = ?", (_dump(facts), run_id))

    def events(
        self,
        run_id: int,
        after: int = 0,
        kinds: Collection[Kind] | None = None,
        limit: int | None = None,
    ) -> builtins.list[Event]:
        """A run's events with an id above ``after``, oldest first."""
        where, values = "run_id = ? AND id > ?", [run_id, after]
        if kinds is not None:
            where += f" AND kind IN ({', '.join('?' * len(kinds))})"
            values.extend(kinds)
        with self._reading() as connection:
            found = connection.execute(
                f"SELECT id, run_id, kind, at, data FROM events WHERE {where} ORDER BY id LIMIT ?",
                (*values, -1 if limit is None else limit),
            ).fetchall()
        return [Event(kind, json.loads(data), at, id, run) for id, run, kind, at, data in found]

    def last_event(self) -> int:
        """The highest event id of all runs (0 = none): whether anything is new is one cheap question."""
        with self._reading() as connection:
            return connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0]

    # Reading

    def extent(self) -> tuple[int, int]:
        """How many runs there are, and the highest id (0 = none): one changes where a run is filed or deleted."""
        with self._reading() as connection:
            return connection.execute("SELECT count(*), coalesce(max(id), 0) FROM runs").fetchone()

    def get(self, run_id: int) -> Run:
        """One run.

        Raises:
            RunNotFound: there is none with that id.
        """
        with self._reading() as connection:
            return self._get(connection, run_id)

    def queued(self) -> builtins.list[Run]:
        """The waiting runs, next one first."""
        with self._reading() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE status = 'queued' ORDER BY filed, id"
            ).fetchall()
        return [_run(row) for row in found]

    def list(
        self,
        status: Status | Collection[Status] | None = None,
        group: str | None = None,
        task: str | None = None,
        method: str | None = None,
        limit: int | None = None,
    ) -> builtins.list[Run]:
        """Runs that fit, newest first. Take their dicts as read-only: ended runs are shared."""
        where, values = ["1"], []
        if status is not None:
            wanted = [status] if isinstance(status, str) else list(status)
            where.append(f"status IN ({', '.join('?' * len(wanted))})")
            values.extend(wanted)
        for column, value in (("race", group), ("task", task), ("method", method)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        with self._reading() as connection:
            heads = connection.execute(
                f"SELECT id, finished FROM runs WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?",
                (*values, -1 if limit is None else limit),
            ).fetchall()
            return self._whole(connection, heads)

    def position(self, run_id: int) -> int | None:
        """Place in the queue: 1 = next. None if the run is not waiting."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT 1 + (SELECT count(*) FROM runs AS other WHERE other.status = 'queued'"
                " AND (other.filed, other.id) < (runs.filed, runs.id))"
                " FROM runs WHERE id = ? AND status = 'queued'",
                (run_id,),
            ).fetchone()
        return found[0] if found else None

    def delete(self, run_id: int) -> None:
        """Take a finished run and its events out.

        Raises:
            RunNotFound: there is no such run.
            QueueError: it is queued or running.
        """
        with self._transaction() as connection:
            run = self._get(connection, run_id)
            if run.status in ACTIVE:
                raise QueueError(f"Run {run_id} is {run.status}. Stop it before you delete it.")
            connection.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    # Plumbing

    def _whole(
        self, connection: sqlite3.Connection, heads: Sequence[tuple[int, float | None]]
    ) -> builtins.list[Run]:
        """The runs of (id, finished). Ended runs change no more, so they are decoded once and kept."""
        known = {}
        for id, finished in heads:
            run = self._kept.get(id)
            if run is not None and run.finished == finished:
                known[id] = run
        missing = [id for id, _ in heads if id not in known]
        for start in range(0, len(missing), 500):
            part = missing[start : start + 500]
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM runs WHERE id IN ({', '.join('?' * len(part))})", part
            )
            known |= {row[0]: _run(row) for row in rows}
        if len(self._kept) > KEPT:
            self._kept.clear()
        self._kept.update((id, known[id]) for id in missing if id in known and known[id].finished is not None)
        return [known[id] for id, _ in heads if id in known]  # one may be deleted between the questions

    def _get(self, connection: sqlite3.Connection, run_id: int) -> Run:
        row = connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunNotFound(f"There is no run {run_id}.")
        return _run(row)

    def _refuse_twin(self, connection: sqlite3.Connection, key: str) -> None:
        twin = connection.execute(
            "SELECT id, status FROM runs WHERE key = ? AND status IN ('queued', 'running')", (key,)
        ).fetchone()
        if twin:
            raise QueueError(
                f"This very run is already {twin[1]} as run {twin[0]}. Wait for it, or change a setting."
            )

    def _refuse_full(self, connection: sqlite3.Connection, more: int, max_queued: int | None) -> None:
        waiting = connection.execute("SELECT count(*) FROM runs WHERE status = 'queued'").fetchone()[0]
        if max_queued is not None and waiting + more > max_queued:
            raise QueueError(
                f"The queue is full: {waiting} runs are waiting and at most {max_queued} may."
                " Wait for some to finish, or stop some."
            )

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            mode = "ro" if self.read_only else "rwc"
            connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode={mode}",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,  # close() closes those of other threads
            )
            connection.execute("PRAGMA foreign_keys = ON")
            if not self.read_only:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
            self._keep(connection)
            self._local.connection = connection
        return connection

    def _keep(self, connection: sqlite3.Connection) -> None:
        """Note the connection of this thread, and close those of threads that have ended: a page has ever new ones."""
        with self._lock:
            kept = [(threading.current_thread(), connection)]
            for thread, other in self._connections:
                if thread.is_alive():
                    kept.append((thread, other))
                else:
                    other.close()
            self._connections = kept

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(_explain(self.path, error)) from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            yield self._connection()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _run(row: tuple) -> Run:
    (id, key, method, params, model, task, seed, limit, group, status, error, created, started, finished,
     process, process_started, owner, resume, provenance, progress, metrics) = row  # fmt: skip
    return Run(
        id=id,
        key=key,
        method=method,
        params=json.loads(params),
        model=model,
        task=task,
        seed=seed,
        limit=limit,
        group=group,
        status=status,
        error=error,
        created=created,
        started=started,
        finished=finished,
        process=process,
        provenance=json.loads(provenance),
        metrics=json.loads(metrics),
        progress=None if progress is None else json.loads(progress),
        process_started=process_started,
        owner=owner,
        resume=bool(resume),
    )


def _dump(value: Any) -> str:
    """JSON with NaN and infinity as null: neither SQLite's JSON nor a browser reads them."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(value), ensure_ascii=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _explain(path: Path, error: Exception) -> str:
    text = str(error)
    if "disk is full" in text or getattr(error, "errno", None) == errno.ENOSPC or _no_space(path, text):
        return f"The disk is full: the results store {path} cannot be written. Free some space."
    if "readonly" in text or "read-only" in text or isinstance(error, PermissionError):
        return f"The results store {path} may not be written. Check its permissions, or set PLAYGROUND_HOME."
    if "malformed" in text or "not a database" in text:
        return (
            f"The results store {path} is damaged and cannot be read. Move it away (with its -wal and -shm"
            " files) to begin a new one."
        )
    if "locked" in text:
        return f"The results store {path} is in use by another program for too long. Try again."
    return f"The results store {path} cannot be used: {text}."


def _no_space(path: Path, text: str) -> bool:
    """SQLite calls some full disks an "I/O error"."""
    if "I/O error" not in text or not path.parent.is_dir():
        return False
    return shutil.disk_usage(path.parent).free < SPARE_BYTES
