"""The panel before a start: what its HTML says, and that nothing in it is taken for HTML."""

import re
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from playground.data import tasks
from playground.data.overlap import MOST_TEXTS
from playground.methods.lora import LoRAParams
from playground.models import catalogue
from playground.results.runs import RunStore
from playground.settings import Settings
from playground.training.data_view import DataView, Finding, Shown, Token
from playground.training.estimate import Estimate, Memory
from playground.ui.components import charts, data_view, estimate
from playground.ui.panels import before

NASTY = '<img src=x onerror="alert(1)">{{value}}${1+1}`'
MEMORY = Memory(538_000_000, 10_000_000, 10_000_000, 20_000_000, 500_000_000, 555_000_000)
TOLD = Estimate(
    device="cpu",
    examples=120,
    left_out=3,
    steps=150,
    batch_size=4,
    effective_batch=8,
    tokens=37_000,
    trainable_parameters=2_442_240,
    total_parameters=136_957_248,
    memory=MEMORY,
    seconds=200.0,
    tokens_per_second=185.0,
    flops_per_token=5e8,
    speed="probe",
    dry=True,
    free=19 * 10**9,
    verdict="fits",
    advice="",
)


def visible(html):
    return re.sub(r"<[^>]+>", " ", html)


def test_the_card_says_what_will_run():
    words = " ".join(visible(estimate.card(TOLD, "SmolLM2", "Support desk")).split())
    for part in ("SmolLM2", "Support desk: 120 examples, 3 too long", "4 × 2 = 8 examples a step", "150",
                 "2,442,240 (1.8 %)", "1.63 GB", "3 min 20 s", "Fits: about 1.63 GB needed, 19 GB are free (CPU).",
                 "Weights 538 MB", "Optimiser 20 MB", "Activations 500 MB", "short probe"):  # fmt: skip
        assert part in words


def test_the_card_says_where_the_time_is_from():
    told = replace(TOLD, speed="earlier run")
    assert "from an earlier run of this method and model here, at 185.0 tokens/s" in estimate.card(
        told, "m", "t"
    )
    told = replace(TOLD, speed="another method's run")
    assert "another method&#x27;s run with this model here: about 185.0 tokens/s" in estimate.card(
        told, "m", "t"
    )
    assert "as busy as it is now: about 185.0 tokens/s" in estimate.card(TOLD, "m", "t")
    assert "from a formula" in estimate.card(replace(TOLD, dry=False), "m", "t")


@pytest.mark.parametrize(
    ("changes", "words", "tone"),
    [
        ({"verdict": "tight", "free": 17 * 10**8, "advice": "Lower it."}, "Tight: about 1.63 GB", "pg-warn"),
        ({"verdict": "does not fit", "free": 10**9, "advice": "Lower it."}, "Will not fit", "pg-bad"),
        ({"verdict": None, "free": None}, "how much memory is free here is not known", "pg-info"),
        ({"steps": 0, "examples": 0, "seconds": 0.0}, "Nothing can be trained", "pg-"),
    ],
)
def test_verdicts(changes, words, tone):
    html = estimate.card(replace(TOLD, **changes), "m", "t")
    assert words in html and tone in html
    assert ("Lower it." in html) == bool(changes.get("advice"))


def test_names_are_shown_as_text():
    html = estimate.card(TOLD, NASTY, NASTY)
    assert "<img" not in html and "{{" not in html and "${" not in html


def test_estimated_stands_beside_measured_with_its_error():
    metrics = {"estimated_peak_bytes": 1.1e9, "adapt_peak_bytes": 1e9, "estimated_adapt_seconds": 60.0}
    words = visible(estimate.beside(metrics))
    assert "estimated 1.1 GB; measured 1 GB, error +10 %" in words
    assert "estimated 60 s; not measured yet" in words
    assert estimate.beside({"adapt_peak_bytes": 1e9}) == ""


def shown(*tokens, left_out=False):
    return Shown(NASTY, tokens, left_out)


def test_chips_mark_what_is_learnt_and_escape_everything():
    html = data_view.tokens(
        shown(
            Token(1, "<|im_end|>", "context", special=True),
            Token(2, " two\n", "context"),
            Token(3, NASTY, "learnt"),
            Token(4, "<unk>", "context", unknown=True),
        )
    )
    assert "<img" not in html and "{{" not in html and "${" not in html
    assert html.count('class="pg-token pg-learnt" title') == 1
    assert 'class="pg-token pg-special" title' in html and 'class="pg-token pg-unknown" title' in html
    assert "&lt;|im_end|&gt;" in html and "⏎" in html and "·" in html
    assert "4 tokens, 1 of them learnt" in html


def test_chips_of_an_input_that_counts_say_how_much():
    weighted = Shown("one", (Token(1, "in", "weighted"), Token(2, "out", "learnt")), False, 0.05)
    html = data_view.tokens(weighted)
    assert html.count('class="pg-token pg-weighted" title') == 1
    assert "each token counts 0.05 in the loss" in html
    assert "pg-weighted" not in data_view.tokens(shown(Token(2, "out", "learnt")))


def test_a_left_out_example_says_so_and_a_long_one_is_cut():
    many = [Token(at, "x", "context") for at in range(data_view.MOST_TOKENS + 7)]
    html = data_view.tokens(shown(*many, left_out=True))
    assert "the training leaves it out" in html and "and 7 more tokens" in html


VIEW = DataView("t", 3, 3, 100, (10, 20, 120), ("c",), 25, 5, ())


def test_the_overview_counts_and_calms():
    words = " ".join(visible(data_view.overview(VIEW)).split())
    assert "10, 20, 120 tokens" in words and "5 of 30 (16.7 %)" in words
    assert "No example is too long" in words and "maximum length 100" in words


def test_findings_stand_worst_first_and_escaped():
    found = (
        Finding("part", "info", MOST_TEXTS, "a part"),
        Finding("leak to test", "bad", 9, "a leak", (f"{NASTY} = b",)),
        Finding("duplicate", "warn", 1, "a copy", ("a = b",)),
    )
    html = data_view.overview(replace(VIEW, findings=found))
    assert html.index("a leak") < html.index("a copy") < html.index("a part")
    assert "<img" not in html and "and 8 more" in html and "No example is" not in html


def test_an_empty_view_draws_nothing_wrong():
    empty = Finding("empty", "bad", 0, "The task has no training examples.")
    html = data_view.overview(DataView("t", 0, 0, 512, (), (), 0, 0, (empty,)))
    assert "no training examples" in html and "<svg" not in html


@pytest.mark.parametrize("values", [[5], [5] * 100, list(range(1000)), [1, 100_000]])
@pytest.mark.parametrize("mark", [None, (50, "limit"), (10**6, "limit")])
def test_histograms_hold_every_value(values, mark):
    html = charts.histogram(values, "Tokens", mark)
    counts = [
        int(count.replace(",", "")) for count in re.findall(r"<title>[\d.e+]+ to [\d.e+]+: ([\d,]+)<", html)
    ]
    assert sum(counts) == len(values)
    assert "nan" not in html and 'height="-' not in html and 'width="-' not in html
    assert charts.histogram([], "Tokens", mark) == ""


@pytest.fixture
def session(tmp_path):
    settings = Settings(home=tmp_path, offline=True, device="cpu", threads=1)
    store = RunStore(settings.database)
    yield SimpleNamespace(settings=settings, store=store)
    store.close()


@pytest.fixture
def tiny_model(tmp_path, monkeypatch):
    """A folder with a tiny model, and its task in place of the bundled ones."""
    import tiny

    model = tiny.language_model()
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    found = {"colours": tiny.task(), "empty": replace(tiny.task(), train=()), "nasty": nasty(tiny.task())}
    monkeypatch.setattr(tasks, "task", lambda id, settings: found[id])
    return str(tmp_path / "model")


def nasty(task):
    return replace(task, train=tuple(replace(item, input=NASTY) for item in task.train))


def form(model, task="colours", **changes):
    return LoRAParams().model_dump() | {"task": task, "model": model, "limit": "All", "seed": 0} | changes


def test_the_panel_estimates_and_looks(session, tiny_model):
    card = before.card_of(session, "lora", form(tiny_model))
    assert "Fits: about" in card and "pg-parts" in card
    overview = before.overview_of(session, "lora", form(tiny_model))
    assert "<svg" in overview
    html, place = before.example_of(session, "lora", form(tiny_model), 2)
    assert place == 2 and tasks.task("colours", None).train[1].id in html


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (-5, 1), (999, 21), (None, 1), (3.0, 3)])
def test_the_stepper_stays_within_the_examples(session, tiny_model, asked, given):
    assert before.example_of(session, "lora", form(tiny_model), asked)[1] == given


@pytest.mark.parametrize("asked", [0, -4])
def test_a_place_below_the_first_reaches_the_stepper(session, asked):
    with gr.Blocks() as page:
        before.build(session, "lora", {"task": gr.Textbox(), "model": gr.Textbox()})
    number = next(
        block for block in page.blocks.values() if getattr(block, "label", "") == "Training example"
    )
    assert number.preprocess(asked) == asked  # a minimum would be refused here, in Gradio's words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "Rank cannot be 0"),
        ({"task": "empty"}, "no training examples"),
        ({"model": "no such model"}, "There is no model"),
        ({"model": None}, "There is no model"),
    ],
)
def test_what_is_wrong_is_said_in_the_card(session, tiny_model, changes, words):
    told = before.card_of(session, "lora", form(tiny_model) | changes)
    assert words in told and "pg-bad" in told
    assert "pg-bad" in before.example_of(session, "lora", form(tiny_model) | changes, 1)[0]


def test_too_long_and_hostile_examples(session, tiny_model):
    card = before.card_of(session, "lora", form(tiny_model, max_length=16, task="nasty"))
    overview = before.overview_of(session, "lora", form(tiny_model, max_length=16, task="nasty"))
    html, _ = before.example_of(session, "lora", form(tiny_model, task="nasty"), 1)
    for one in (card, overview, html):
        assert "<img" not in one and "{{" not in one
    assert "tokenizer does not know" in overview


def test_a_method_that_trains_nothing_has_no_estimate(session, tiny_model):
    told = before.card_of(session, "zero_shot", {"task": "colours", "model": tiny_model})
    assert "trains nothing" in told


def test_the_panel_is_mounted_with_any_form(session):
    with gr.Blocks() as page:
        fields = {
            "rank": gr.Number(8),
            "max_length": gr.Number(64),
            "task": gr.Textbox(),
            "model": gr.Textbox(),
        }
        before.build(session, "lora", fields)
    ids = {block.elem_id for block in page.blocks.values() if getattr(block, "elem_id", None)}
    assert {"lora-before", "lora-card", "lora-data", "lora-tokens"} <= ids
    assert not [event for event in page.config["dependencies"] if event.get("api_visibility") == "public"]


def test_a_catalogue_model_that_is_not_here_says_so(session, monkeypatch):
    import tiny

    monkeypatch.setattr(tasks, "task", lambda id, settings: tiny.task())
    monkeypatch.setattr(catalogue, "model", lambda name, settings: tiny.language_model().entry)
    assert "is fetched by its first run" in before.card_of(session, "lora", form("smollm2-135m"))
