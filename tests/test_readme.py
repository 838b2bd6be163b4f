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

    for path in [*tables.RESULTS.glob("*.json"), *tables.REFERENCE.glob("*.json")]:
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            assert row["what"] in README


def test_every_technique_and_command_is_named(tables):
    from playground.cli import COMMANDS
    from playground.methods.registry import methods

    for method in methods().values():
        if not method.__module__.startswith("playground."):
            continue  # another package's
        assert f"| {method.title} | `{method.id}` |" in README
    named = set(re.findall(r"^python -m playground (\S+)", README, re.M))
    assert named == {command.name for command in COMMANDS}


def test_commands_are_those_that_the_parser_takes():
    from playground.cli import parser

    for line in re.findall(r"^python -m playground (.+)$", README, re.M):
        parser().parse_args(line.split())


def test_without_measured_techniques_there_is_no_table(tables, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.measured() == tables.taught() == ""


def spread(mean, low=None, high=None):
    return {
        "mean": mean,
        "low": mean if low is None else low,
        "high": mean if high is None else high,
        "sd": None,
    }


def test_measured_techniques_are_a_table(tables, monkeypatch, tmp_path):
    import json

    run = {"seed": 0, "other_load_cores": 1.25, "adapt_seconds": 61.0}
    figures = {
        "adapt_seconds": spread(61.0, 55.0, 70.0), "adapt_peak_bytes": spread(1.5e9),
        "stored_bytes": spread(9.8e6), "trainable_parameters": spread(2_442_240),
    }  # fmt: skip
    test = {"difference": 0.5, "low": 0.43, "high": 0.57, "p_value": 0.0001}
    lora = {
        "title": "LoRA", "runs": [run, run | {"seed": 1, "other_load_cores": 0.1, "adapt_seconds": 55.0}], "against_zero_shot": test,
        "spread": figures | {"quality": spread(0.5, 0.45, 0.55), "retention_divergence": spread(0.2, 0.1, 0.3)},
    }  # fmt: skip
    full = {
        "title": "Full", "runs": [run], "against_zero_shot": test | {"p_value": 0.25},
        "spread": figures | {"quality": spread(0.6), "retention_divergence": None},
    }  # fmt: skip
    zero = {"quality": 0.0, "adapt_peak_bytes": 4e8, "stored_bytes": 0, "n": 200}
    body = {
        "task": "support-desk", "model": "smollm2-135m", "limit": None, "preset": "135m-cpu",
        "machine": "One, 2 cores", "zero_shot": zero, "methods": [lora, full],
    }  # fmt: skip
    (tmp_path / "methods.json").write_text(json.dumps(body))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = tables.measured().splitlines()
    assert lines[2].startswith("| Zero-shot | 0.0 % |")
    assert lines[3] == (
        "| Full (1 seed) | 60.0 % | +50.0 (+43.0 to +57.0), p = 0.250 |  | 61 s | 1.5 GB | 9.8 MB |"
        " 2,442,240 |"
    )
    assert lines[4].startswith(
        "| LoRA | 50.0 % (45.0 % – 55.0 %) | +50.0 (+43.0 to +57.0), p < 0.001 | 0.200 ("
    )
    assert " | 55 s | 1.5 GB |" in lines[4]
    assert "all 200 test items" in lines[-1] and "seeds 0, 1:" in lines[-1]
    assert "up to 1.2 cores busy" in lines[-1]


def test_taught_subjects_are_a_table(tables, monkeypatch, tmp_path):
    import json

    run = {"seed": 0, "judge": "starter CLIP", "other_load_cores": None}
    figures = {
        "subject_fidelity": spread(0.5, 0.45, 0.55), "prompt_fidelity": spread(0.7), "class_drift": spread(0.02),
        "adapt_seconds": spread(100.0), "adapt_peak_bytes": spread(9e8), "stored_bytes": spread(5e7),
    }  # fmt: skip
    full = {
        "method": "dreambooth", "title": "DreamBooth with prior", "spread": figures, "runs": [run],
        "above_base": spread(0.25, 0.2, 0.3),
    }  # fmt: skip
    base = full | {"method": "image_base", "title": "Base image model"}
    subject = {"title": "Mascot", "rows": [base, full]}
    body = {"model": "starter-stickers", "machine": "One, 2 cores", "subjects": [subject]}
    (tmp_path / "subjects.json").write_text(json.dumps(body))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = tables.taught().splitlines()
    assert lines[2].startswith("| Mascot | Base image model | 0.500 (0.450 – 0.550) |  | 0.700 |")
    assert lines[3] == (
        "| Mascot | DreamBooth with prior | 0.500 (0.450 – 0.550) | 0.250 (0.200 – 0.300) | 0.700 | 0.020 |"
        " 100 s | 900 MB | 50 MB |"
    )
    assert "seeds 0:" in lines[-1] and "Judged by starter CLIP" in lines[-1]
    assert lines[-1].endswith("One, 2 cores.")


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
