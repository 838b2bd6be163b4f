"""A warm start: a finished model's folder becomes the checkpoints that a training goes on from.

Only the U-Net is trained on. Its optimiser starts fresh; its steps and minutes are counted on from the model's
``recipe.json``. Autoencoder, CLIP, tokenizer and classifier stay exactly as they are.
"""

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPModel

from playground.errors import InvalidInput, ModelUnavailable
from playground.starter import optimise
from playground.starter.networks import Classifier
from playground.starter.presets import Preset

ORIGIN = "origin.json"  # the recipe.json of the model that a training went on from, beside its checkpoints


def origin(folder: Path) -> dict | None:
    """What ``recipe.json`` of the model said that the checkpoints in ``folder`` came from; None without one."""
    path = folder / ORIGIN
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def lay(model: Path, preset: Preset, names: list[str], without: frozenset, folder: Path) -> None:
    """Write the finished model's networks as checkpoints to ``folder``, all or none; a later call finds them there.

    Args:
        names: those that the U-Net will draw.
        without: the name × style pairs that it must never have seen.

    Raises:
        ModelUnavailable: there is no finished model in ``model``.
        InvalidInput: ``folder`` belongs to another training, or the model does not suit this one.
    """
    if origin(folder):
        return
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput(f"{folder} holds another training's checkpoints. Choose another --out.", "out")
    if not all((model / name).is_file() for name in ("recipe.json", "model_index.json")):
        raise ModelUnavailable(f"There is no finished model in {model} to go on from.")
    text = (model / "recipe.json").read_text(encoding="utf-8")
    recipe = json.loads(text)
    held_out = [list(pair) for pair in sorted(without) if pair[0] in names]
    if (recipe["preset"], recipe["names"], recipe["held out"]) != (preset.name, names, held_out):
        raise InvalidInput(
            f"The model in {model} was trained with preset {recipe['preset']} and {len(recipe['names'])} names. "
            f"Go on from it with the same preset, names and held-out pairs.",
            "from",
        )
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae", local_files_only=True)
    kept: dict[str, nn.Module] = {
        "vae": vae,
        "decoder": vae,
        "clip": CLIPModel.from_pretrained(model / "clip", local_files_only=True),
        "classifier": Classifier.load(model / "classifier"),
    }
    for stage, network in kept.items():
        optimise.lay(stage, network, beside, final=True, **recipe["stages"][stage])
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet", local_files_only=True)
    optimise.lay("unet", unet, beside, **recipe["stages"]["unet"])
    shutil.copytree(model / "tokenizer", beside / "tokenizer")
    (beside / ORIGIN).write_text(text, encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    beside.replace(folder)
