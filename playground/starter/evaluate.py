"""How well the finished model draws what a caption says, and how fast; and its contact sheet."""

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from playground.errors import ModelUnavailable
from playground.starter import compose, networks, world
from playground.starter.icons import Icons
from playground.starter.networks import Classifier

STEPS = 20
GUIDANCES = (1.5, 2.5, 3.5, 5.0)


def load(folder: Path) -> StableDiffusionPipeline:
    """The pipeline in ``folder``, offline, float32, without progress bars.

    Raises:
        ModelUnavailable: there is no finished model.
    """
    if not (folder / "model_index.json").is_file():
        raise ModelUnavailable(f"There is no finished model in {folder}. Train one first: python -m "
                               f"playground.starter train --preset cpu --out {folder}")  # fmt: skip
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(networks.device())


def generate(
    pipeline: StableDiffusionPipeline,
    captions: Sequence[str],
    seeds: Sequence[int],
    guidance: float,
    batch: int = 32,
    steps: int = STEPS,
) -> Tensor:
    """One picture a caption, each from its own seed: (captions, 3, 64, 64), -1…1, on the CPU."""
    pictures = []
    for start in range(0, len(captions), batch):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch]]
        drawn = pipeline(
            list(captions[start : start + batch]),
            height=compose.SIZE,
            width=compose.SIZE,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="pt",
        ).images
        pictures.append(drawn.float().cpu() * 2 - 1)
    return torch.cat(pictures)


def background_of(picture: Tensor) -> str:
    """The named colour nearest to the median of a picture's rim, two pixels wide."""
    mask = torch.ones(picture.shape[-2:], dtype=torch.bool)
    mask[2:-2, 2:-2] = False
    rim = ((picture[:, mask] + 1) / 2 * 255).median(dim=1).values
    return min(
        world.BACKGROUNDS,
        key=lambda name: (rim - torch.tensor(world.BACKGROUNDS[name])).square().sum().item(),
    )


@torch.inference_mode()
def judge(classifier: Classifier, pictures: Tensor) -> list[tuple[str, str]]:
    """Name and style that the classifier sees in each picture (n, 3, 64, 64)."""
    names, styles = classifier(pictures)
    return [
        (classifier.names[name], classifier.styles[style])
        for name, style in zip(names.argmax(1).tolist(), styles.argmax(1).tolist(), strict=True)
    ]


def interval(right: int, count: int) -> list[float]:
    """Wilson's 95 % interval of a share."""
    z, share = 1.96, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return [round(middle - half, 4), round(middle + half, 4)]


def score(classifier: Classifier, scenes: Sequence[world.Scene], pictures: Tensor) -> dict:
    """Shares of pictures of single objects with the right name, style and background."""
    seen = judge(classifier, pictures)
    right = {
        "name": [scene.objects[0].noun == name for scene, (name, _) in zip(scenes, seen, strict=True)],
        "style": [scene.style == style for scene, (_, style) in zip(scenes, seen, strict=True)],
        "background": [s.background == background_of(p) for s, p in zip(scenes, pictures, strict=True)],
    }
    found = {"pictures": len(scenes)}
    for key, hits in right.items():
        found[key] = round(sum(hits) / len(hits), 4)
        found[f"{key} interval"] = interval(sum(hits), len(hits))
    return found


def score_pairs(classifier: Classifier, scenes: Sequence[world.Scene], pictures: Tensor) -> dict:
    """Shares of pictures of two objects with both names found, and found on the right sides."""
    both, sides = 0, 0
    halves = [F.interpolate(pictures[:, :, 14:50, cut], (64, 64), mode="bilinear", antialias=True)
              for cut in (slice(0, 36), slice(28, 64))]  # fmt: skip
    left, right = (judge(classifier, half) for half in halves)
    for scene, (one, _), (other, _) in zip(scenes, left, right, strict=True):
        first, second = (placed.noun for placed in scene.objects)
        found = {one, other} == {first, second}
        expected = {"left": (first, second), "right": (second, first)}.get(scene.relation, (one, other))
        both += found
        sides += found and (one, other) == expected
    return {
        "pictures": len(scenes),
        "both names": round(both / len(scenes), 4),
        "both names, right sides": round(sides / len(scenes), 4),
    }


def captions_for(
    pairs: Sequence[tuple[str, str]], count: int, rng: random.Random
) -> tuple[list[world.Scene], list[str]]:
    """Scenes that go round the name × style pairs with random backgrounds, and their captions."""
    order = list(pairs)
    rng.shuffle(order)
    scenes = [
        world.single(*order[i % len(order)], rng.choice(list(world.BACKGROUNDS)), rng, loose=0)
        for i in range(count)
    ]
    return scenes, [world.plain_caption(scene) for scene in scenes]


def speed(folder: Path, guidance: float) -> dict:
    """Seconds to load the pipeline, and for one picture and four of them, medians of three; and the other work then."""
    began = time.perf_counter()
    pipeline = load(folder)
    loading = time.perf_counter() - began
    measured = {}
    for count in (1, 4):
        generate(pipeline, ["a cat"] * count, range(count), guidance, steps=2)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            generate(pipeline, ["a cat"] * count, range(count), guidance)
            times.append(time.perf_counter() - began)
        measured[f"seconds for {count}"] = round(statistics.median(times), 2)
    threads = torch.get_num_threads()
    others = round(max(0.0, os.getloadavg()[0] - threads), 1)
    return {"seconds to load": round(loading, 2), **measured, "threads": threads, "load by others": others}


def speed_alone(folder: Path) -> None:
    """Measure only the speed of a model that was evaluated before, and put it in its ``evaluation.json``.

    Raises:
        ModelUnavailable: there is no such model.
    """
    path = folder / "evaluation.json"
    if not path.is_file():
        raise ModelUnavailable(f"There is no evaluated model in {folder}.")
    result = json.loads(path.read_text(encoding="utf-8"))
    result |= {"speed": speed(folder, result["guidance"]), "machine": machine()}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """The machine in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.is_file() else []  # fmt: skip
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def fidelity(folder: Path, pictures: Tensor, captions: Sequence[str]) -> float:
    """Share of pictures whose own caption is the nearest of all by the small CLIP in ``folder``."""
    from transformers import CLIPModel, CLIPTokenizer

    clip = CLIPModel.from_pretrained(folder / "clip").eval()
    tokens = CLIPTokenizer.from_pretrained(folder / "clip")
    with torch.inference_mode():
        result = clip(input_ids=networks.ids(tokens, list(captions)), pixel_values=pictures)
    nearest = result.logits_per_image.argmax(1)
    return round((nearest == torch.arange(len(captions))).float().mean().item(), 4)


def evaluate(folder: Path, *, count: int = 480, log: Callable[[str], None] = print) -> dict:
    """Measure the finished model and write ``evaluation.json`` beside it.

    Guidance is chosen on captions and seeds that the final figures do not use.
    """
    pipeline, classifier = load(folder), Classifier.load(folder / "classifier")
    pipeline.unet.to(memory_format=torch.channels_last)  # a fifth faster; speed() takes the model as it comes
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    without = {(noun, style) for noun, style in recipe["held out"]}
    every = [(noun, style) for noun in classifier.names for style in classifier.styles]
    seen = [pair for pair in every if pair not in without]
    rng = random.Random(20)
    tuning, texts = captions_for(seen, min(96, count), rng)
    by_guidance = {}
    for guidance in GUIDANCES:
        pictures = generate(pipeline, texts, range(10_000, 10_000 + len(texts)), guidance)
        found = score(classifier, tuning, pictures)
        by_guidance[guidance] = round((found["name"] + found["style"] + found["background"]) / 3, 4)
        log(f"guidance {guidance}: {found}")
    best = max(by_guidance, key=by_guidance.get)
    rng = random.Random(21)
    result = {"guidance": best, "guidance tuning": by_guidance, "steps": STEPS, "machine": machine()}
    scenes, texts = captions_for(seen, count, rng)
    pictures = generate(pipeline, texts, range(len(texts)), best)
    result["seen pairs"] = score(classifier, scenes, pictures)
    result["by style"] = {
        style: score(classifier, [scenes[i] for i in chosen], pictures[chosen])
        for style in world.STYLES
        if (chosen := [i for i, scene in enumerate(scenes) if scene.style == style])
    }
    result["own caption nearest of all by CLIP"] = {
        "share": fidelity(folder, pictures, texts), "captions": len(texts)
    }  # fmt: skip
    if without:
        others, other_texts = captions_for(sorted(without), 4 * len(without), rng)
        drawn = generate(pipeline, other_texts, range(len(other_texts)), best)
        result["held-out pairs"] = score(classifier, others, drawn)
    if recipe["pairs"]:
        nouns, colours = classifier.names, list(world.BACKGROUNDS)
        twos = [world.pair(*rng.sample(nouns, 2), rng.choice(world.STYLES), rng.choice(colours), rng)
                for _ in range(count)]  # fmt: skip
        drawn = generate(pipeline, [world.plain_caption(scene) for scene in twos], range(count), best)
        result["two objects"] = score_pairs(classifier, twos, drawn)
    result["classifier on real icons"] = recipe["classifier"]
    result["speed"] = speed(folder, best)
    (folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    log(json.dumps(result, indent=1))
    return result


def check_classifier(classifier: Classifier, icons: Icons, count: int = 960) -> dict:
    """The classifier's own accuracy on real icons, at sizes and places it did not train on."""
    rng = random.Random(99)
    every = [(noun, style) for noun in icons.nouns for style in world.STYLES]
    scenes = [
        world.single(*every[i % len(every)], rng.choice(list(world.BACKGROUNDS)), rng) for i in range(count)
    ]
    return score(classifier, scenes, compose.pictures(icons, scenes))


def image(picture: Tensor) -> Image.Image:
    """A picture tensor (3, 64, 64), -1…1, as an image."""
    pixels = ((picture + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def sheet(folder: Path, path: Path | None = None, *, columns: int = 12, rows: int = 10) -> Path:
    """Draw a contact sheet of ``rows × columns`` names, styles and backgrounds in turn, to ``sheet.png``."""
    pipeline, classifier = load(folder), Classifier.load(folder / "classifier")
    pipeline.unet.to(memory_format=torch.channels_last)
    measured = folder / "evaluation.json"
    guidance = json.loads(measured.read_text(encoding="utf-8"))["guidance"] if measured.is_file() else 3.5
    colours = list(world.BACKGROUNDS)
    rng = random.Random(5)
    names = rng.sample(classifier.names, min(rows * columns, len(classifier.names)))
    scenes = [
        world.single(name, world.STYLES[i % 4], colours[(i + i // columns) % len(colours)], rng, loose=0)
        for i, name in enumerate(names)
    ]
    pictures = generate(pipeline, [world.plain_caption(s) for s in scenes], range(len(scenes)), guidance)
    height = 64 + 12
    page = Image.new("RGB", (columns * 66, -(-len(scenes) // columns) * height), "white")
    pen = ImageDraw.Draw(page)
    for i, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
        left, top = i % columns * 66, i // columns * height
        page.paste(image(picture), (left + 1, top))
        pen.text((left + 2, top + 63), f"{scene.objects[0].noun[:7]} {scene.style[0]}", fill="black")
    path = path or folder / "sheet.png"
    page.save(path)
    return path
