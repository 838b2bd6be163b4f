import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fresh import loaded

from playground import cli
from playground.jobs import doctor, local, processes
from playground.jobs.queue import Queue
from playground.results.runs import Filing, RunStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def playground(settings, world, monkeypatch, capsys):
    """Call the command line in this process; returns exit code, output, messages."""
    from playground.models import sources

    monkeypatch.setattr(sources, "at_hand", lambda entry, settings: True)
    for name, value in local.environment(settings).items():
        if name.startswith("PLAYGROUND_") and name != local.PARENT:
            monkeypatch.setenv(name, value)

    def call(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


COMMON = ("--task", "tiny", "--model", "fake")


def test_a_race_prints_one_json_object_a_row(playground):
    code, out, err = playground("race", *COMMON, "--methods", "zero_shot,patient", "--limit", 5, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["method"] for row in rows] == ["zero_shot", "patient"]
    assert [row["limit"] for row in rows] == [5, 5]
    assert [row["n"] for row in rows] == [5, 5]
    assert rows[1]["difference"] == 0.0
    assert rows[1]["family"] == "parametric"
    assert rows[1]["provenance"]["data_hash"] == "hash-of-tiny"
    assert rows[0]["group"] == rows[1]["group"]
    assert "\x1b" not in err  # no terminal, no control codes


def test_a_race_without_json_is_a_readable_table(playground):
    code, out, _ = playground("race", *COMMON, "--methods", "zero_shot,patient")
    header, first, second = out.splitlines()
    assert code == 0
    assert header.split()[:3] == ["Run", "Method", "Quality"]
    assert "Zero-shot" in first
    assert "50.0 %" in first
    assert "1 MB" in second


def test_without_names_the_usual_methods_race(playground, store):
    playground("race", *COMMON, "--json")
    assert [run.method for run in store.list()] == [
        "zero_shot"
    ]  # of the usual four the only one in this world


def test_a_sweep_prints_its_rows_and_the_best_by_dev_loss(playground, store):
    given = ("--set", "steps=1,4,2", "--set", "pause=0.001", "--limit", 3)
    code, out, _ = playground("sweep", "--method", "patient", *COMMON, *given, "--json")
    before, *rows, last = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert before["method"] == "zero_shot"
    assert {row["difference"] for row in rows} == {0.0}
    assert sorted(row["params"]["steps"] for row in rows) == [1, 2, 4]
    assert {(row["params"]["pause"], row["limit"], row["group"]) for row in rows} == {
        (0.001, 3, last["sweep"])
    }
    best = next(row for row in rows if row["params"]["steps"] == 4)
    assert last == {
        "sweep": last["sweep"], "best_run": best["run"], "best": {"steps": 4}, "dev_loss": 0.25,
    }  # fmt: skip
    code, out, _ = playground("sweep", "--method", "patient", *COMMON, "--set", "steps=1,3")
    assert code == 0
    assert "Lowest dev loss: steps=3" in out


def test_presets_are_listed_and_used(playground, monkeypatch, store):
    from playground.methods import presets

    found = (
        presets.Preset("patient", "135m", "cpu", True, "By trying.", {"steps": 2, "pause": 0.002}),
        presets.Preset("patient", "8b", "cuda", False, "By guessing.", {"steps": 3}),
    )
    monkeypatch.setattr(presets, "_read", lambda path: found)
    code, out, _ = playground("presets")
    assert code == 0
    assert "patient 135m-cpu: steps=2, pause=0.002" in out
    assert "patient 8b-cuda (untried): steps=3" in out
    code, out, _ = playground("presets", "--method", "patient", "--json")
    assert [entry["name"] for entry in json.loads(out)] == ["135m-cpu", "8b-cuda"]
    code, out, _ = playground(
        "run", "patient", *COMMON, "--preset", "135m-cpu", "--pause", 0.001, "--no-before", "--json"
    )
    assert code == 0
    assert json.loads(out)["params"] | {"way": "", "loud": ""} == {
        "steps": 2, "pause": 0.001, "way": "", "loud": "",
    }  # fmt: skip
    code, _, err = playground("run", "patient", *COMMON, "--preset", "1b-cpu")
    assert code == 2
    assert "135m-cpu, 8b-cuda" in err


def test_a_run_without_lora_has_no_spectrum(playground, store):
    playground("run", "patient", *COMMON)
    code, out, err = playground("spectrum", 2)
    assert (code, out) == (1, "")
    assert "no adapter" in err


def test_what_trains_nothing_or_is_not_done_has_no_spectrum(playground, store):
    playground("run", "patient", *COMMON)
    code, out, err = playground("spectrum", 1)
    assert (code, out) == (2, "")
    assert "Zero-shot trains nothing" in err
    waiting = store.submit(Filing("k", "patient", {}, "fake", "tiny"))
    code, _, err = playground("spectrum", waiting.id)
    assert code == 2
    assert "is queued; only a finished run" in err


def test_options_of_run_come_from_the_parameters(playground):
    code, out, _ = playground("run", "patient", *COMMON, "--steps", 3, "--loud", "--seed", 4, "--json")
    row = json.loads(out.splitlines()[-1])
    assert code == 0
    assert row["params"] == {"steps": 3, "pause": 0.01, "way": "done", "loud": True}
    assert (row["seed"], row["limit"]) == (4, None)
    code, out, _ = playground("run", "patient", "--help")
    assert code == 0
    assert "How often it waits. [1 to 100000; default 1]" in " ".join(out.split())


def test_every_row_has_its_difference_when_it_is_printed(playground):
    _, out, _ = playground("race", *COMMON, "--methods", "patient,zero_shot", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["method"], row["difference"]) for row in rows] == [("zero_shot", None), ("patient", 0.0)]


def test_a_single_run_brings_its_own_before_once(playground):
    _, out, _ = playground("run", "patient", *COMMON, "--limit", 5, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["method"], row["limit"]) for row in rows] == [("zero_shot", 5), ("patient", 5)]
    assert rows[1]["difference"] == 0.0
    _, out, _ = playground("run", "patient", *COMMON, "--limit", 5, "--steps", 2, "--seed", 3, "--json")
    row = json.loads(out)
    assert (row["method"], row["difference"]) == ("patient", 0.0)
    _, out, _ = playground("run", "patient", *COMMON, "--limit", 4, "--no-before", "--json")
    assert json.loads(out)["difference"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("race", *COMMON, "--methods", "zero_shot,magic"), "magic"),
        (("race", *COMMON, "--methods", ","), "at least one method"),
        (("race", "--task", "nothing", "--model", "fake"), "nothing"),
        (("race", "--task", "tiny", "--model", "no/such"), "no/such"),
        (("race", *COMMON, "--limit", "0"), "limit"),
        (("race", *COMMON, "--limit", "x"), "limit"),
        (("race", *COMMON, "--seed", "-3"), "seed"),
        (("race",), "--task"),
        (("run", "patient", *COMMON, "--steps", "0"), "Steps cannot be 0. It must be between 1 and 100000."),
        (("run", "patient", *COMMON, "--steps", "77"), "77"),
        (("run", "patient", *COMMON, "--way", "up"), "Way cannot be 'up'"),
        (("run", "patient", *COMMON, "--rank", "1"), "--rank"),
        (("run", "magic", *COMMON), "magic"),
        (("table", "--format", "pdf"), "pdf"),
        (("table", "--limit-runs", "0"), "at least 1"),
        (("sweep", "--method", "patient", *COMMON, "--set", "steps"), "NAME=VALUES"),
        (("sweep", "--method", "patient", *COMMON, "--set", "steps=1"), "one or two parameters"),
        (("sweep", "--method", "patient", *COMMON, "--set", "steps=1,0"), "Steps cannot be 0"),
        (("sweep", "--method", "zero_shot", *COMMON, "--set", "steps=1,2"), "does not train"),
        (("sweep", "--method", "zero_shot", *COMMON, "--set", "rank=1,2"), "does not train"),
        (("sweep", "--method", "patient", *COMMON, "--set", "rank=1,2"), "no parameter “rank”"),
        (
            ("sweep", "--method", "patient", *COMMON, "--set", f"steps={','.join(map(str, range(1, 30)))}"),
            "29",
        ),
        (("presets", "--method", "magic"), "magic"),
        (("spectrum", "7"), "no run 7"),
        (("items", "99999999999999999999"), "at most"),
        (("card", "99999999999999999999"), "at most"),
        (("spectrum", "99999999999999999999"), "at most"),
        (("export", "99999999999999999999", "--format", "adapter", "--out", "x"), "at most"),
        (("items", "9223372036854775807"), "no run 9223372036854775807"),
        ((), "COMMAND"),
        (("fly",), "fly"),
    ],
)
def test_bad_input_is_one_clear_line_and_code_2(playground, store, arguments, words):
    code, out, err = playground(*arguments)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err
    assert store.list() == []


def test_a_wrong_setting_is_bad_input(playground, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_PORT", "many")
    code, _, err = playground("table")
    assert code == 2
    assert "PLAYGROUND_PORT" in err


def test_a_failed_run_is_code_1_and_says_why(playground):
    code, out, err = playground("run", "patient", *COMMON, "--way", "fail", "--json", "--no-before")
    row = json.loads(out)
    assert code == 1
    assert (row["status"], row["quality"]) == ("failed", None)
    assert "It did not work" in row["error"]
    assert "It did not work" in err


def test_the_table_in_its_forms_and_the_report(playground):
    playground("race", *COMMON, "--methods", "zero_shot,patient", "--limit", 5)
    code, out, _ = playground("table")
    assert code == 0
    assert out.startswith("| Run | Method |")
    assert "Patient &lt;i&gt;method&lt;/i&gt;" in out
    code, out, _ = playground("table", "--format", "csv", "--limit-runs", 1)
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["method"], row["quality"], row["limit"]) == ("patient", "0.5", "5")
    code, out, _ = playground("table", "--format", "json", "--task", "support-desk")
    assert json.loads(out) == []
    code, out, _ = playground("table", "--format", "report")
    assert out.startswith("# Comparison")
    assert "- **Patient &lt;i&gt;method&lt;/i&gt; (run 2)**: " in out


def test_a_table_of_a_task_without_runs_is_empty_and_of_no_task_refused(playground, store):
    for known in ("support-desk", "mascot"):
        code, out, _ = playground("table", "--task", known)
        assert code == 0 and out.count("\n") == 2
    store.submit(Filing("k", "patient", {}, "fake", "deleted-since"))
    code, out, _ = playground("table", "--task", "deleted-since")
    assert code == 0 and "deleted-since" in out
    for form in ("md", "report"):
        code, out, err = playground("table", "--task", "nope", "--format", form)
        assert (code, out) == (2, "")
        assert "no task or subject “nope”" in err and "support-desk" in err and "mascot" in err


def test_the_same_run_twice_at_once_is_refused(playground, settings, store, world):
    waiting = Queue(settings, store).submit("patient", {}, "tiny", "fake")
    code, _, err = playground("run", "patient", *COMMON)
    assert code == 2
    assert f"run {waiting.id}" in err
    assert store.get(waiting.id).status == "queued"


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_stops_the_run(settings, store, world, eventually, number, expected):
    code = (
        "import sys; from playground.models import sources; sources.at_hand = lambda *_: True\n"
        "from playground import cli\n"
        "sys.exit(cli.main(['run', 'patient', '--task', 'tiny', '--model', 'fake', '--steps', '9000', '--json']))"
    )
    environment = local.environment(settings)
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # a shell's background job ignores it, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    run = eventually(lambda: next((run for run in store.list(method="patient") if run.progress), None))
    start = time.monotonic()
    os.kill(command.pid, number)
    _, err = command.communicate(timeout=20)
    assert command.returncode == expected
    assert time.monotonic() - start < 4
    assert store.get(run.id).status == "cancelled"
    assert processes.started(run.process) is None
    assert b"Traceback" not in err


def test_importing_the_command_line_is_light():
    assert loaded("import playground.cli", ("torch", "gradio")) == []


def test_doctor_tells_the_facts(playground, monkeypatch):
    start = time.monotonic()
    code, out, _ = playground("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert time.monotonic() - start < 15
    assert found["device"]["name"] == "cpu"
    assert all(found["libraries"][name] for name in ("torch", "peft", "bitsandbytes", "gguf", "accelerate"))
    assert found["disk_free_bytes"] > 0
    assert set(found["network"]) == {"hub", "package_index"}
    assert "smollm2-135m" in found["models"]
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    code, out, _ = playground("doctor")
    assert code == 0
    assert "Device:" in out
    assert "no-such-package missing" in out


def test_a_newer_store_is_said(playground, settings):
    store = RunStore(settings.database)
    store._connection().execute("PRAGMA user_version = 1000")
    store.close()
    code, _, err = playground("table")
    assert code == 1
    assert "newer version" in err


def test_items_are_told_beside_the_base_models_and_filtered(playground, settings):
    playground("race", *COMMON, "--methods", "zero_shot,patient", "--limit", 5, "--json")
    code, out, _ = playground("items", 2, "--filter", "both-right", "--json")
    told = json.loads(out)
    assert code == 0
    assert len(told) == 5
    assert {item["change"] for item in told} == {"both-right"}
    assert told[0]["before"]["correct"] is told[0]["after"]["correct"] is True
    code, out, _ = playground("items", 2, "--filter", "was-right-is-wrong", "--json")
    assert (code, json.loads(out)) == (0, [])
    code, out, _ = playground("items", 2)
    assert "before: run 1" in out
    assert "Right before and now: 5" in out
    code, out, _ = playground("items", 1)
    assert "no zero-shot run" in out


@pytest.mark.parametrize(
    ("asked", "words"), [((99,), "no run 99"), ((1, "--filter", "lost"), "invalid choice")]
)
def test_items_of_no_run_or_kind_are_refused(playground, asked, words):
    code, _, err = playground("items", *asked)
    assert code == 2
    assert words in err
