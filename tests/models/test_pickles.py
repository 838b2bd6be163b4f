"""Weights come from safetensors alone, whatever lies beside them."""

import ast
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from playground.errors import ModelUnavailable
from playground.models import sources
from playground.models import text as language
from playground.models.catalogue import model as find
from playground.settings import Settings

PACKAGE = Path(__file__).parents[2] / "playground"
DECOYS = ("pytorch_model.bin", "model.pt", "adapter_model.bin", "training_args.bin", "optimizer.pt")


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def evil(tmp_path):
    """A pickle that would leave a mark, and the mark."""
    mark = tmp_path / "it ran"
    return pickle.dumps(Evil(mark)), mark


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", device="cpu", threads=1, offline=True)


@pytest.fixture(autouse=True)
def no_unpickling(monkeypatch):
    """Not even the careful way of reading a pickle is taken."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))


def load(folder, settings):
    entry = find(str(folder), settings)
    return language.load(entry, settings)


def test_pickles_beside_the_weights_are_left_alone(tiny_folder, settings, evil):
    for name in DECOYS:
        (tiny_folder / name).write_bytes(evil[0])
    assert load(tiny_folder, settings).context_length == 256
    assert not evil[1].exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_a_folder_with_pickles_alone_is_refused(tiny_folder, settings, evil, name):
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / name).write_bytes(evil[0])
    entry = find(str(tiny_folder), settings)
    with pytest.raises(ModelUnavailable):
        language.load(entry, settings)
    with pytest.raises(ModelUnavailable):
        language.load(entry, settings, folder=tiny_folder)
    assert not evil[1].exists()


def test_an_index_that_names_pickles_is_refused(tiny_folder, settings, evil):
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / "part.bin").write_bytes(evil[0])
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "part.bin"}}
    (tiny_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnavailable):
        load(tiny_folder, settings)
    assert not evil[1].exists()


def test_an_adapter_in_the_models_folder_is_refused(tiny_folder, settings, evil):
    (tiny_folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"})
    )
    (tiny_folder / "adapter_model.bin").write_bytes(evil[0])
    with pytest.raises(ModelUnavailable, match="adapter_config.json.*base model itself"):
        load(tiny_folder, settings)
    assert not evil[1].exists()


def test_a_config_that_names_pickled_weights_is_refused(tiny_folder, settings, evil):
    config = json.loads((tiny_folder / "config.json").read_text())
    (tiny_folder / "config.json").write_text(
        json.dumps(config | {"transformers_weights": "adapter_model.bin"})
    )
    (tiny_folder / "adapter_model.bin").write_bytes(evil[0])
    with pytest.raises(ModelUnavailable, match="adapter_model.bin, which is not safetensors"):
        load(tiny_folder, settings)
    assert not evil[1].exists()


def test_the_hub_is_asked_for_no_pickles():
    import fnmatch

    assert not [name for name in DECOYS if any(fnmatch.fnmatch(name, p) for p in sources.NEEDED_FILES)]


def test_no_code_of_ours_reads_a_pickle():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                found += [path.name] * any(
                    name.split(".")[0] in {"pickle", "joblib", "dill"} for name in names
                )
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                unpickles = [
                    k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"
                ]
                unsafe = called == "torch.load" and "starter" not in path.parts
                found += [f"{path.name}: {called}"] * bool(unpickles or unsafe)
    assert found == []
