import sys
import threading
import time
import types
from types import SimpleNamespace

import image_world
import pytest

from playground.data import subjects
from playground.errors import AdapterError, QueueError, RunNotFound
from playground.jobs import arbiter as arbiter_module
from playground.jobs.arbiter import Arbiter, Turnstile
from playground.jobs.local import run_folder
from playground.jobs.queue import Queue
from playground.methods import registry
from playground.methods.base import Adapted
from playground.methods.diffusion import ImageContext
from playground.models import catalogue
from playground.models.catalogue import Model
from playground.results.runs import Filing

FIRST = Model("first", "First", "o/first", "main", "MIT", 10, "text", 40)
SECOND = Model("second", "Second", "o/second", "main", "MIT", 10, "text", 40)


@pytest.fixture
def loads(monkeypatch, world):
    """Which models were loaded, in order; nothing heavy is."""
    loaded = []

    def load(entry, settings, folder=None, quantization=None):
        loaded.append(entry.id)
        return SimpleNamespace(entry=entry, device=SimpleNamespace(type="cpu"))

    for name, members in {
        "playground.models.text": {"load": load},
        "playground.models.sources": {"locate": lambda entry, settings, progress=None: settings.models},
        "torch": {"cuda": SimpleNamespace(is_available=lambda: False)},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    entries = {"first": FIRST, "second": SECOND}
    monkeypatch.setattr(catalogue, "model", lambda id, settings=None: entries[id])
    return loaded


@pytest.fixture
def restored(monkeypatch, world):
    """Which runs were restored, and on which model."""
    seen = []

    def restore(self, params, context):
        seen.append((context.folder.name, params.steps, context.model))
        return Adapted(context.model, lambda inputs: [], 0)

    for method in registry.methods().values():
        monkeypatch.setattr(type(method), "restore", restore, raising=False)
    return seen


@pytest.fixture
def arbiter(settings, store):
    return Arbiter(settings, store)


def done(store, settings, method="patient", model="first", steps=3, folder=True):
    filing = Filing(f"{method}{model}{steps}{time.time()}", method, {"steps": steps}, model, "tiny")
    run = store.submit(filing)
    store.transition(run.id, "running", expect={"queued"})
    store.finish(run.id, "done")
    if folder:
        run_folder(settings, run.id).mkdir(parents=True)
    return run.id


def test_one_base_model_stays_loaded(arbiter, loads):
    for id in ("first", "first", "second", "first"):
        with arbiter.model(id) as model:
            assert model.entry.id == id
    assert loads == ["first", "second", "first"]


def test_one_at_a_time_in_the_order_asked(arbiter, loads):
    order, inside = [], []

    def ask(number):
        with arbiter.model("first"):
            inside.append(number)
            assert len(inside) == 1
            time.sleep(0.02)
            inside.remove(number)
            order.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    with arbiter.model("first"):
        for count, thread in enumerate(threads, 1):
            thread.start()
            while arbiter.waiting < count:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
    assert arbiter.waiting == 0


def test_an_error_inside_lets_the_next_one_in(arbiter, loads):
    with pytest.raises(ZeroDivisionError), arbiter.model("first"):
        1 / 0  # noqa: B018
    with arbiter.model("first"):
        pass


def test_who_gives_up_leaves_the_line():
    line = Turnstile()
    assert line.acquire()
    assert not line.acquire(timeout=0.01)
    line.release()
    assert line.acquire(timeout=0)
    line.release()


def test_a_finished_run_is_restored_once_on_a_model_of_its_own(arbiter, loads, restored, store, settings):
    run = done(store, settings)
    with arbiter.model("first") as base:
        pass
    for _ in range(2):
        with arbiter.adapted(run) as adapted:
            assert adapted.model is not base
    assert restored == [(str(run), 3, adapted.model)]
    assert loads == ["first", "first"]
    with arbiter.model("first") as again:
        assert again is base


def test_a_method_that_trains_nothing_shares_the_base_model(arbiter, loads, restored, store, settings):
    run = done(store, settings, "zero_shot")
    with arbiter.model("first") as base:
        pass
    with arbiter.adapted(run) as adapted:
        assert adapted.model is base
    assert loads == ["first"]


def test_only_finished_runs_with_a_folder_can_be_tried(arbiter, loads, restored, store, settings, world):
    waiting = store.submit(Filing("k", "patient", {}, "first", "tiny"))
    with pytest.raises(QueueError, match="queued"), arbiter.adapted(waiting.id):
        pass
    with pytest.raises(RunNotFound), arbiter.adapted(999):
        pass
    with pytest.raises(AdapterError, match="gone"), arbiter.adapted(done(store, settings, folder=False)):
        pass
    with arbiter.model("first"):  # none of these left the line blocked
        pass


@pytest.mark.parametrize(
    ("method", "values"), [("dreambooth_lora", {"steps": 1, "rank": 2, "batch_size": 1}), ("image_base", {})]
)
def test_a_finished_image_run_draws_after_its_subject_was_deleted(
    arbiter, store, settings, tmp_path, method, values
):
    from playground.models import image

    model, learnt = image_world.model_folder(tmp_path / "model"), image_world.subject(settings)
    run = Queue(settings, store).submit(method, values, learnt.id, str(model))
    technique, folder = registry.method(method), run_folder(settings, run.id)
    folder.mkdir(parents=True)
    loaded = image.load(catalogue.model(run.model, settings), settings, folder=model)
    context = ImageContext(learnt, loaded, folder, run.seed)
    for _ in technique.adapt(technique.Params.parse(values), context):
        pass
    store.transition(run.id, "running", expect={"queued"})
    store.finish(run.id, "done")
    subjects.delete_subject(learnt.id, settings)
    drawn = [arbiter.pictures(run.id, ["a zwx mug"], [1], steps=2, adapted=now) for now in (True, False)]
    assert [one.shape for one in drawn] == [(1, 3, 32, 32)] * 2


def test_models_go_before_a_job_only_when_memory_is_short(arbiter, loads, monkeypatch):
    with arbiter.model("first"):
        pass
    memory = SimpleNamespace(available=10**11)
    monkeypatch.setattr(arbiter_module.psutil, "virtual_memory", lambda: memory)
    assert arbiter.release()
    with arbiter.model("first"):
        pass
    assert loads == ["first"]
    memory.available = 10**9
    assert arbiter.release()
    with arbiter.model("first"):
        pass
    assert loads == ["first", "first"]


def test_a_job_does_not_wait_for_ever_for_an_answer(arbiter, loads, monkeypatch):
    monkeypatch.setattr(arbiter_module, "PATIENCE", 0.05)
    with arbiter.model("first"):
        assert not arbiter.release(force=True)
    assert arbiter.release(force=True)
