"""DreamBooth, DreamBooth-LoRA and Style LoRA on a tiny random pipeline."""

from dataclasses import replace

import image_world
import pytest
import tiny_image
import torch

from playground.errors import AdapterError, InvalidParams
from playground.evaluation.recommend import Point, recommend
from playground.events import result_of
from playground.methods.diffusion import ADAPTER, ImageContext
from playground.methods.dreambooth import DreamBooth, class_prompts
from playground.methods.dreambooth_lora import DreamBoothLoRA
from playground.methods.style_lora import StyleLoRA
from playground.models import image
from playground.training.diffusion import kept

FEW = {"steps": 3, "batch_size": 2, "sample_every": 2, "learning_rate": 1e-2}
CASES = [
    (DreamBooth(), {**FEW, "class_pictures": 2}),
    (DreamBooth(), {**FEW, "prior_preservation": False, "train_text_encoder": True}),
    (DreamBoothLoRA(), {**FEW, "rank": 2, "alpha": 8.0}),
    (DreamBoothLoRA(), {**FEW, "rank": 2, "train_text_encoder": True, "prior_preservation": False}),
    (StyleLoRA(), {**FEW, "rank": 2}),
    (DreamBoothLoRA(), {**FEW, "rank": 2, "alpha": 8.0, "layers": "all", "class_batch": 1}),
    (DreamBoothLoRA(), {**FEW, "rank": 2, "class_pictures": 2}),
]
IDS = ["dreambooth", "dreambooth-text", "lora", "lora-text", "style", "lora-all", "lora-pictures"]


def fresh(seed=0):
    return image.of(tiny_image.sd(seed))


def drawn(model):
    return model.generate(["a zwx mug", "a cat"], [1, 2], steps=2)


def finish(generator):
    events = []
    return result_of(generator, events.append), events


@pytest.fixture
def context(settings, tmp_path):
    def make(kind="subject", folder="run", **more):
        found = image_world.subject(settings, kind)
        (tmp_path / folder).mkdir(exist_ok=True)
        return ImageContext(found, fresh(), tmp_path / folder, seed=0, **more)

    return make


@pytest.mark.parametrize(("technique", "values"), CASES, ids=IDS)
def test_what_was_learnt_comes_back_and_can_be_switched_off(technique, values, context):
    params = technique.Params.parse(values)
    here = context("style" if technique.id == "style_lora" else "subject")
    before = drawn(here.model)
    adapted, events = finish(technique.adapt(params, here))
    learnt = drawn(adapted.model)
    assert not torch.allclose(before, learnt, atol=1e-3)
    names = {event.data["name"] for event in events if event.kind == "metric"}
    assert {"train_loss", "steps", "kept_step", "steps_per_second"} <= names
    assert 0 < adapted.trainable_parameters < adapted.total_parameters
    assert adapted.stored_bytes == sum(
        file.stat().st_size for file in (here.folder / ADAPTER).rglob("*") if file.is_file()
    )

    again = ImageContext(None, fresh(), here.folder, seed=0)
    restored = technique.restore(params, again)
    torch.testing.assert_close(drawn(restored.model), learnt, atol=2e-3, rtol=0)
    technique.switch(restored.model, False)
    torch.testing.assert_close(drawn(restored.model), before, atol=1e-5, rtol=0)
    technique.switch(restored.model, True)
    torch.testing.assert_close(drawn(restored.model), learnt, atol=2e-3, rtol=0)


@pytest.mark.parametrize("case", ["lora", "lora-all"])
def test_a_lora_is_loaded_by_diffusers_itself(case, context):
    technique, values = CASES[IDS.index(case)]
    here = context()
    adapted, _ = finish(technique.adapt(technique.Params.parse(values), here))
    plain = fresh()
    plain.pipeline.load_lora_weights(here.folder / ADAPTER)
    torch.testing.assert_close(drawn(plain), drawn(adapted.model), atol=2e-3, rtol=0)
    other = fresh()
    (kohya,) = here.folder.glob("*-kohya.safetensors")
    other.pipeline.load_lora_weights(kohya)
    torch.testing.assert_close(drawn(other), drawn(adapted.model), atol=2e-3, rtol=0)


def test_the_step_that_looks_recommend_is_kept(context):
    technique = DreamBoothLoRA()
    pictures = {}

    def look(step):
        pictures[step] = drawn(here.model)
        return ()

    here = context(look=look, choose=lambda steps: 2 if 2 in steps else None)
    adapted, events = finish(technique.adapt(technique.Params.parse({**CASES[2][1], "steps": 4}), here))
    assert sorted(pictures) == [0, 2, 4]
    assert adapted.step == 2
    torch.testing.assert_close(drawn(adapted.model), pictures[2])
    assert not torch.allclose(pictures[4], pictures[2])
    assert [e.data["value"] for e in events if e.kind == "metric" and e.data["name"] == "kept_step"] == [2]


@pytest.fixture
def watched(context, monkeypatch):
    """A context whose looks measure the given fidelity, where the weights of one look are too many to keep all.

    Gives it with what the looks saw by step: pictures, and the steps whose weights were kept by then.
    """
    monkeypatch.setattr("playground.methods.diffusion.LOOKS_BYTES", 1000)

    def make(fidelity, **more):
        pictures, held = {}, {}

        def look(step):
            pictures[step], held[step] = drawn(here.model), kept(here.folder)
            return ()

        def choose(steps):
            seen = [Point(step, fidelity[step]) for step in pictures if step and step in steps]
            return recommend(seen) if seen else None

        here = context(look=look, choose=choose, **more)
        return here, pictures, held

    return make


def warnings(events):
    return [e.data["text"] for e in events if e.kind == "log" and e.data["level"] == "warning"]


@pytest.mark.parametrize("case", ["dreambooth-text", "lora"])
def test_the_recommended_weights_are_kept_where_those_of_all_looks_have_no_room(case, watched):
    technique, values = CASES[IDS.index(case)]
    here, pictures, held = watched({2: 0.5, 4: 0.7, 6: 0.8, 8: 0.6, 10: 0.7})
    adapted, events = finish(technique.adapt(technique.Params.parse({**values, "steps": 10}), here))
    assert held == {0: (), 2: (), 4: (2,), 6: (4,), 8: (6,), 10: (6,)}
    assert adapted.step == 6 and not warnings(events)
    torch.testing.assert_close(drawn(adapted.model), pictures[6])
    assert not torch.allclose(pictures[10], pictures[6])
    assert not (here.folder / "checkpoints").exists()
    restored = technique.restore(
        technique.Params.parse({**values, "steps": 10}), replace(here, model=fresh())
    )
    torch.testing.assert_close(drawn(restored.model), pictures[6], atol=2e-3, rtol=0)


def test_the_weights_of_the_last_step_are_kept_where_they_are_the_best(watched):
    technique = DreamBoothLoRA()
    here, pictures, held = watched({2: 0.5, 4: 0.7})
    adapted, events = finish(technique.adapt(technique.Params.parse({**CASES[2][1], "steps": 4}), here))
    assert adapted.step == 4 and held[4] == (2,) and not warnings(events)
    torch.testing.assert_close(drawn(adapted.model), pictures[4])


def test_the_best_weights_so_far_outlive_a_stop(watched):
    technique = DreamBooth()
    params = technique.Params.parse({**CASES[1][1], "steps": 6})
    here, pictures, held = watched({2: 0.7, 4: 0.5, 6: 0.6}, requests=lambda: {"save"})
    training = technique.adapt(params, here)
    for event in training:
        if event.kind == "progress" and event.data["phase"] == "adapt" and event.data["done"] == 3:
            training.close()
    assert sorted(pictures) == [0, 2]  # "save" asks for no look
    here.model, here.resume = fresh(), True
    adapted, events = finish(technique.adapt(params, here))
    assert any("Going on from step 3" in e.data["text"] for e in events if e.kind == "log")
    assert held[4] == held[6] == (2,)
    assert adapted.step == 2
    torch.testing.assert_close(drawn(adapted.model), pictures[2])


def test_a_recommended_step_whose_weights_made_room_for_equal_ones_is_told(watched):
    technique = DreamBoothLoRA()
    here, pictures, _ = watched(
        {2: 0.5, 4: 0.506, 6: 0.512, 8: 0.4}
    )  # 4 equals 2; then it equals 6, and 2 does not
    adapted, events = finish(technique.adapt(technique.Params.parse({**CASES[2][1], "steps": 8}), here))
    assert adapted.step == 6
    torch.testing.assert_close(drawn(adapted.model), pictures[6])
    (told,) = warnings(events)
    assert "The looks recommend step 4, whose weights are gone" in told and "Step 6 is kept" in told


def test_the_last_weights_are_kept_where_that_is_asked_for(watched):
    technique = DreamBoothLoRA()
    here, _, held = watched({2: 0.7, 4: 0.5})
    params = technique.Params.parse({**CASES[2][1], "steps": 4, "keep": "last"})
    adapted, events = finish(technique.adapt(params, here))
    assert adapted.step == 4 and held[4] == () and not warnings(events)


def test_a_result_from_before_a_parameter_existed_still_opens(context, monkeypatch):
    technique, here = DreamBoothLoRA(), context()
    params = technique.Params.parse(CASES[2][1])
    told = technique._about(params, here)
    del told["params"]["class_pictures"]
    with monkeypatch.context() as earlier:
        earlier.setattr(DreamBoothLoRA, "_about", lambda *given: told)
        finish(technique.adapt(params, here))
    again = ImageContext(here.subject, fresh(), here.folder, seed=0)
    assert technique.restore(params, again).stored_bytes > 0
    with pytest.raises(AdapterError, match="was made with params"):
        technique.restore(params.model_copy(update={"rank": params.rank + 1}), again)


def test_the_class_has_the_words_of_the_photos_but_for_the_rare_one(settings):
    found = image_world.subject(settings)
    words = ("a {} on blue", "two red cups", "a {} on a tray")
    train = tuple(replace(one, caption=said) for one, said in zip(found.train, words, strict=True))
    assert class_prompts(replace(found, train=train), 4) == [
        "a mug on blue", "a mug", "a mug on a tray", "a mug on blue",
    ]  # fmt: skip


def test_the_class_is_drawn_once_and_kept_for_a_resume(context):
    technique = DreamBooth()
    here = context()
    params = technique.Params.parse({**FEW, "class_pictures": 3})
    concept, _ = finish(technique.prior(params, here))
    times = {path.name: path.stat().st_mtime_ns for path in (here.folder / "class").iterdir()}
    assert sorted(times) == ["0.png", "1.png", "2.png"]
    assert concept.prompts == class_prompts(here.subject, 3) == ["a mug"] * 3  # photos without captions
    assert concept.pictures.shape == (3, 3, here.model.size, here.model.size)
    finish(technique.prior(params, here))
    assert times == {path.name: path.stat().st_mtime_ns for path in (here.folder / "class").iterdir()}


@pytest.mark.parametrize("technique", [DreamBooth(), DreamBoothLoRA()], ids=["pictures", "network"])
def test_prior_preservation_keeps_the_class_nearer_to_where_it_was(technique, context):
    def answers(model):
        """What the denoiser says of the class, for noise that no training saw."""
        generator = torch.Generator().manual_seed(99)
        latents = torch.randn(8, 8, 8, 8, generator=generator)
        times = torch.linspace(100, 900, 8).long()
        with torch.no_grad():
            words = model.family.encode_prompts(model.pipeline, ["a mug", "a red mug"] * 4)
            return model.family.predict(model.denoiser.eval(), latents, times, words, model.pipeline).float()

    def drift(prior):
        here = context(folder=f"prior-{prior}")
        was = answers(here.model)
        values = {"steps": 30, "batch_size": 3, "learning_rate": 3e-3, "sample_every": 100, "keep": "last"}
        params = technique.Params.parse({**values, "prior_preservation": prior, "prior_weight": 3.0})
        finish(technique.adapt(params, here))
        return (answers(here.model) - was).square().mean()

    assert drift(True) < drift(False)


def test_memory_is_saved_where_that_is_asked_for(context):
    technique, here = DreamBoothLoRA(), context()
    assert technique.plan(technique.Params(gradient_checkpointing=True), here).gradient_checkpointing
    assert not technique.plan(technique.Params(), here).gradient_checkpointing


def test_a_style_is_no_subject_and_the_other_way_round(context):
    with pytest.raises(InvalidParams, match="Style LoRA"):
        DreamBooth().check(DreamBooth.Params(), context("style").subject)
    with pytest.raises(InvalidParams, match="DreamBooth"):
        StyleLoRA().check(StyleLoRA.Params(), context().subject)


def test_a_result_of_other_parameters_is_refused(context):
    technique = DreamBoothLoRA()
    here = context()
    finish(technique.adapt(technique.Params.parse(CASES[2][1]), here))
    again = ImageContext(here.subject, fresh(), here.folder, seed=0)
    with pytest.raises(AdapterError, match="params"):
        technique.restore(technique.Params.parse({**CASES[2][1], "rank": 3}), again)
