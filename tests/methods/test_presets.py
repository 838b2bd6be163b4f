"""The shipped presets: readable, named as they should be, and valid for their methods."""

import tomllib

import pytest
from fresh import loaded

from playground.errors import InvalidInput
from playground.methods import presets
from playground.methods.registry import methods

PARAMETRIC = [id for id, method in methods().items() if method.family == "parametric"]


@pytest.mark.parametrize("preset", presets.presets(), ids=lambda preset: f"{preset.method}-{preset.name}")
def test_every_entry_fits_its_method(preset):
    technique = methods()[preset.method]
    assert technique.family == "parametric"
    params = technique.Params.parse(preset.values)
    assert {name: getattr(params, name) for name in preset.values} == preset.values


@pytest.mark.parametrize("preset", presets.presets(), ids=lambda preset: f"{preset.method}-{preset.name}")
def test_every_entry_says_how_it_was_found(preset):
    assert len(preset.found.split()) >= 5
    assert "\n" not in preset.found
    assert isinstance(preset.tried, bool)
    assert ("untried" in preset.title) is not preset.tried


@pytest.mark.parametrize("id", PARAMETRIC)
def test_every_method_that_trains_has_one_for_the_starter_model_on_a_cpu(id):
    starter = {"text": "135m-cpu", "image": "15m-cpu"}[methods()[id].modality]
    assert starter in [preset.name for preset in presets.presets(id)]


def test_the_file_holds_nothing_else():
    found = tomllib.loads(presets.FILE.read_text(encoding="utf-8"))
    for entries in found.values():
        for entry in entries.values():
            assert set(entry) <= {"tried", "found", "values"}


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="135m-cpu"):
        presets.preset("lora", "70b-cpu")
    with pytest.raises(InvalidInput, match="has no presets"):
        presets.preset("zero_shot", "135m-cpu")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('[lora.huge-cpu]\ntried = true\nfound = "x"', "huge-cpu"),
        ('[lora.135m-tpu]\ntried = true\nfound = "x"', "135m-tpu"),
        ('[lora.135m]\ntried = true\nfound = "x"', "135m"),
    ],
)
def test_a_misnamed_entry_is_an_error(tmp_path, text, wrong):
    file = tmp_path / "presets.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=wrong):
        presets._read(file)


@pytest.mark.parametrize(
    ("parameters", "size"),
    [(134_515_008, "135m"), (500_000_001, "1b"), (8_030_000_000, "8b"), (70_000_000_000, None), (None, None)],
)
def test_a_model_has_a_size_class(parameters, size):
    assert presets.size_of(parameters) == size


@pytest.mark.parametrize(
    ("parameters", "device", "name"),
    [
        (134_515_008, "cpu", "135m-cpu"),
        (134_515_008, "cuda", "135m-cuda"),
        (134_515_008, "mps", "135m-cpu"),  # none is for it: one that was tried
        (1_200_000_000, "cpu", "1b-cuda"),
        (15_023_787, "cpu", None),
        (None, "cpu", None),
    ],
)
def test_the_preset_that_fits_a_model(parameters, device, name):
    found = presets.fitting("lora", parameters, device)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("parameters", "name"), [(134_515_008, "135m-cpu"), (1_200_000_000, None), (None, None)]
)
def test_of_tried_presets_alone_one_for_another_device_is_better_than_none(parameters, name):
    found = presets.fitting("lora", parameters, "cuda", only_tried=True)
    assert (found.name if found else None) == name


def test_reading_them_is_light():
    assert loaded("from playground.methods.presets import presets; presets()", ["torch"]) == []
