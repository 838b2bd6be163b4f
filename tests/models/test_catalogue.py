"""The catalogue reads, is cheap, and says what there is."""

import math

import pytest
from fresh import loaded
from safetensors import safe_open

from playground.errors import ModelUnavailable
from playground.models import catalogue
from playground.settings import ASSETS, Settings


def test_every_entry_has_its_facts():
    entries = catalogue.models()
    assert {"smollm2-135m", "all-minilm-l6-v2"} == {id for id, entry in entries.items() if entry.starter}
    for id, entry in entries.items():
        assert entry.id == id
        assert entry.licence and entry.title and entry.sources
        assert entry.memory == (None if entry.parameters is None else 4 * entry.parameters)
        comes_along = any(source.startswith("assets:") for source in entry.sources)
        assert comes_along or f"hub:{entry.repo}" in entry.sources
        if any(source.startswith("wheel:") for source in entry.sources):
            assert len(entry.sha256) == 64


def test_models_of_one_modality():
    assert set(catalogue.models("embedding")) == {"all-minilm-l6-v2"}
    assert "smollm2-135m" in catalogue.models("text")


@pytest.mark.parametrize("name", ["smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", " SmolLM2-135M "])
def test_an_entry_is_found_by_id_or_repository(name):
    assert catalogue.model(name).id == "smollm2-135m"


def test_a_hub_name_makes_an_entry_that_claims_nothing():
    entry = catalogue.model("someone/some-model")
    assert entry.sources == ("hub:someone/some-model",)
    assert entry.parameters is None and entry.memory is None and entry.licence == ""


def test_a_folder_makes_an_entry(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert catalogue.model(str(tmp_path)).sources == (f"path:{tmp_path.resolve()}",)


@pytest.mark.parametrize(
    "name",
    ["", "nonsense", "../../etc", "a/b/c", "a/../b", "<b>x</b>", "/no/such/folder", "a\0b", "x" * 5000],
)
def test_anything_else_is_refused_with_what_there_is(name, tmp_path):
    with pytest.raises(ModelUnavailable, match="smollm2-135m"):
        catalogue.model(name)


def test_the_refusal_names_what_is_at_hand(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"owner/name"):
        catalogue.model("nonsense", Settings(home=tmp_path))


def test_importing_it_loads_nothing_heavy():
    code = "from playground.models import catalogue, sources; catalogue.models()"
    assert loaded(code, ("torch", "transformers", "huggingface_hub", "numpy")) == []


@pytest.mark.starter
def test_the_starter_image_models_parameters_are_those_of_its_files():
    counted = 0
    for part in ("unet", "vae", "text_encoder"):
        for path in (ASSETS / "starter-image" / part).glob("*.safetensors"):
            with safe_open(path, "pt") as opened:
                counted += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118 - it is no dictionary
    assert catalogue.models("image")["starter-stickers"].parameters == counted
