"""Device, number type and threads follow the machine and the settings."""

import os

import pytest
import torch

from playground.errors import InvalidInput
from playground.models import device
from playground.settings import Settings


def test_a_cpu_computes_in_float32_unless_told_otherwise():
    assert device.choose(Settings(device="cpu")).dtype == torch.float32
    assert device.choose(Settings(device="cpu", dtype="bfloat16")).dtype == torch.bfloat16


def test_threads_stay_within_what_the_process_may_use():
    chosen = device.choose(Settings(device="cpu"))
    assert 1 <= chosen.threads <= len(os.sched_getaffinity(0))
    assert device.choose(Settings(device="cpu", threads=3)).threads == 3


def test_the_containers_quota_counts(monkeypatch):
    monkeypatch.setattr(device, "_quota", lambda: 1)
    device.available_cores.cache_clear()
    assert device.available_cores() == 1
    device.available_cores.cache_clear()


def test_the_description_says_when_bfloat16_is_faster(monkeypatch):
    monkeypatch.setattr(device, "cpu_speed", lambda dtype: {"float32": 100, "bfloat16": 250}[dtype])
    assert "bfloat16 multiplies 2.5 times faster" in device.choose(Settings(device="cpu")).description
    monkeypatch.setattr(device, "cpu_speed", lambda dtype: 100)
    assert "bfloat16" not in device.choose(Settings(device="cpu")).description


@pytest.mark.parametrize(
    ("maker", "avx512", "amx", "pays"),
    [
        ("GenuineIntel", True, True, True),
        ("GenuineIntel", True, False, False),
        ("AuthenticAMD", True, False, True),
        ("AuthenticAMD", False, False, False),
        ("AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", True, False, True),  # as on Windows
    ],
)
def test_bfloat16_pays_where_the_instructions_are_faster(monkeypatch, maker, avx512, amx, pays):
    monkeypatch.setattr(device, "_cpu", lambda key: maker)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert device.half_pays.__wrapped__() is pays


def test_the_timing_gives_the_threads_back():
    before = torch.get_num_threads()
    device.cpu_speed.cache_clear()
    assert device.cpu_speed("float32", 0.01) > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:99", "cpu:1"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(InvalidInput, match=name) as error:
        device.choose(Settings(device=name))
    assert error.value.field == "device"


def test_an_unknown_number_type_is_refused():
    with pytest.raises(InvalidInput, match="int4"):
        device.choose(Settings(device="cpu", dtype="int4"))
