"""The race of image methods: the settings of its runs."""

import pytest

from playground import settings as module
from playground.jobs import races
from playground.jobs.races import Racer
from playground.methods import presets
from playground.models import catalogue
from playground.settings import Settings


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_racer_has_the_preset_for_the_device_that_is_here(monkeypatch, device):
    monkeypatch.setattr(module, "_kind_here", lambda: device)
    model = catalogue.models()["smollm2-135m"]
    params = races.params_of(Racer("lora", {"epochs": 1}), model, Settings())
    assert params == {**presets.preset("lora", f"135m-{device}").values, "epochs": 1}
