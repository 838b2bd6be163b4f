"""What a worker does before the run itself."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from playground.events import Event
from playground.jobs import worker
from playground.models.device import half_pays
from playground.results.runs import Filing, RunStore


@pytest.mark.parametrize(("method", "few"), [("lora", True), ("rag", True), ("dreambooth", False)])
def test_text_runs_keep_few_kernels_and_image_runs_keep_theirs(monkeypatch, method, few):
    environment = {}
    monkeypatch.setattr("os.environ", environment)
    worker._spare_memory(SimpleNamespace(method=method))
    assert environment == (
        {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"} if few else {}
    )


@pytest.mark.parametrize("written", [True, False])
def test_an_event_that_json_cannot_hold_fails_the_run_instead_of_losing_others(tmp_path, eventually, written):
    store = RunStore(tmp_path / "store.sqlite3")
    run = store.submit(Filing("k", "m", {}, "m", "t"))
    store.transition(run.id, "running", expect={"queued"})
    writer = worker.EventWriter(store, run.id)
    writer.add(Event.metric("n", np.int64(8)))
    if written:
        eventually(lambda: not writer._thread.is_alive())
        with pytest.raises(TypeError, match="int64"):
            writer.add(Event.metric("quality", 0.9))
    with pytest.raises(TypeError, match="int64"):
        writer.close()
    store.close()


GROWTH = """
import torch
import torch.nn.functional as F
from playground.jobs.worker import keep_few_kernels

if {few}:
    keep_few_kernels()

def resident():  # the heap alone: how much of PyTorch's files is in memory depends on what else runs
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) * 1024

weight = torch.randn(1536, 576).bfloat16()
before = resident()
for rows in range(100, 350):
    F.linear(torch.randn(rows, 576).bfloat16(), weight)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_products_of_many_lengths_hold_little_memory():
    one_heap = os.environ | {"OMP_NUM_THREADS": "1"}  # threads have heaps of their own, used as it comes

    def growth(few):
        command = [sys.executable, "-c", GROWTH.format(few=few)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=one_heap)
        return int(run.stdout)

    kept = growth(few=True)
    assert kept < 120e6
    if half_pays():  # elsewhere no kernels are made
        assert growth(few=False) > 1.5 * kept
