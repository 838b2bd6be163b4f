"""What tests of several parts share."""

import os
import sys
import time
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from playground.errors import ModelUnavailable
from playground.results.runs import FINISHED, RunStore
from playground.settings import Settings

WORLD = Path(__file__).parent / "jobs" / "fake_world"


@pytest.fixture(scope="session")
def starter_home() -> Path:
    """A settings home that holds the starter models, fetched once and kept for later test runs.

    The folder is ``PLAYGROUND_TEST_HOME``, or ``~/.cache/playground-tests``.
    """
    from playground.models.sources import fetch_starters

    home = Path(os.environ.get("PLAYGROUND_TEST_HOME") or "~/.cache/playground-tests").expanduser()
    try:
        fetch_starters(Settings(home=home))
    except ModelUnavailable as error:
        pytest.fail(f"The tests with the real starter models need them once: {error}")
    return home


# Runs without a real model: see jobs/fake_world.


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", offline=True, device="cpu", max_queued=8)


@pytest.fixture
def world(monkeypatch):
    """Fake methods, task and model in this process and in every worker started from it."""
    monkeypatch.syspath_prepend(str(WORLD))
    path = os.pathsep.join([str(WORLD), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    import fake_methods

    from playground.data import tasks
    from playground.methods import registry
    from playground.models import catalogue

    found = {"zero_shot": fake_methods.ZeroShot(), "patient": fake_methods.Patient()}
    monkeypatch.setattr(registry, "methods", lambda: found)
    monkeypatch.setattr(tasks, "task", fake_methods.find_task)
    monkeypatch.setattr(catalogue, "model", fake_methods.find_model, raising=False)
    yield fake_methods
    sys.modules.pop("fake_methods", None)


@pytest.fixture
def store(settings):
    store = RunStore(settings.database)
    yield store
    store.close()


@pytest.fixture
def queue(settings, store, world):
    from playground.jobs.queue import Queue

    queue = Queue(settings, store)
    queue.start()
    yield queue
    queue.close()


@pytest.fixture
def ended(store):
    """Wait until a run has ended and return it."""

    def wait(run_id, seconds=20):
        return until(lambda: _if(store.get(run_id), lambda run: run.status in FINISHED), seconds)

    return wait


@pytest.fixture
def eventually():
    return until


def until(look, seconds=20):
    """Ask again until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing within {seconds} s")


def _if(value, test):
    return value if test(value) else None
