"""The whole recipe on a handful of drawn shapes, in networks too small to learn much."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from playground.errors import InvalidInput, ModelUnavailable, TrainingDiverged
from playground.starter import card, colour_path, compose, evaluate, networks, optimise, train, world
from playground.starter.__main__ import main, stage_steps
from playground.starter.icons import EDGE, Icons
from playground.starter.presets import PRESETS, Preset

TINY = Preset(
    "tiny", nouns=4, pool=24, pairs=0.3, places=True, held_out=0.1,
    vae_channels=(16, 16, 16), vae_steps=4, vae_batch=2, decoder_steps=2,
    text_width=32, text_layers=1, vision_width=32, vision_layers=1, clip_steps=3, clip_batch=8,
    unet_channels=(32, 32), unet_steps=4, unet_batch=4, classifier_steps=4, classifier_batch=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def icons():
    fills = ("red", "green", "blue", "gold")
    pixels = []
    for shape in range(4):
        row = []
        for style in range(4):
            image = Image.new("RGBA", (EDGE, EDGE))
            pen = ImageDraw.Draw(image)
            box = (10, 10 + 8 * style, EDGE - 10, EDGE - 10)
            (pen.ellipse, pen.rectangle, pen.rounded_rectangle, pen.chord)[shape](
                box, **({"start": 0, "end": 200} if shape == 3 else {}), fill=fills[shape], outline="black"
            )
            row.append(np.asarray(image).transpose(2, 0, 1))
        pixels.append(row)
    pixels = np.array(pixels)
    return Icons(["disc", "box", "apple", "bowl"], pixels, pixels[0])


@pytest.fixture(scope="module")
def trained(icons, tmp_path_factory):
    out = tmp_path_factory.mktemp("starter")
    train.train(TINY, icons, out, threads=1, log=lambda line: None)
    evaluate.evaluate(out, count=4, log=lambda line: None)
    evaluate.sheet(out, columns=2, rows=2)
    card.write(out)
    return out


def test_the_recipe_ends_in_a_pipeline_that_plain_diffusers_loads(trained):
    pipeline = evaluate.load(trained)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert type(pipeline.unet).__name__ == "UNet2DConditionModel"
    assert type(pipeline.vae).__name__ == "AutoencoderKL"
    assert type(pipeline.text_encoder).__name__ == "CLIPTextModel"
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_the_text_tower_of_clip_is_the_pipeline_s(trained):
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(trained / "clip")
    own = evaluate.load(trained).text_encoder.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in clip.text_model.state_dict().items())


def test_measurements_and_card_are_written(trained):
    result = json.loads((trained / "evaluation.json").read_text())
    assert result["guidance"] in evaluate.GUIDANCES
    assert result["seen pairs"]["pictures"] == 4
    assert result["two objects"]["pictures"] == 4
    text = (trained / "README.md").read_text()
    assert "disc, box, apple, bowl" in text
    assert all(part in text for part in ("Noto Emoji", "CC-BY-4.0", "Apache-2.0", "MIT"))
    assert "Twitter" in (trained / "NOTICE").read_text()
    with Image.open(trained / "sheet.png") as sheet:
        assert sheet.size == (132, 152)


def test_a_finished_stage_is_not_trained_again(trained, icons):
    before = (trained / "checkpoint/vae.pt").stat().st_mtime_ns
    train.train_vae(TINY, icons, trained / "checkpoint", threads=1, log=lambda line: None)
    assert (trained / "checkpoint/vae.pt").stat().st_mtime_ns == before


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    def run(folder, stop_at=None):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1)
        steps = []

        def loss_of(draw):
            steps.append(draw)
            if len(steps) - 1 == stop_at:
                raise KeyboardInterrupt
            return network(torch.randn(5, 3, generator=draw.torch)).square().mean()

        folder.mkdir(exist_ok=True)
        return optimise.optimise("x", network, loss_of, steps=10, rate=0.1, folder=folder, average=0.9,
                                 save_seconds=0, threads=1, log=lambda line: None)  # fmt: skip

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop_at=6)
    assert optimise.progress("x", tmp_path / "parts")["steps"] == 6
    resumed = run(tmp_path / "parts")
    assert torch.equal(whole.weight, resumed.weight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    network = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingDiverged, match="step 0"):
        optimise.optimise("x", network, lambda draw: network(torch.ones(1, 1)).sum() * float("nan"),
                          steps=2, rate=0.1, folder=tmp_path, threads=1)  # fmt: skip


def test_the_rate_rises_stays_and_falls_to_nothing():
    rates = [optimise.rate_at(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == 0.01
    assert set(rates[100:700]) == {1.0}
    assert rates[-1] == pytest.approx(0.004)


def test_every_word_of_the_world_is_one_token(icons):
    tokens = networks.tokenizer(icons.nouns)
    assert tokens.tokenize("an apple on a purple background, glossy style") == [
        f"{word}</w>" for word in ("an", "apple", "on", "a", "purple", "background", ",", "glossy", "style")
    ]
    assert len(tokens.tokenize("zqxj")) > 1
    batch = networks.ids(tokens, ["a disc", ""])
    assert batch.shape == (2, networks.TOKENS)
    assert batch[1, 1] == tokens.eos_token_id


def test_a_fresh_autoencoder_already_passes_colour_through(icons):
    pictures = compose.pictures(icons, compose.scenes(icons, 24, random.Random(0)))
    patches = torch.nn.functional.avg_pool2d(pictures, 4)

    def likeness(vae):
        with torch.no_grad():
            latents = vae.eval().encode(pictures).latent_dist.mean
            decoded = torch.nn.functional.avg_pool2d(vae.decode(latents).sample, 4)
        return [
            torch.corrcoef(torch.stack([values[:, colour].flatten(), patches[:, colour].flatten()]))[
                0, 1
            ].item()
            for values in (latents, decoded)
            for colour in range(3)
        ]

    torch.manual_seed(0)
    vae = networks.vae(PRESETS["cpu"])
    assert min(likeness(vae)) < 0.5
    colour_path.lay(vae)
    assert min(likeness(vae)) > 0.9


def test_a_colour_path_needs_groups_of_channels():
    vae = networks.vae(dataclasses.replace(TINY, vae_channels=(8, 8, 8)))
    with pytest.raises(ValueError, match="groups"):
        colour_path.lay(vae)


def test_standardised_latents_decode_to_the_same_pictures(icons):
    pictures = compose.pictures(icons, compose.scenes(icons, 16, random.Random(0)))
    vae = networks.frozen(networks.vae(TINY))
    before = vae.decode(vae.encode(pictures).latent_dist.mean).sample
    train.standardise(vae, pictures)
    latents = vae.encode(pictures).latent_dist.mean
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert latents.std((0, 2, 3)) == pytest.approx(torch.ones(8), abs=1e-2)
    assert torch.allclose(vae.decode(latents).sample, before, atol=1e-3)


def test_a_caption_that_leaves_out_the_style_fits_every_style():
    def scene(style, colour):
        return world.Scene(colour, (world.Placed("cat", style, 0.8),))

    scenes = [scene("noto", "red"), scene("flat", "red"), scene("flat", "blue")]
    fits = train.agreement(["a cat on red", "a cat, flat style", "a cat, flat style on blue"], scenes)
    assert fits.tolist() == [[True, True, False], [False, True, True], [False, False, True]]


def test_held_out_pairs_are_never_composed(icons):
    without = frozenset({("disc", "flat"), ("box", "noto")})
    scenes = compose.scenes(icons, 200, random.Random(0), pairs=0.5, without=without)
    drawn = {(placed.noun, placed.style) for scene in scenes for placed in scene.objects}
    assert not drawn & without
    assert len(drawn) == 14


def test_backgrounds_are_recognised_by_their_rim(icons):
    scenes = [world.Scene(colour, (world.Placed("disc", "flat", 0.86),)) for colour in world.BACKGROUNDS]
    pictures = compose.pictures(icons, scenes)
    assert [evaluate.background_of(picture) for picture in pictures] == list(world.BACKGROUNDS)


def test_two_objects_are_scored_by_side():
    class Sees:
        names, styles = ("cat", "dog"), ("flat",)

        def __call__(self, pictures):
            bright = pictures.mean((1, 2, 3)) > 0
            return torch.stack([bright.float(), 1 - bright.float()], 1), torch.zeros(len(pictures), 1)

    picture = torch.full((1, 3, 64, 64), -1.0)
    picture[..., :32] = 1
    cat, dog = world.Placed("cat", "flat", 0.4), world.Placed("dog", "flat", 0.4)
    right = world.Scene("red", (cat, dog), "left")
    wrong = world.Scene("red", (cat, dog), "right")
    assert evaluate.score_pairs(Sees(), [right], picture)["both names, right sides"] == 1
    assert evaluate.score_pairs(Sees(), [wrong], picture) == {
        "pictures": 1, "both names": 1.0, "both names, right sides": 0.0
    }  # fmt: skip


def test_wilson_interval():
    assert evaluate.interval(90, 100) == pytest.approx([0.8256, 0.9448], abs=1e-3)


def test_the_command_line_says_what_is_missing(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "no finished model" in capsys.readouterr().err
    with pytest.raises(ModelUnavailable):
        evaluate.load(tmp_path)
    assert stage_steps("unet=50") == ("unet_steps", 50)
    with pytest.raises(SystemExit):
        main(["train", "--out", str(tmp_path), "--steps", "unet=0"])
    assert "STAGE=N" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path), "--names", "1"]) == 2
    assert "between 2 and 120" in capsys.readouterr().err


def test_presets_name_sizes_that_the_networks_accept():
    for preset in PRESETS.values():
        with torch.device("meta"):
            unet, vae = networks.unet(preset), networks.vae(preset)
        weights = 2 * (networks.parameters(unet) + networks.parameters(vae))
        assert weights < 54e6


def test_a_training_goes_on_with_its_own_tokenizer(tmp_path, monkeypatch):
    """Made anew it may number words differently, and the networks have learnt the numbers."""
    from playground.starter import networks, train

    first = train.kept_tokenizer(["cat", "car", "palm tree"], tmp_path)
    monkeypatch.setattr(networks, "tokenizer", lambda names: pytest.fail("it was made anew"))
    again = train.kept_tokenizer(["cat", "car", "palm tree"], tmp_path)
    assert again.get_vocab() == first.get_vocab()
    assert again("a palm tree, a car").input_ids == first("a palm tree, a car").input_ids
    assert again.model_max_length == networks.TOKENS


@pytest.fixture(scope="module")
def trained_on(trained, icons, tmp_path_factory):
    out = tmp_path_factory.mktemp("further")
    longer = dataclasses.replace(TINY, unet_steps=6, vae_steps=9, clip_steps=9, decoder_steps=9)
    train.train(longer, icons, out, begin=trained, note="Further.", threads=1, log=lambda line: None)
    return out


def test_a_warm_start_trains_the_unet_alone_and_counts_its_steps_on(trained, trained_on):
    for part in ("vae", "text_encoder", "clip", "classifier"):
        files = list((trained / part).glob("*.safetensors"))
        assert files
        assert all(file.read_bytes() == (trained_on / part / file.name).read_bytes() for file in files)
    assert evaluate.load(trained_on).vae.config.scaling_factor == 1.0
    unets = [evaluate.load(folder).unet.state_dict() for folder in (trained, trained_on)]
    assert any(not torch.equal(value, unets[1][key]) for key, value in unets[0].items())
    recipe = json.loads((trained_on / "recipe.json").read_text())
    before = json.loads((trained / "recipe.json").read_text())
    assert recipe["origin"] == before
    assert recipe["stages"] == before["stages"] | {"unet": recipe["stages"]["unet"]}
    assert recipe["stages"]["unet"]["steps"] == 6
    assert recipe["stages"]["unet"]["seconds"] >= before["stages"]["unet"]["seconds"]


def test_the_card_tells_a_warm_start(trained, trained_on):
    recipe, result = (
        json.loads((folder / f"{name}.json").read_text())
        for folder, name in ((trained_on, "recipe"), (trained, "evaluation"))
    )
    text = card.model_card(recipe, result)
    assert "--preset tiny --from MODEL" in text
    assert "4 of the steps" in text
    assert "Further." in text
    assert "--from" not in (trained / "README.md").read_text()


def test_a_warm_start_begins_with_the_model_s_own_weights(trained, icons, tmp_path):
    train.train(TINY, icons, tmp_path, begin=trained, until="unet", threads=1, log=lambda line: None)
    saved = torch.load(tmp_path / "checkpoint/unet.pt", weights_only=True)
    own = evaluate.load(trained).unet.state_dict()
    assert saved["step"] == TINY.unet_steps  # nothing was left to do
    for which in ("network", "averaged"):
        assert all(torch.equal(value, own[key]) for key, value in saved[which].items())


def test_a_warm_start_goes_on_where_it_stopped(trained, icons, tmp_path):
    def steps(count):
        preset = dataclasses.replace(TINY, unet_steps=count)
        train.train(preset, icons, tmp_path, begin=trained, until="unet", threads=1, log=lambda line: None)
        return torch.load(tmp_path / "checkpoint/unet.pt", weights_only=True)

    first, second = steps(5), steps(6)
    assert (first["step"], second["step"]) == (5, 6)
    assert first["warm"] == second["warm"] == TINY.unet_steps
    assert second["optimisers"][0]["state"][0]["step"] == 2


def test_a_warm_start_refuses_what_does_not_fit(trained, icons, tmp_path):
    def start(out, model=trained, preset=TINY):
        train.train(preset, icons, out, begin=model, until="unet", threads=1, log=lambda line: None)

    with pytest.raises(ModelUnavailable, match="go on from"):
        start(tmp_path / "new", model=tmp_path)
    with pytest.raises(InvalidInput, match="preset tiny"):
        start(tmp_path / "new", preset=dataclasses.replace(TINY, held_out=0.0))
    assert not (tmp_path / "new/checkpoint").exists()
    (tmp_path / "other/checkpoint").mkdir(parents=True)
    (tmp_path / "other/checkpoint/vae.pt").touch()
    with pytest.raises(InvalidInput, match="another training"):
        start(tmp_path / "other")


def test_late_timesteps_are_likelier_and_a_batch_spreads_over_all():
    drawn = torch.cat([train.noisy_times(16, torch.Generator().manual_seed(i)) for i in range(200)])
    assert 0 <= drawn.min() < 50
    assert 990 < drawn.max() < 1000
    assert (drawn >= 500).float().mean() == pytest.approx(0.75, abs=0.01)


def test_speed_can_be_measured_alone(trained, tmp_path, capsys):
    import shutil

    folder = shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint"))
    result = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(result | {"speed": None, "machine": "another"}))
    assert main(["speed", str(folder)]) == 0
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["speed"]["seconds for 1"] > 0
    assert again["seen pairs"] == result["seen pairs"]
    assert again["machine"] in (folder / "README.md").read_text()
    assert main(["speed", str(tmp_path)]) == 1
    assert "no evaluated model" in capsys.readouterr().err


def test_the_card_says_when_other_work_slowed_the_measurement(trained):
    recipe, result = (json.loads((trained / f"{name}.json").read_text()) for name in ("recipe", "evaluation"))
    texts = []
    for load in (0.1, 2.0):
        result["speed"] |= {"load by others": load, "threads": 1}
        texts.append(card.model_card(recipe, result))
    assert ["other work kept it busy" in text for text in texts] == [False, True]
    assert "with 1 thread on" in texts[0]
