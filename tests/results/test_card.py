"""The model card: valid front matter, nothing invented, and text that stays text."""

import json
import re
from dataclasses import replace

import pytest
import yaml

from playground.results import card
from playground.results.card import Subject
from playground.results.runs import Run

NASTY = '</td><img src=x onerror="alert(1)"> | [link](http://evil.example) `code`\n---\n# Title\x85 {{x}} "quoted": \\'
SUBJECT = Subject(
    method="LoRA",
    summary="Freezes the model.",
    paper="Hu et al. 2021, arXiv:2106.09685",
    model="SmolLM2 135M Instruct",
    repo="HuggingFaceTB/SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    note="Runs on a laptop.",
    task="Support desk",
    task_summary="Send messages to desks.",
    instruction="Name the desk.",
    items={"train": 120, "dev": 40, "test": 200},
    library="peft",
    load="```python\nprint(1)\n```",
    digests={"adapter_model.safetensors": "ab" * 32},
)
RUN = Run(
    id=12,
    key="k",
    method="lora",
    params={"rank": 8, "learning_rate": 0.002},
    model="smollm2-135m",
    task="support-desk",
    seed=3,
    limit=None,
    group=None,
    status="done",
    finished=1_795_000_000.0,
    provenance={
        "metric": "accuracy", "commit": "c" * 40, "device_name": "AMD EPYC", "libraries": {"torch": "2.13.0"},
        "model": "/home/someone/models/x", "model_revision": "r" * 40, "data_hash": "d" * 64, "dtype": "float32",
    },
    metrics={
        "quality": 0.853, "quality_low": 0.80, "quality_high": 0.90, "n": 200.0, "adapt_seconds": 147.0,
        "adapt_peak_bytes": 1.6e9, "trainable_parameters": 2442240.0, "dev_loss": None,
    },
)  # fmt: skip
BEFORE = replace(RUN, id=5, method="zero_shot", metrics={"quality": 0.17, "n": 200.0})


def front(text):
    start, matter, body = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(matter), body


def test_the_front_matter_is_what_the_hub_reads():
    found, _ = front(card.card(RUN, SUBJECT, "adapter", BEFORE))
    assert found == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["adaptation-playground", "lora"],
    }


def test_measured_figures_stand_in_it_and_others_do_not():
    text = card.card(RUN, SUBJECT, "adapter", BEFORE)
    assert "| Quality (accuracy), after | 85.3 % (80.0 % to 90.0 %), n = 200 |" in text
    assert "before: zero-shot, run 5 | 17.0 %, n = 200 |" in text
    assert "2 min 27 s" in text and "1.6 GB" in text and "2,442,240" in text
    assert "Dev loss" not in text and "None" not in text and "| nan" not in text
    assert "was not measured" in text  # forgetting
    assert "Seed".lower() in text and "| rank | 8 |" in text
    assert f"| SHA-256 of adapter\\_model.safetensors | {'ab' * 32} |" in text


def test_the_interval_is_told_by_the_metric():
    text = card.card(RUN, SUBJECT, "adapter")
    assert "Intervals are 95 % Wilson intervals" in text
    mean = replace(RUN, provenance=RUN.provenance | {"metric": "token_f1"})
    assert "Intervals are 95 % percentile bootstrap intervals" in card.card(mean, SUBJECT, "adapter")
    drawn = replace(RUN, metrics={"subject_fidelity": 0.7}, provenance={})
    assert "Intervals" not in card.card(drawn, SUBJECT, "adapter")


def test_without_a_before_none_is_invented():
    text = card.card(RUN, SUBJECT, "adapter")
    assert "before" not in text


def test_weights_that_are_not_the_hubs_are_said():
    rounded = replace(RUN, provenance=RUN.provenance | {"model_sha256": RUN.provenance["model_revision"]})
    assert "had been rounded" in card.card(rounded, SUBJECT, "adapter")
    assert "had been rounded" not in card.card(RUN, SUBJECT, "adapter")
    assert "had been rounded" not in card.card(rounded, SUBJECT, "merged")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1. one", "1\\. one"),
        ("0.002", "0.002"),
        ("# a", "\\# a"),
        ("a_b*c|d", "a\\_b\\*c\\|d"),
        ("- x", "\\- x"),
    ],
)
def test_what_markdown_would_read_otherwise_is_escaped(text, shown):
    assert card.escape(text) == shown


def test_a_run_without_figures_says_so():
    text = card.card(replace(RUN, metrics={}, provenance={}), SUBJECT, "merged")
    assert "Nothing was measured." in text
    assert "Commit" not in text


@pytest.mark.parametrize(
    "field",
    ["method", "summary", "paper", "model", "repo", "licence", "note", "task", "task_summary", "instruction"],
)
def test_text_stays_text(field):
    run = replace(RUN, params={NASTY: NASTY}, method=NASTY, provenance=RUN.provenance | {"commit": NASTY})
    text = card.card(run, replace(SUBJECT, **{field: NASTY}), "adapter", BEFORE)
    found, body = front(text)
    assert (
        "<img" not in body
        and "\n# Title" not in body
        and not re.search(r"(?<!\\)\]\(", body)
        and "\x85" not in text
    )
    assert "http://" not in body and body.count("\n---\n") == 0
    assert set(found) >= {"library_name", "tags"}
    assert all(isinstance(value, str) for name, value in found.items() if name != "tags")
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert all(len(line.replace("\\|", "").split("|")) == 4 for line in rows)


def test_surrogates_and_controls_do_not_break_the_front_matter():
    found, _ = front(card.card(RUN, replace(SUBJECT, repo="a/\ud83d\u2028\x00\u200b: #x"), "merged"))
    assert found["base_model"].startswith("a/")
    card.card(RUN, replace(SUBJECT, task="\ud83d"), "merged").encode("utf-8")


@pytest.mark.parametrize(
    ("licence", "id"),
    [
        ("Apache-2.0", "apache-2.0"), ("MIT", "mit"), ("", None), ("Llama 3.2 Community License", "llama3.2"),
        ("Gemma Terms of Use", "gemma"), ("My own: words", "other"),
    ],
)  # fmt: skip
def test_licences_are_the_hubs(licence, id):
    assert card.licence_id(licence) == id
    found, body = front(card.card(RUN, replace(SUBJECT, licence=licence), "adapter"))
    assert found.get("license") == id
    assert ("license_name" in found) == (id == "other")
    assert ("licence is not recorded" in body) == (licence == "")


def test_folders_of_the_machine_are_left_out():
    assert card.plain("/home/me/models/x") == "x"
    assert card.plain("C:\\models\\x") == "x"
    assert card.plain({"a": ["/root/.cache/y", 1]}) == {"a": ["y", 1]}
    assert card.plain("owner/name") == "owner/name"
    run = replace(
        RUN, params={"init_from": "/home/someone/x"}, provenance=RUN.provenance | {"commit": "/home/z"}
    )
    assert "/home" not in card.card(run, replace(SUBJECT, repo=None), "merged")
    assert "base_model" not in front(card.card(RUN, replace(SUBJECT, repo=None), "merged"))[0]


def test_the_card_is_pure():
    first = card.card(RUN, SUBJECT, "gguf", BEFORE)
    assert first == card.card(RUN, SUBJECT, "gguf", BEFORE)
    assert front(first)[0]["base_model_relation"] == "quantized"
    assert "not taken again on this file" in first
    assert json.dumps(first)
