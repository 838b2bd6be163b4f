"""The house's rules: who may import whom, and what must not be loaded at the start."""

import ast
import sys
from pathlib import Path

import pytest
from fresh import loaded

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "playground"

HEAVY = {"torch", "transformers", "diffusers", "peft", "sentence_transformers", "chromadb", "accelerate"}

# Everyone may import these.
COMMON = {"", "errors", "settings", "events"}

# Room or module → what it may import at the top of a file, and what only inside functions (while a run
# works, where the heavy libraries load too). The most specific name counts.
LIGHT_MODELS = {"models.catalogue", "models.chat_date", "models.sources"}
WORK = {"training", "evaluation", "retrieval", "models", "data"}
RULES: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "settings": (set(), set()),
    "events": (set(), set()),
    "data": ({"data"}, {"data"}),
    "models": ({"models"}, {"models"}),
    "retrieval": ({"retrieval", "data", "models"}, set()),
    "training": ({"training", "data", "models"}, set()),
    "evaluation": ({"evaluation", "data", "models", "retrieval", "methods.base", "training.saving"}, set()),
    "methods": ({"methods", "data"} | LIGHT_MODELS, WORK),
    "results": ({"results"}, set()),
    "jobs": ({"jobs", "methods", "results", "data"} | LIGHT_MODELS, WORK),
    "ui": ({"ui", "jobs", "results", "methods", "data"} | LIGHT_MODELS, WORK),
    "cli": ({"cli", "jobs", "results", "methods", "data"} | LIGHT_MODELS, WORK),
    "starter": ({"starter"}, set()),
    "__main__": ({"cli"}, set()),
}

# Rooms whose modules may load heavy libraries at the top of a file; others inside functions only.
HEAVY_ROOMS = {"training", "evaluation", "retrieval", "models", "starter"}
LIGHT_MODULES = {"models", "models.catalogue", "models.chat_date", "models.sources"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path):
    """(module's full name, whether at the top of the file) of every import that runs."""
    found = []

    def visit(node, top):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where a name comes from"
            found.extend((_submodule(node.module, alias.name), top) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def _submodule(module, name):
    """``from package import module`` imports package.module."""
    place = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if place.is_dir() or place.with_suffix(".py").is_file() else module


def within(name, allowed):
    return any(name == room or (room and name.startswith(f"{room}.")) for room in allowed)


def rule(name):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (found := RULES.get(".".join(parts[:length]))) is not None:
            return found
    raise AssertionError(f"playground.{name} belongs to no room: say in RULES what it may import")


def violations(path):
    name = name_of(path)
    if not name:
        return []
    at_top, inside = rule(name)
    wrong = []
    for target, top in imports(path):
        root, _, rest = target.partition(".")
        if root == "playground" and rest not in COMMON:
            if not within(rest, at_top if top else at_top | inside):
                wrong.append(f"{name} imports {target}" + (" at its top" if top else ""))
        elif root == "gradio" and name.split(".")[0] != "ui":
            wrong.append(f"{name} imports gradio")
        elif root in HEAVY and top and (name.split(".")[0] not in HEAVY_ROOMS or name in LIGHT_MODULES):
            wrong.append(f"{name} loads {root} at its top")
    return wrong


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_downward(path):
    assert violations(path) == []


@pytest.mark.parametrize(
    ("place", "code", "expected"),
    [
        ("results/x.py", "from playground.methods import registry", "results.x imports playground.methods.registry at its top"),
        ("results/x.py", "def f():\n  from playground.jobs.queue import Queue", "results.x imports playground.jobs.queue"),
        ("jobs/x.py", "from playground.models import text", "jobs.x imports playground.models.text at its top"),
        ("jobs/x.py", "def f():\n  import gradio", "jobs.x imports gradio"),
        ("methods/x.py", "import torch.nn as nn", "methods.x loads torch at its top"),
        ("training/x.py", "import playground.ui.build", "training.x imports playground.ui.build at its top"),
    ],
)  # fmt: skip
def test_the_rules_notice(tmp_path, monkeypatch, place, code, expected):
    path = tmp_path / "playground" / place
    path.parent.mkdir(parents=True)
    path.write_text(code)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "playground")
    assert violations(path) == [expected]


def test_what_only_type_checkers_read_is_free(tmp_path, monkeypatch):
    path = tmp_path / "playground" / "jobs" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import torch\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "playground")
    assert violations(path) == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("playground.jobs.worker", HEAVY | {"gradio", "pandas"}),
        ("playground.jobs.queue", HEAVY | {"gradio", "pandas"}),
        ("playground.jobs.arbiter", HEAVY | {"gradio", "pandas"}),
        ("playground.cli", HEAVY | {"gradio", "pandas"}),
        ("playground.results.comparison", HEAVY | {"gradio", "pandas", "pydantic"}),
        ("app", HEAVY),
    ],
)
def test_importing_leaves_what_is_heavy_unloaded(module, absent):
    if module == "app" and not (ROOT / "app.py").is_file():
        pytest.skip("there is no app.py yet")
    assert loaded(f"import {module}", absent) == []


def test_the_registry_is_light():
    assert loaded("from playground.methods.registry import methods; methods()", HEAVY) == []
