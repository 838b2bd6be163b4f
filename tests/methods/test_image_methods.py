"""DreamBooth, DreamBooth-LoRA and Style LoRA on a tiny random pipeline."""

from dataclasses import replace

import image_world
import pytest
import tiny_image
import torch

from playground.errors import AdapterError, InvalidParams
from playground.methods.diffusion import ADAPTER, ImageContext
from playground.methods.dreambooth import DreamBooth, class_prompts
from playground.methods.dreambooth_lora import DreamBoothLoRA
from playground.methods.style_lora import StyleLoRA
from playground.models import image

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
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return end.value, events


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


def test_last_weights_that_are_kept_for_want_of_room_are_told(context, monkeypatch):
    monkeypatch.setattr("playground.methods.diffusion.LOOKS_BYTES", 1000)
    technique = DreamBoothLoRA()
    here = context(look=lambda step: (), choose=lambda steps: 2 if 2 in steps else None)
    adapted, events = finish(technique.adapt(technique.Params.parse({**CASES[2][1], "steps": 4}), here))
    assert adapted.step == 4
    warnings = [e.data["text"] for e in events if e.kind == "log" and e.data["level"] == "warning"]
    assert any("The weights of the last step are kept" in text for text in warnings)


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
