import hashlib
import sqlite3

import pytest

from playground.errors import StoreError
from playground.results import migrations
from playground.results.migrations import MIGRATIONS
from playground.results.runs import Filing, RunStore

# Append-only: a step that was released never changes. Add the hash of a new one.
RELEASED = ["b15fdc5aa1c844f6", "39635f9a66ba9d45"]


def schema(path):
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_every_older_version_comes_to_the_same_schema(tmp_path, version, monkeypatch):
    fresh, old = tmp_path / "fresh.sqlite3", tmp_path / "old.sqlite3"
    RunStore(fresh).close()
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:version])
        connection = sqlite3.connect(old, isolation_level=None)
        migrations.migrate(connection)
        connection.close()
    store = RunStore(old)
    assert store._connection().execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert store.submit(Filing("k", "m", {}, "m", "t")).id == 1
    store.close()
    assert schema(old) == schema(fresh)


def test_runs_survive_the_step_from_version_one(tmp_path):
    path = tmp_path / "old.sqlite3"
    connection = sqlite3.connect(path)
    connection.executescript(MIGRATIONS[0])
    connection.execute(
        "INSERT INTO runs (key, method, params, model, task, seed, status, created, filed)"
        " VALUES ('k', 'lora', '{}', 'm', 't', 0, 'done', 1.0, 1.0)"
    )
    connection.execute(
        "INSERT INTO events (run_id, kind, at, data) VALUES (1, 'log', 1.0, '{\"text\": \"x\"}')"
    )
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    store = RunStore(path)
    assert store.get(1).status == "done"
    assert store.events(1, kinds=["log"])[0].data == {"text": "x"}
    store.close()


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "store.sqlite3"
    RunStore(path).close()
    before = schema(path)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE extra (a); CREATE nonsense"))
    with pytest.raises(StoreError):
        RunStore(path)
    assert schema(path) == before


def test_a_newer_store_is_refused(tmp_path):
    path = tmp_path / "store.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer version of the playground"):
        RunStore(path)


def test_released_steps_are_never_edited():
    found = [hashlib.sha256(step.encode()).hexdigest()[:16] for step in MIGRATIONS]
    assert found == RELEASED
