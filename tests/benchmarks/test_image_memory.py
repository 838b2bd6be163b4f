"""What the catalogue says of the memory that adapting an image model takes is what the estimate gives today."""

import json
from pathlib import Path

import pytest
from benchmark_modules import load

from playground.models import catalogue
from playground.settings import Settings


@pytest.fixture
def bench(monkeypatch):
    return load("image_memory", monkeypatch)


@pytest.mark.parametrize("model", ["starter-stickers", "stable-diffusion-1.5"])
def test_the_catalogue_says_what_the_estimate_gives(bench, model, settings: Settings):
    entry = catalogue.model(model, settings)
    assert entry.adapting == {method: bench.needed(model, method) for method in bench.METHODS}
    assert entry.parameters == bench.parameters(model)


def test_every_image_model_is_estimated(bench, settings: Settings):
    for entry in catalogue.models("image").values():
        assert set(entry.adapting) == set(bench.METHODS), entry.id


def test_the_estimate_of_the_starter_model_is_near_what_was_measured(bench):
    """Within 15 % of the peak in the recorded runs with the bundled presets."""
    recorded = json.loads(Path(bench.__file__).with_name("results").joinpath("subjects.json").read_text())
    peaks = {
        row["method"]: row["spread"]["adapt_peak_bytes"]["mean"]
        for subject in recorded["subjects"]
        for row in subject["rows"]
        if row["params"].get("prior_preservation")
    }
    for method in ("dreambooth", "dreambooth_lora"):
        assert bench.needed("starter-stickers", method) == pytest.approx(peaks[method], rel=0.15)
