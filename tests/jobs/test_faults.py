"""What goes wrong in whole runs with real workers: too little memory, kill -9, a stop in the middle."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fresh import loaded

from playground.jobs import local
from playground.jobs.queue import Queue
from playground.jobs.worker import MEMORY, explain

LIMITED = Path(__file__).with_name("limited_world")


@pytest.fixture
def limited(monkeypatch):
    """Workers started from here read ``limited_world``."""
    path = os.pathsep.join(filter(None, [str(LIMITED), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    return monkeypatch


@pytest.fixture
def queue(settings, store):
    queue = Queue(replace(settings, threads=1), store)
    queue.start()
    yield queue
    queue.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_too_little_memory_says_what_to_lower_and_the_next_run_works(
    limited, queue, settings, store, model, words, ended
):
    limited.setenv("TEST_HEADROOM", str(700_000_000))
    train = settings.tasks / words / "train.jsonl"
    long = {"id": "long", "input": "x" * 20_000, "target": "a"}  # its attention mask alone takes 1.6 GB
    train.write_text(train.read_text() + json.dumps(long) + "\n")
    params = {"epochs": 1, "max_length": 32768, "batch_size": 64}
    run = ended(queue.submit("lora", params, words, model, limit=2).id, 120)
    assert run.status == "failed"
    assert run.error.startswith("Out of memory while training with batch size 64 and maximum length 32768.")
    assert "Lower the batch size" in run.error
    again = ended(queue.submit("lora", params | {"max_length": 512}, words, model, limit=2).id, 120)
    assert (again.status, again.error) == ("done", None)
    said = [event.data["text"] for event in store.events(again.id, kinds=["log"])]
    assert any("1 of 41 training examples are longer than 512 tokens" in line for line in said)


def test_running_out_of_memory_outside_the_training_says_what_to_lower_too():
    import torch

    told = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."))
    assert told == (
        "Out of memory: lower the batch size or the maximum length, or choose a smaller model "
        "(CUDA out of memory. Tried to allocate 2.00 GiB.)."
    )


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_a_library_that_gets_no_memory_is_told_as_such(said):
    assert explain(RuntimeError(said)) == f"{MEMORY} ({said})."


def test_telling_a_failure_loads_nothing_heavy():
    telling = "from playground.jobs.worker import MEMORY, explain; explain(RuntimeError('broken')); explain(MemoryError())"
    assert loaded(telling, {"torch", "transformers", "peft"}) == []


def test_a_run_killed_and_then_stopped_by_hand_ends_as_an_undisturbed_one(
    limited, queue, settings, store, model, words, ended, eventually
):
    limited.setenv("TEST_SAVE_OFTEN", "1")
    params = {"epochs": 6, "batch_size": 4, "dropout": 0.1, "weight_decay": 0.01}  # 60 steps
    whole = ended(queue.submit("lora", params, words, model, limit=2).id, 300)
    run = queue.submit("lora", params, words, model, limit=2)

    def reached(step):
        now = store.get(run.id)
        return now.status == "running" and max(_curve(store, run.id), default=0) >= step and now

    os.kill(eventually(lambda: reached(12), 300).process, signal.SIGKILL)
    assert ended(run.id).status == "failed"
    killed = store.last_event()
    queue.resume(run.id)
    eventually(lambda: reached(24), 300)
    queue.cancel(run.id)
    stopped = store.last_event()
    queue.resume(run.id)
    again = ended(run.id, 300)
    assert (whole.status, again.status, again.error) == ("done", "done", None)
    wanted = _curve(store, whole.id)
    for cut, step in ((killed, 12), (stopped, 24)):
        resumed = _curve(store, run.id, cut)
        assert min(resumed) >= step  # from a checkpoint, not from the start
        assert resumed == pytest.approx({step: wanted[step] for step in resumed}, rel=1e-6)
    assert max(resumed) == 60
    for name in ("train_loss", "dev_loss", "quality", "retention_divergence"):
        assert again.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-5), name
    for one, other in zip(_weights(settings, whole.id), _weights(settings, run.id), strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-9)


def _curve(store, run_id, after=0):
    points = [event.data for event in store.events(run_id, after, kinds=["metric"])]
    return {p["step"]: p["value"] for p in points if p["name"] == "train_loss" and p["step"]}


def _weights(settings, run_id):
    from safetensors.numpy import load_file

    found = load_file(local.run_folder(settings, run_id) / "adapter" / "adapter_model.safetensors")
    return [found[name] for name in sorted(found)]
