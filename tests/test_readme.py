"""The README's figures are those that the benchmarks wrote, and its commands are those that are run."""

import importlib.util
import re
from pathlib import Path

import pytest

from playground.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables():
    path = ROOT / "tests" / "benchmarks" / "readme_table.py"
    spec = importlib.util.spec_from_file_location("readme_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_are_those_of_the_benchmarks(tables):
    assert tables.with_tables(README) == README, "run python tests/benchmarks/readme_table.py"


def test_no_result_is_left_out_of_the_table(tables):
    import json

    for path in tables.RESULTS.glob("*.json"):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            assert row["what"] in README


def test_both_commands_stand_in_the_first_screen():
    first = README.split("---", 2)[2].splitlines()[:40]
    assert "pip install -r requirements.txt && python app.py" in first
    assert "pip install -r requirements-dev.txt && python -m pytest" in first


def test_the_space_runs_the_versions_that_are_pinned():
    pinned = re.search(r"^gradio==(.+)$", (ROOT / "requirements.txt").read_text(), re.M).group(1)
    front = README.split("---", 2)[1]
    assert f"sdk_version: {pinned}" in front
    assert "app_file: app.py" in front
    assert "suggested_hardware:" in front


def test_every_setting_that_is_named_exists():
    named = set(re.findall(r"`PLAYGROUND_([A-Z_]+)`", README))
    assert named
    assert {name.lower() for name in named} <= set(Settings().__dict__)


def test_every_picture_is_there():
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
