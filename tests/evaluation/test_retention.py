"""Forgetting: measured against a plain computation, row by row, on tiny random models."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F

from playground.data import tasks
from playground.evaluation import retention
from playground.events import result_of
from playground.settings import ASSETS, Settings


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


@pytest.fixture
def model():
    """Random weights; long enough a context for the probes. Most words are unknown to its tokenizer."""
    return tiny.language_model(max_position_embeddings=512)


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """The tiny tokenizer allows 128 tokens; words it does not know are told apart by their length."""
    make = tiny.tokenizer

    def roomy():
        made = make()
        made.model_max_length = 512
        return made

    monkeypatch.setattr(tiny, "tokenizer", roomy)


def drain(generator):
    events = []
    return events, result_of(generator, events.append)


def metrics(events):
    return {event.data["name"]: event.data["value"] for event in events if event.kind == "metric"}


def forgetting(before, after, settings):
    _, reference = drain(retention.reference(before, settings))
    return metrics(drain(retention.measure(after, reference))[0])


def changed(seed=0, by=0.05):
    """The same model with every weight moved a little."""
    model = tiny.language_model(max_position_embeddings=512)
    torch.manual_seed(seed + 100)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.add_(torch.randn_like(weight) * by)
    return model


def plain_divergence(before, after):
    """One row a pass, no padding, the whole distribution."""
    values = []
    for row in retention._rows(before):
        if row.kind == "question":
            continue
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            p, q = (one.model(input_ids=ids).logits[0].log_softmax(-1) for one in (before, after))
        at = slice(row.start - 1, -1)
        values += F.kl_div(q[at], p[at], reduction="none", log_target=True).sum(-1).tolist()
    return sum(values) / len(values)


def test_a_model_has_forgotten_nothing_against_itself(model, settings):
    found = forgetting(model, model, settings)
    assert found["retention_divergence"] == pytest.approx(0, abs=1e-6)
    assert found["retention_accuracy_change"] == 0
    assert found["retention_loss_change"] == pytest.approx(0, abs=1e-6)
    assert found["retention_seconds"] > 0


def test_it_equals_the_plain_computation(model, settings):
    found = forgetting(model, changed(), settings)
    assert found["retention_divergence"] == pytest.approx(plain_divergence(model, changed()), rel=1e-4)
    assert found["retention_divergence"] > 0.01


def test_more_change_is_more_divergence(model, settings):
    little, much = (forgetting(model, changed(by=by), settings) for by in (0.01, 0.1))
    assert little["retention_divergence"] < much["retention_divergence"]


def test_what_is_summed_up_can_only_make_it_smaller(model, settings, monkeypatch):
    monkeypatch.setattr(retention, "TOP", 6)
    found = forgetting(model, changed(by=0.2), settings)["retention_divergence"]
    whole = plain_divergence(model, changed(by=0.2))
    assert 0.2 * whole < found < whole


def test_the_loss_is_that_of_the_prose(model, settings):
    rows = [row for row in retention._rows(model) if row.kind == "text"]
    assert len(rows) == len(retention.probes().texts)
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            logits = model.model(input_ids=ids).logits[0, :-1]
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += len(row.ids) - 1
    assert forgetting(model, model, settings)["retention_loss"] == pytest.approx(total / count, rel=1e-5)


def test_the_base_model_is_asked_once(model, settings, monkeypatch):
    events, first = drain(retention.reference(model, settings))
    assert {event.data["phase"] for event in events} == {"reference"}
    monkeypatch.setattr(retention, "_forward", lambda *_: pytest.fail("asked again"))
    events, again = drain(retention.reference(model, settings))
    assert events == [] and again == first


def test_a_damaged_reference_is_made_anew(model, settings):
    _, first = drain(retention.reference(model, settings))
    first.path.write_bytes(first.path.read_bytes()[:-10])
    events, again = drain(retention.reference(model, settings))
    assert events and again == first
    assert metrics(drain(retention.measure(model, again))[0])["retention_divergence"] < 1e-6
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]  # nothing half-written


def test_a_reference_belongs_to_revision_type_quantisation_and_probes(model, monkeypatch):
    keys = {retention._key(model), retention._key(replace(model, revision="other"))}
    keys.add(retention._key(replace(model, dtype=torch.bfloat16)))
    keys.add(retention._key(replace(model, quantization="nf4")))
    found = replace(retention.probes(), digest="changed")
    monkeypatch.setattr(retention, "probes", lambda: found)
    keys.add(retention._key(model))
    assert len(keys) == 5


def test_a_model_with_too_short_a_context_is_left_unmeasured(settings):
    short = tiny.language_model(max_position_embeddings=8)
    events, reference = drain(retention.reference(short, settings))
    assert (events, reference) == ([], None)
    events, _ = drain(retention.measure(short, reference))
    assert metrics(events) == {}
    assert "not measured" in events[0].data["text"]


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_a_prompt_that_was_trained_moves_no_token_out_of_its_place(model, settings, kind):
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    rows = [row for row in retention._rows(model) if row.kind != "question"]
    base = {place: log_probs for place, log_probs in retention._log_probs(model, rows)}
    torch.manual_seed(3)
    cls = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig}[kind]
    plain = model.model
    model.model = get_peft_model(plain, cls(num_virtual_tokens=5, task_type="CAUSAL_LM"))
    for place, log_probs in retention._log_probs(model, rows):
        row = rows[place]
        assert log_probs.shape == base[place].shape
        with torch.no_grad():
            alone = model.model(input_ids=torch.tensor([row.ids])).logits[0, -len(row.ids) :]
        torch.testing.assert_close(log_probs, alone[row.start - 1 : -1].log_softmax(-1), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(log_probs, base[place], atol=1e-3)


def test_a_question_is_scored_where_its_endings_part(model):
    model.tokenizer.add_tokens(["Paris", "London", "Berlin", "Madrid"])
    row = next(row for row in retention._rows(model) if row.id == "fact-01")
    assert model.tokenizer.convert_ids_to_tokens(list(row.endings)) == ["Paris", "London", "Berlin", "Madrid"]
    log_probs = torch.zeros(1, 40)
    assert not retention._is_right(row, log_probs)  # a tie is not right
    log_probs[0, row.endings[0]] = 1
    assert retention._is_right(row, log_probs)
    log_probs[0, row.endings[3]] = 2
    assert not retention._is_right(row, log_probs)


def test_endings_that_begin_alike_are_scored_behind_it():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({letter: at for at, letter in enumerate("<29 +=47W")}, unk_token="<"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    model = tiny.language_model()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<")
    row = retention._question(model, {"id": "q", "stem": "2 + 2 =", "right": "4", "wrong": ["7", "29", "9"]})
    assert model.tokenizer.convert_ids_to_tokens(list(row.ids)) == list("2 + 2 = ")
    assert model.tokenizer.convert_ids_to_tokens(list(row.endings)) == ["4", "7", "2", "9"]


def test_what_is_no_longer_known_is_named(model, settings):
    before = retention.Reference(settings.home, 2 / 48, 1.0, ("fact-01", "sense-02"), 48)
    assert retention._words(before, ["sense-02"]) == (
        "General questions: 1 of 48 right, 2 with the base model. No longer: “The capital of France is …”."
    )


def test_the_probes_are_whole_and_have_nothing_to_do_with_the_tasks(settings):
    found = retention.probes()
    everything = [*found.texts, *found.chats, *found.questions]
    assert len({one["id"] for one in everything}) == len(everything)
    for question in found.questions:
        endings = [question["right"], *question["wrong"]]
        assert len(set(endings)) == 4, question["id"]
        assert len({ending[:2] for ending in endings}) > 1
    said = " ".join(json.dumps(one) for one in everything).lower()
    for folder in sorted((ASSETS / "tasks").iterdir()):
        for label in tasks.task(folder.name, settings).labels:
            assert label.lower() not in said
    for word in ("parcel", "invoice", "ferry", "campsite", "refund", "lake"):
        assert word not in said


@pytest.mark.starter
def test_the_starter_model_against_itself(starter_home, tmp_path):
    from playground.models import catalogue, sources
    from playground.models.text import load

    at_home = Settings(home=starter_home, offline=True, device="cpu")
    entry = catalogue.model("smollm2-135m", at_home)
    model = load(entry, at_home, folder=sources.locate(entry, at_home))
    found = forgetting(model, model, Settings(home=tmp_path))
    assert found["retention_divergence"] == pytest.approx(0, abs=1e-5)
    assert found["retention_accuracy_change"] == 0
    if model.revision == entry.sha256:  # the weights of the wheel
        assert found["retention_accuracy"] == pytest.approx(37 / 48, abs=0.001)
        assert found["retention_loss"] == pytest.approx(3.4165, abs=0.01)
    else:  # the Hub's weights, not rounded to four bits
        assert found["retention_accuracy"] > 0.65
