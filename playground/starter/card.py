"""The model card, README.md of the finished model's folder, and its NOTICE. No heavy imports."""

import json
from pathlib import Path

from playground.starter import world
from playground.starter.icons import PACKAGES

_HEAD = """---
license: cc-by-4.0
pipeline_tag: text-to-image
library_name: diffusers
---

# Starter text-to-image model

A very small model that draws icon stickers at 64×64, made to be adapted on a laptop without a GPU. It has the
classes and the folder layout of Stable Diffusion, so what adapts this model adapts those:

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("assets/starter-image")
drawn = pipeline("{example}", num_inference_steps={steps}, guidance_scale={guidance})
drawn.images[0].save("sticker.png")
```

`clip/` holds both towers of a small CLIP (its text tower is the pipeline's), `classifier/` the judge of the
figures below.

![Contact sheet](sheet.png)
"""


def _share(found: dict, key: str) -> str:
    low, high = found[f"{key} interval"]
    return f"{found[key]:.1%} ({low:.1%} to {high:.1%})"


def _row(title: str, found: dict) -> str:
    cells = " | ".join(_share(found, key) for key in ("name", "style", "background"))
    return f"| {title} | {found['pictures']} | {cells} |"


def _figures(result: dict) -> str:
    rows = [_row("Name × style pairs seen in training", result["seen pairs"])]
    if "held-out pairs" in result:
        rows.append(_row("Name × style pairs never seen", result["held-out pairs"]))
    rows += [_row(f"Seen pairs, {style}", found) for style, found in result["by style"].items()]
    rows.append(_row("The classifier itself, on real icons", result["classifier on real icons"]))
    lines = [
        "| Pictures of | Count | Right name | Right style | Right background |",
        "|---|---|---|---|---|",
        *rows,
    ]
    nearest, speed = result["own caption nearest of all by CLIP"], result["speed"]
    text = "\n".join(lines)
    text += (
        f"\n\nShares with 95 % intervals; {result['steps']} steps, guidance {result['guidance']} (chosen on other "
        f"captions and seeds). Names and styles are judged by a classifier trained apart on real icons, backgrounds "
        f"by the median colour of the rim. By the small CLIP, {nearest['share']:.1%} of the pictures of seen pairs "
        f"are nearer to their own caption than to any other of {nearest['captions']}.\n\n"
        f"Loading took {speed['seconds to load']} s, one picture {speed['seconds for 1']} s, a batch of four "
        f"{speed['seconds for 4']} s, with {speed['threads']} thread{'s' if speed['threads'] > 1 else ''} on: "
        f"{result['machine']}{', while other work kept it busy' if speed.get('load by others', 0) > 0.5 else ''}.\n"
    )
    if "two objects" in result:
        two = result["two objects"]
        text += (
            f"\nTwo objects ({two['pictures']} pictures): both names found {two['both names']:.1%}, "
            f"on the right sides too {two['both names, right sides']:.1%}.\n"
        )
    return text


def _training(recipe: dict) -> str:
    stages = "\n".join(
        f"| {stage} | {found['steps']:,} | {found['seconds'] / 60:.0f} |"
        for stage, found in recipe["stages"].items()
    )
    sizes = ", ".join(f"{name} {count / 1e6:.1f} million" for name, count in recipe["parameters"].items())
    before = recipe.get("origin")  # an older recipe.json does not have it
    command = f"python -m playground.starter train --preset {recipe['preset']}" + (
        " --from MODEL" if before else ""
    )
    text = (
        f"Preset `{recipe['preset']}`, made with `{command}` on: {recipe['machine']}. Parameters: {sizes}.\n\n"
        f"| Stage | Steps | Minutes of wall time |\n|---|---|---|\n{stages}\n"
    )
    if recipe["note"]:
        text += f"\n{recipe['note']}\n"
    while before:
        found = before["stages"]["unet"]
        text += (
            f"\nIts U-Net was trained on from a finished model's, with a fresh optimiser: {found['steps']:,} of the steps "
            f"and {found['seconds'] / 60:.0f} of the minutes above are that one's, and so are the other stages.\n"
        )
        if before["note"]:
            text += f"\nOf that model: {before['note']}\n"
        before = before.get("origin")
    return text


def _sources() -> str:
    lines = ["| Style | Icon set | Version | Licence | Attribution |", "|---|---|---|---|---|"]
    lines += [
        f"| {p.style} | [{p.title}]({p.source}), npm `{p.npm}` | {p.version} | {p.licence} | {p.attribution} |"
        for p in PACKAGES
    ]
    return "\n".join(lines)


def model_card(recipe: dict, result: dict) -> str:
    """The card's text, from what training and evaluation wrote down."""
    two = "One or two objects a picture." if recipe["pairs"] else (
        "One object a picture, in the middle; two objects in one caption were not trained."
    )  # fmt: skip
    example = f"a {recipe['names'][0]} on a blue background, flat style"
    held_out = ", ".join(f"{noun} in {style}" for noun, style in recipe["held out"])
    return (
        _HEAD.format(example=example, steps=result["steps"], guidance=result["guidance"])
        + f"\n## What it knows\n\nCaptions such as “{example}”, in several word orders; style and background can be "
        f"left out. {two}\n\n"
        f"- Styles: {', '.join(world.STYLES)}\n- Backgrounds: {', '.join(world.BACKGROUNDS)}\n"
        f"- {len(recipe['names'])} names: {', '.join(recipe['names'])}\n\n"
        f"It knows nothing else: other words are passed over at best. No people, text or flags were trained.\n"
        f"Never seen in training, to measure generalisation: {held_out or 'nothing'}.\n\n"
        f"## How well\n\n{_figures(result)}\n## How it was trained\n\n{_training(recipe)}\n"
        f"## Data and licences\n\n{_sources()}\n\nSee NOTICE for what was done with them.\n"
    )


def notice() -> str:
    """The NOTICE: whose icons the model learned from, and what was done with them."""
    parts = [
        "Starter text-to-image model\n\nIts weights were trained on pictures made from the icon sets below. The icons "
        "were drawn from their\nSVG sources at 96 pixels, scaled, placed on plain coloured backgrounds, for the "
        "autoencoder also mirrored\nand recoloured, and captioned by their names. The sets themselves are not "
        "distributed here. Pictures that\nthe model draws resemble these icons: whoever publishes them should give "
        "the attributions below. The\nweights are offered under CC BY 4.0, the most demanding of these licences; the "
        "program is under Apache-2.0.\n"
    ]
    parts += [
        f"{p.title}\n  {p.attribution}\n  Licence: {p.licence}, https://spdx.org/licenses/{p.licence}.html\n  Source: {p.source}\n"
        f"  Taken from: npm package {p.npm} {p.version} (Iconify)\n  Style word in captions: {p.style}\n"
        for p in PACKAGES
    ]
    return "\n".join(parts)


def write(folder: Path) -> None:
    """Write README.md and NOTICE from ``recipe.json`` and ``evaluation.json`` in ``folder``."""
    recipe, result = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("recipe", "evaluation")
    )
    (folder / "README.md").write_text(model_card(recipe, result), encoding="utf-8")
    (folder / "NOTICE").write_text(notice(), encoding="utf-8")
