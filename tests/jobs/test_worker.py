"""What a worker does before the run itself."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from playground.jobs import worker
from playground.models.device import half_pays


@pytest.mark.parametrize(("method", "few"), [("lora", True), ("rag", True), ("dreambooth", False)])
def test_text_runs_keep_few_kernels_and_image_runs_keep_theirs(monkeypatch, method, few):
    environment = {}
    monkeypatch.setattr("os.environ", environment)
    worker._spare_memory(SimpleNamespace(method=method))
    assert environment == (
        {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"} if few else {}
    )


GROWTH = """
import torch
import torch.nn.functional as F
from playground.jobs.worker import keep_few_kernels

if {few}:
    keep_few_kernels()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

weight = torch.randn(1536, 576).bfloat16()
before = resident()
for rows in range(100, 350):
    F.linear(torch.randn(rows, 576).bfloat16(), weight)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_products_of_many_lengths_hold_little_memory():
    def growth(few):
        code = GROWTH.format(few=few)
        return int(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        )

    kept = growth(few=True)
    assert kept < 120e6
    if half_pays():  # elsewhere no kernels are made
        assert growth(few=False) > 1.5 * kept
