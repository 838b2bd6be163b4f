"""What the data view says of a tiny task, good and bad."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from tiny import language_model, task

from playground.data.tasks import Item
from playground.training.batches import encode, pack, shared_prefix
from playground.training.data_view import _texts, data_view, show
from playground.training.estimate import SAMPLED

NASTY = '<img src=x onerror="alert(1)">'


def kinds(view):
    return {finding.kind: finding for finding in view.findings}


def test_the_mask_shows_what_is_learnt():
    model, item = language_model(), task().train[0]
    shown = show(model, task(), item, 64)
    learnt = [token.text for token in shown.tokens if token.role == "learnt"]
    assert learnt == [item.target, "<end>"]
    assert [token.id for token in shown.tokens] == list(encode(model, task(), [item])[0].ids)
    roles = [token.role for token in shown.tokens]
    assert roles == sorted(roles)  # context first
    assert not shown.left_out
    assert [token.text for token in shown.tokens if token.special] == ["<end>", "<end>", "<end>"]


def test_inputs_that_count_are_shown_without_the_beginning_that_all_share():
    model, item = language_model(), task().train[0]
    shown = show(model, task(), item, 64, prompt_weight=0.05)
    roles = [token.role for token in shown.tokens]
    assert shown.prompt_weight == 0.05 and roles == sorted(roles, key=["context", "weighted", "learnt"].index)
    examples = encode(model, task(), task().train)
    assert roles.count("context") == shared_prefix(examples) + 1
    (row,) = pack([examples[0]], shared_prefix(examples), 64, torch.device("cpu"), torch.float32, None, 0.05)
    learnt = [token.id for token in shown.tokens if token.role != "context"]
    assert learnt == row.labels[0].tolist()


def test_counts_and_lengths_are_those_of_the_training():
    view = data_view(language_model(), task(), 64)
    examples = encode(language_model(), task(), task().train)
    assert view.lengths == tuple(len(example.ids) for example in examples)
    assert view.learnt == sum(example.answer for example in examples)
    assert view.context + view.learnt == sum(view.lengths)
    assert view.examples == view.looked_at == len(task().train)
    assert view.left_out == () and view.findings == ()
    json.dumps(view.record())


def test_too_long_examples_are_named():
    long = Item("long", " ".join(["red"] * 60), "north")
    view = data_view(language_model(), replace(task(), train=(*task().train, long)), 32)
    assert view.left_out == ("long",)
    assert kinds(view)["too long"].items == ("long",) and kinds(view)["too long"].tone == "warn"
    assert show(language_model(), task(), long, 32).left_out


def test_all_too_long_says_what_would_be_right():
    view = data_view(language_model(), task(), 4)
    assert kinds(view)["too long"].tone == "bad"
    assert "No training example fits into 4 tokens: the shortest has" in kinds(view)["too long"].text
    assert (view.learnt, view.context) == (0, 0)


def test_an_empty_task_is_said_to_be_empty():
    view = data_view(language_model(), replace(task(), train=()), 64)
    assert kinds(view)["empty"].tone == "bad" and view.lengths == ()
    assert view.record()["longest"] is None


def test_unknown_tokens_and_html_are_shown_as_they_are():
    odd = Item("odd", NASTY, "north")
    model, chosen = language_model(), replace(task(), train=(*task().train, odd))
    assert kinds(data_view(model, chosen, 64))["unknown"].items == ("odd",)
    assert any(token.unknown and not token.special for token in show(model, chosen, odd, 64).tokens)


def test_leaks_copies_and_conflicts_are_named_before_the_start():
    first = task().train[0]
    other = next(label for label in tiny.LABELS if label != first.target)
    changed = replace(
        task(),
        train=(*task().train, replace(first, id="copy"), replace(first, id="twist", target=other)),
        dev=(replace(first, id="dev-leak"),),
        test=(replace(first, id="test-leak"),),
    )
    found = kinds(data_view(language_model(), changed, 64))
    assert found["duplicate"].items == (f"{first.id} = copy",)
    assert found["conflict"].items == (f"{first.id} = twist",) and found["conflict"].tone == "warn"
    assert found["leak to test"].items == (f"{first.id} = test-leak",) and found["leak to test"].tone == "bad"
    assert found["leak to dev"].items == (f"{first.id} = dev-leak",)


def test_of_many_examples_a_part_is_tokenised_and_said_to_be():
    many = tuple(Item(f"t{at}", f"one {at} red", "north") for at in range(SAMPLED + 500))
    view = data_view(language_model(), replace(task(), train=many), 64)
    assert (view.looked_at, view.examples) == (SAMPLED, SAMPLED + 500)
    assert "evenly spread" in kinds(view)["part"].text


@pytest.mark.starter
def test_the_bundled_tasks_are_clean_and_quick_to_look_at(starter_home):
    import time

    from playground.data import tasks
    from playground.models import catalogue
    from playground.settings import Settings
    from playground.training.weightless import weightless

    settings = Settings(home=starter_home, device="cpu")
    model = weightless(catalogue.model("smollm2-135m", settings), settings)
    chosen = tasks.task("support-desk", settings)
    start = time.process_time()
    view = data_view(model, chosen, 512)
    assert time.process_time() - start < 1
    assert view.findings == () and len(view.lengths) == 120
    shown = show(model, chosen, chosen.train[0], 512)
    learnt = "".join(token.text for token in shown.tokens if token.role == "learnt")
    assert learnt == f"{chosen.train[0].target}<|im_end|>"


def test_a_character_of_several_tokens_stands_on_the_last():
    class Bytes:
        all_special_ids, unk_token_id = [], None

        def decode(self, ids, **_):
            return bytes(ids).decode(errors="replace")

        def convert_ids_to_tokens(self, id):
            return f"<{id}>"

    ids = tuple("a日é🙂".encode())
    assert _texts(Bytes(), ids) == ["a", "…", "…", "日", "…", "é", "…", "…", "…", "🙂"]
    assert _texts(Bytes(), (0xFF, 0xFE, 0xFF, 0xFE, 97))[-1] == "a"
