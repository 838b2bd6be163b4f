import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from playground.errors import RunFailed
from playground.evaluation.looks import Ask, Looks, asks, from_bytes, to_bytes
from playground.evaluation.recommend import Point
from playground.events import result_of

ASKED = [
    Ask("context", "a zwx robot on blue", "a robot on blue", 7),
    Ask("class", "a robot on blue", "a robot on blue", 8),
    Ask("context", "a zwx robot on red", "a robot on red", 9),
    Ask("class", "a robot on red", "a robot on red", 10),
]


class Model:
    """Draws noise of the seed; ``moved`` shifts what it draws, ``close`` pulls it towards a picture."""

    def __init__(self, size=8):
        self.size, self.moved, self.close, self.calls = size, 0.0, None, []

    def generate(self, prompts, seeds, **options):
        self.calls.append((tuple(prompts), tuple(seeds), options))
        drawn = torch.stack([noise(seed, self.size) for seed in seeds])
        drawn = drawn + self.moved * torch.stack([noise(99, self.size)] * len(drawn))
        return drawn.clamp(-1, 1) if self.close is None else self.close.expand_as(drawn)


class Judge:
    name, models, note = "pixels", ("pixels@1",), ""

    def embed_pictures(self, pictures):
        return torch.nn.functional.normalize(pictures.flatten(1), dim=1)

    embed_for_texts = embed_pictures

    def embed_texts(self, texts):
        return torch.stack(
            [torch.nn.functional.normalize(noise(len(text), 8).flatten(), dim=0) for text in texts]
        )


def noise(seed, size):
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def looks(folder, model=None, held_out=2, **changes):
    train = torch.stack([noise(seed, 8) for seed in (1, 2)])
    real = torch.stack([noise(seed, 8) for seed in (3, 4)])[:held_out]
    values = {"judge": Judge(), "asked": ASKED, "train": train, "train_ids": ["one", "two"], "held_out": real}
    return Looks(model or Model(), folder=folder, **(values | changes))


def run(generator):
    events = []
    return events, result_of(generator, events.append)


def told(events, step):
    return {e.data["name"]: e.data["value"] for e in events if e.kind == "metric" and e.data["step"] == step}


def samples(events):
    return [event.data for event in events if event.kind == "sample"]


def test_the_base_model_has_no_drift_and_a_moved_one_has(tmp_path):
    look, model = looks(tmp_path), Model()
    look.model = model
    before = list(look(0))
    model.moved = 0.5
    during = list(look(100))
    assert told(before, 0)["class_drift"] == pytest.approx(0, abs=1e-6)
    assert told(during, 100)["class_drift"] > 0.01
    assert set(told(during, 100)) == {
        "subject_fidelity", "prompt_fidelity", "class_drift", "diversity", "memorisation"
    }  # fmt: skip
    assert [one["stage"] for one in samples(before) + samples(during)] == ["before"] * 4 + ["during"] * 4
    assert model.calls[0] == model.calls[1]  # same prompts and seeds at every look


def test_a_sample_has_its_file_prompt_seed_and_nearest_training_picture(tmp_path):
    model = Model()
    first = samples(looks(tmp_path, model)(50))[0]
    assert first["item"] == "context-0"
    assert (first["input"], first["seed"], first["kind"], first["step"]) == (
        "a zwx robot on blue", 7, "context", 50,
    )  # fmt: skip
    assert first["file"] == "samples/step-000050/context-0.webp"
    assert first["nearest"]["picture"] in ("one", "two")
    with Image.open(tmp_path / first["file"]) as kept:
        assert kept.size == (8, 8)
        pixels = torch.tensor(list(kept.convert("RGB").getdata())).view(8, 8, 3).permute(2, 0, 1)
    assert torch.equal(pixels.byte(), to_bytes(noise(7, 8)))  # small pictures are kept without loss
    items = [sample["item"] for sample in samples(looks(tmp_path, model)(60))]
    assert items == ["context-0", "context-1", "class-0", "class-1"]


def test_copying_a_training_picture_raises_the_alarm(tmp_path):
    model = Model()
    look = looks(tmp_path, model)
    assert not any(sample["nearest"]["alarm"] for sample in samples(look(0)))
    model.close = noise(2, 8)[None]
    copied = list(look(100))
    assert all(s["nearest"]["alarm"] and s["nearest"]["picture"] == "two" for s in samples(copied))
    assert told(copied, 100)["memorisation"] > 0.99
    assert told(copied, 100)["diversity"] == pytest.approx(0, abs=1e-6)


def test_a_restarted_training_measures_drift_from_the_same_base(tmp_path):
    model = Model()
    look = looks(tmp_path, model)
    list(look(0))
    model.moved = 0.3
    expected = told(list(look(100)), 100)
    again = looks(tmp_path, model)  # another process, on the same folder
    assert told(list(again(100)), 100) == pytest.approx(expected)
    assert [point.step for point in again.points()] == [0, 100]
    assert again.bounds() == look.bounds()


def test_points_of_an_attempt_that_was_broken_off_are_replaced(tmp_path):
    look = looks(tmp_path)
    for step in (0, 100, 200, 100):
        list(look(step))
    assert [point.step for point in look.points()] == [0, 100]
    assert Point(**json.loads((tmp_path / "samples/looks.json").read_text())[1]) == look.points()[1]


def test_the_final_look_tells_results_and_leaves_the_curves_alone(tmp_path):
    look = looks(tmp_path)
    list(look(0))
    events, point = run(look.final(100))
    results = told(events, None)
    assert results["subject_fidelity"] == point.subject_fidelity
    assert results["seconds_per_image"] > 0
    assert [sample["file"] for sample in samples(events)][0] == "samples/after/context-0.webp"
    assert {sample["stage"] for sample in samples(events)} == {"after"}
    assert [kept.step for kept in look.points()] == [0]


def test_the_bounds_are_told_once(tmp_path):
    look = looks(tmp_path)
    facts = [event.data for event in [*look(0), *look(10)] if event.kind == "provenance"]
    assert len([fact for fact in facts if "look_bounds" in fact]) == 1


def test_without_held_out_pictures_the_log_warns(tmp_path):
    events = list(looks(tmp_path, held_out=0)(0))
    assert any("held-out" in event.data["text"] for event in events if event.kind == "log")
    assert told(events, 0)["subject_fidelity"] is not None


def test_the_recommended_step_is_one_of_those_asked_for(tmp_path):
    model = Model()
    look = looks(tmp_path, model)
    list(look(0))
    model.moved = 0.2
    list(look(50))
    model.moved = 0.0
    model.close = noise(1, 8)[None]  # a copy of a training picture
    list(look(100))
    assert look.recommended(range(1, 101)) == look.recommended([50, 100]) == 50
    assert look.recommended([100, 150]) == 100
    assert look.recommended([]) is look.recommended([150]) is None


def test_numbers_that_are_no_picture_are_refused(tmp_path):
    model = Model()
    model.close = torch.full((1, 3, 8, 8), float("nan"))
    with pytest.raises(RunFailed, match="Lower the learning rate"):
        list(looks(tmp_path, model)(10))
    assert not (tmp_path / "samples").exists()


def test_eight_bits_there_and_back():
    pictures = torch.linspace(-1, 1, 3 * 256).view(1, 3, 16, 16)
    assert torch.equal(to_bytes(from_bytes(to_bytes(pictures))), to_bytes(pictures))
    assert (from_bytes(to_bytes(pictures)) - pictures).abs().max() <= 1 / 255 + 1e-6


def test_a_subjects_pictures_are_asked_with_its_words_and_judged_without_the_rare_one():
    subject = SimpleNamespace(
        prompts=("a {} on blue", "a {} on red"),
        class_prompts=("a robot on blue",),
        context=lambda prompt, subject=True: prompt.replace("{}", "zwx robot" if subject else "robot"),
    )
    made = asks(subject, seed=2, each=2)
    assert [(ask.kind, ask.prompt, ask.text) for ask in made] == [
        *[("context", "a zwx robot on blue", "a robot on blue")] * 2,
        *[("context", "a zwx robot on red", "a robot on red")] * 2,
        *[("class", "a robot on blue", "a robot on blue")] * 2,
    ]
    assert [ask.seed for ask in made] == [2000, 2001, 2002, 2003, 2004, 2005]
