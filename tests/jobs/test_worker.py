"""What a worker does before the run itself."""

from types import SimpleNamespace

import pytest

from playground.jobs import worker


@pytest.mark.parametrize(("method", "few"), [("lora", True), ("rag", True), ("dreambooth", False)])
def test_text_runs_keep_few_kernels_and_image_runs_keep_theirs(monkeypatch, method, few):
    environment = {}
    monkeypatch.setattr("os.environ", environment)
    worker._spare_memory(SimpleNamespace(method=method))
    assert environment == ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"} if few else {})
