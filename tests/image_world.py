"""A tiny text-to-image model in a folder, a starter CLIP to judge its pictures, and a subject: all random."""

import tiny_image
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from playground.data import subjects
from playground.data.subjects import Photo

COLOURS = ((200, 30, 30), (30, 160, 60), (40, 60, 200), (220, 180, 40), (120, 40, 160))


def model_folder(folder):
    """A pipeline in diffusers' layout, as the starter model's."""
    tiny_image.sd().save_pretrained(folder)
    return folder


def judge_folder(folder):
    """Both towers of a CLIP with their tokenizer, for 32×32 pictures."""
    tokens = tiny_image.clip_tokenizer()
    text = {
        "vocab_size": len(tokens), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 32, "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def photos(count=3, size=64):
    """Pictures of a coloured square on a plain ground, each another colour and place."""
    made = []
    for at in range(count):
        picture = Image.new("RGB", (size, size), (230, 230, 230))
        picture.paste(COLOURS[at % len(COLOURS)], (4 + 5 * at, 8, 30 + 5 * at, 50))
        made.append(Photo(picture, f"{at}.png"))
    return made


def subject(settings, kind="subject"):
    """A visitor's own subject or style, saved."""
    count = 3 if kind == "subject" else 10
    return subjects.save_subject(
        settings,
        title=f"My {kind}",
        replace_own=True,
        kind=kind,
        token="zwx",
        class_word="mug",
        train=photos(count),
        held_out=photos(2),
        prompts=("a {} on a table", "a red {}") if kind == "subject" else ("a cat", "an apple"),
        class_prompts=("a mug", "a red mug") if kind == "subject" else ("a cat", "an apple"),
    )


def judge(tmp_path):
    """The random CLIP as a judge."""
    from playground.evaluation.image import Judge, View

    folder = judge_folder(tmp_path / "clip")
    clip = CLIPModel.from_pretrained(folder)
    return Judge("random CLIP", clip, tiny_image.clip_tokenizer(), View(32, 32, (0.5,) * 3, (0.5,) * 3))
