"""The benchmark of techniques and seeds, with methods that only wait."""

import json

import pytest
from benchmark_modules import load

from playground.jobs import local
from playground.methods import presets
from playground.results.runs import RunStore


@pytest.fixture
def bench(settings, world, monkeypatch, tmp_path):
    from playground.models import sources

    module = load("bench_methods", monkeypatch)
    monkeypatch.setitem(module.record.__globals__, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sources, "at_hand", lambda entry, settings: True)
    values = presets.Preset("patient", "135m", "cpu", True, "By trying.", {"steps": 2, "pause": 0.001})
    monkeypatch.setattr(presets, "_read", lambda path: (values,))
    for name, value in local.environment(settings).items():
        if name.startswith("PLAYGROUND_") and name != local.PARENT:
            monkeypatch.setenv(name, value)
    (settings.models / "fake").mkdir(parents=True)

    def call(*arguments):
        common = ("--task", "tiny", "--model", "fake", "--home", str(tmp_path / "own"))
        return module.main([*common, *arguments])

    call.results = tmp_path / "results" / "methods.json"
    call.home = tmp_path / "own"
    return call


def runs(home):
    store = RunStore(home / "playground.sqlite3")
    try:
        return [(run.method, run.seed, run.status) for run in reversed(store.list())]
    finally:
        store.close()


def test_every_seed_is_run_once_and_what_is_finished_is_kept(bench, capsys):
    assert bench("--methods", "patient", "--seeds", "0", "--limit", "5") == 0
    assert runs(bench.home) == [("zero_shot", 0, "done"), ("patient", 0, "done")]
    assert (bench.home / "models" / "fake").is_dir()
    assert bench("--methods", "patient", "--seeds", "0,3", "--limit", "5") == 0
    assert runs(bench.home)[2:] == [("patient", 3, "done")]
    body = json.loads(bench.results.read_text())
    assert (body["task"], body["limit"], body["rows"]) == ("tiny", 5, [])
    assert (body["zero_shot"]["n"], body["zero_shot"]["quality"]) == (5, 0.5)
    (row,) = body["methods"]
    assert [run["seed"] for run in row["runs"]] == [0, 3]
    assert row["params"]["steps"] == 2
    assert row["spread"]["quality"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "sd": 0.0}
    assert row["spread"]["stored_bytes"]["mean"] == 42
    assert row["spread"]["dev_loss"]["mean"] == 0.5
    assert row["spread"]["retention_accuracy_change"] is None  # not measured, so no number
    assert (row["against_zero_shot"]["n"], row["against_zero_shot"]["difference"]) == (5, 0.0)
    assert "patient, seed 3: 0.500 of 5 items" in capsys.readouterr().out


def test_a_run_that_failed_is_told_and_tried_again(bench, monkeypatch, capsys):
    good = presets._read(None)
    bad = presets.Preset("patient", "135m", "cpu", True, "By trying.", {"way": "fail"})
    monkeypatch.setattr(presets, "_read", lambda path: (bad,))
    for _ in range(2):
        assert bench("--methods", "patient", "--seeds", "0", "--limit", "5") == 1
        assert "It did not work" in capsys.readouterr().err
    assert runs(bench.home) == [("zero_shot", 0, "done"), ("patient", 0, "failed")]
    assert json.loads(bench.results.read_text())["methods"] == []
    monkeypatch.setattr(presets, "_read", lambda path: good)
    assert bench("--methods", "patient", "--seeds", "0", "--limit", "5") == 0
    assert len(json.loads(bench.results.read_text())["methods"]) == 1


def test_what_was_recorded_elsewhere_is_not_run_again(bench, monkeypatch, capsys):
    assert bench("--methods", "patient", "--seeds", "0", "--limit", "5") == 0
    (before,) = json.loads(bench.results.read_text())["methods"]
    assert (
        bench("--methods", "patient", "--seeds", "0,1", "--limit", "5", "--home", str(bench.home / "new"))
        == 0
    )
    assert runs(bench.home / "new") == [("patient", 1, "done")]
    (row,) = json.loads(bench.results.read_text())["methods"]
    assert [run["seed"] for run in row["runs"]] == [0, 1] and row["runs"][0] == before["runs"][0]
    other = presets.Preset("patient", "135m", "cpu", True, "By trying.", {"steps": 3, "pause": 0.001})
    monkeypatch.setattr(presets, "_read", lambda path: (other,))
    assert (
        bench("--methods", "patient", "--seeds", "1", "--limit", "5", "--home", str(bench.home / "new")) == 0
    )
    (row,) = json.loads(bench.results.read_text())["methods"]
    assert [run["seed"] for run in row["runs"]] == [1]  # what another preset gave does not count


def test_what_has_no_preset_is_refused_before_anything_runs(bench, capsys):
    assert bench("--methods", "patient,magic") == 2
    assert "magic" in capsys.readouterr().err
    assert runs(bench.home) == []


def test_scores_of_several_seeds_are_paired_by_item(monkeypatch):
    module = load("bench_methods", monkeypatch)
    assert module._mean_scores(["1 0", "0 0"]) == [{"item": "0", "score": 0.5}, {"item": "1", "score": 0.0}]
    assert module.spread([1.0, 3.0]) == {"mean": 2.0, "low": 1.0, "high": 3.0, "sd": pytest.approx(2**0.5)}
    assert module.spread([1.0])["sd"] is None
