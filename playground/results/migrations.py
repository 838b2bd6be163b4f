"""The store's schema as an append-only list of steps; ``PRAGMA user_version`` counts those taken.

Never edit or remove a step that was released: append one.
"""

import sqlite3

from playground.errors import StoreError

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,
        method TEXT NOT NULL,
        params TEXT NOT NULL,
        model TEXT NOT NULL,
        task TEXT NOT NULL,
        seed INTEGER NOT NULL,
        item_limit INTEGER,
        race TEXT,
        status TEXT NOT NULL,
        error TEXT,
        created REAL NOT NULL,
        filed REAL NOT NULL,
        started REAL,
        finished REAL,
        process INTEGER,
        process_started TEXT,
        owner TEXT,
        resume INTEGER NOT NULL DEFAULT 0,
        provenance TEXT NOT NULL DEFAULT '{}',
        progress TEXT
    );
    CREATE UNIQUE INDEX runs_active_key ON runs(key) WHERE status IN ('queued', 'running');
    CREATE INDEX runs_status ON runs(status, filed, id);
    CREATE INDEX runs_task ON runs(task, id);
    CREATE INDEX runs_race ON runs(race, id);
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        kind TEXT NOT NULL,
        at REAL NOT NULL,
        data TEXT NOT NULL
    );
    CREATE INDEX events_run ON events(run_id, id);
    CREATE TABLE metrics (
        run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        value REAL,
        PRIMARY KEY (run_id, name)
    ) WITHOUT ROWID;
    """,
    # The kinds of a run's events are read apart: curves without the answers, answers without the log.
    """
    CREATE INDEX events_kind ON events(run_id, kind, id);
    """,
)


def version(connection: sqlite3.Connection) -> int:
    """How many steps the file has taken."""
    return connection.execute("PRAGMA user_version").fetchone()[0]


def migrate(connection: sqlite3.Connection) -> None:
    """Take the missing steps, all or none. ``connection`` must be in autocommit mode.

    Raises:
        StoreError: the file was written by a newer version of the playground.
    """
    _refuse_newer(version(connection))
    if version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = version(connection)  # another process may have been quicker
        _refuse_newer(done)
        for step in MIGRATIONS[done:]:
            for statement in filter(str.strip, step.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _refuse_newer(found: int) -> None:
    if found > len(MIGRATIONS):
        raise StoreError(
            f"The results store was written by a newer version of the playground (schema {found}, this one "
            f"knows {len(MIGRATIONS)}). Update the playground, or set PLAYGROUND_HOME to another folder."
        )
