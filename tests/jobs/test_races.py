"""The race of image methods: the settings of its runs."""

import pytest

from playground import settings as module
from playground.jobs import races
from playground.jobs.races import Racer
from playground.methods import presets
from playground.models import catalogue
from playground.settings import Settings


def entry(size, device, tried, steps):
    return presets.Preset("dreambooth", size, device, tried, "By trying.", {"steps": steps})


@pytest.mark.parametrize(("device", "steps"), [("cpu", 10), ("cuda", 20)])
def test_a_racer_has_the_preset_for_the_device_that_is_here(monkeypatch, device, steps):
    found = entry("15m", "cpu", True, 10), entry("15m", "cuda", True, 20)
    monkeypatch.setattr(presets, "_read", lambda path: found)
    assert params(monkeypatch, device) == {"steps": steps, "resolution": 1}


def test_a_preset_that_nobody_has_tried_races_nowhere(monkeypatch):
    monkeypatch.setattr(presets, "_read", lambda path: (entry("15m", "cuda", False, 20),))
    assert params(monkeypatch, "cuda") == {"resolution": 1}
    monkeypatch.setattr(
        presets, "_read", lambda path: (entry("15m", "cuda", False, 20), entry("15m", "cpu", True, 10))
    )
    assert params(monkeypatch, "cuda") == {"steps": 10, "resolution": 1}


def params(monkeypatch, device):
    monkeypatch.setattr(module, "_kind_here", lambda: device)
    model = catalogue.models()["starter-stickers"]
    return races.params_of(Racer("dreambooth", {"resolution": 1}), model, Settings())
