"""What pictures are worth: how much like the subject, like the prompt, like the base model's, like each other.

The measures are those of DreamBooth (Ruiz et al. 2022, arXiv:2208.12242, section 4), as cosines of unit
embeddings e(·):

- Subject fidelity, DINO and CLIP-I there: the mean of e(sample)·e(real) over all pairs.
- Prompt fidelity, CLIP-T there: the mean of e(sample)·e(its text).
- Diversity, DIV there: 1 − the mean of e(one)·e(other) over all pairs of samples. The paper takes LPIPS for it.
- Drift of the class: 1 − the mean of e(tuned)·e(base) over pictures of the same prompt and seed. The paper's PRES
  asks how much pictures of the class came to look like the subject; this asks how far they left where they were,
  whatever the direction, and is 0 for a model that was not changed.

Who judges is told with every number: cosines of two judges must not be compared.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer, Dinov2Model

from playground.errors import ModelUnavailable
from playground.evaluation.recommend import Bounds
from playground.models import sources
from playground.models.catalogue import Model
from playground.settings import ASSETS, Settings

if TYPE_CHECKING:
    from playground.models.image import ImageModel

STARTER = ASSETS / "starter-image" / "clip"
BATCH = 32  # pictures or texts embedded at once
DRIFT_SHARE = 0.5  # of the way from the same picture to another one of the class


def _published(id: str, title: str, repo: str, licence: str) -> Model:
    return Model(id, title, repo, "main", licence, None, "embedding", None, (f"hub:{repo}",))


# The paper's judge of subjects is a small vision transformer (DINO ViT-S/16); this is its successor.
DINO = (_published("dinov2-small", "DINOv2", "facebook/dinov2-small", "Apache-2.0"),)
# In this order; those whose repositories hold no safetensors are passed over.
CLIP = (
    _published("clip-b32", "CLIP ViT-B/32", "openai/clip-vit-base-patch32", "MIT"),
    _published("clip-b16", "CLIP ViT-B/16", "openai/clip-vit-base-patch16", "MIT"),
    _published("clip-l14", "CLIP ViT-L/14", "openai/clip-vit-large-patch14", "MIT"),
)


@dataclass(frozen=True)
class View:
    """How a network wants its pictures: shorter edge, centre crop (pixels), mean and deviation of 0…1 values."""

    edge: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, h, w), −1…1, as the network takes them: (n, 3, crop, crop)."""
        height, width = pictures.shape[-2:]
        scale = self.edge / min(height, width)
        if scale != 1:
            size = (max(self.crop, round(height * scale)), max(self.crop, round(width * scale)))
            pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(-1, 1)
        top, left = ((length - self.crop) // 2 for length in pictures.shape[-2:])
        pictures = pictures[..., top : top + self.crop, left : left + self.crop]
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return ((pictures + 1) / 2 - mean) / std


class Judge:
    """Networks that turn pictures and texts into unit vectors; their cosines are the measures.

    Attributes:
        name: "DINOv2 + CLIP" or "starter CLIP".
        models: the networks' repositories or names, each with the revision of its weights.
        note: why it is not a better one; "" where there is none.
    """

    def __init__(
        self,
        name: str,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        view: View,
        dino: tuple[Dinov2Model, View] | None = None,
        *,
        models: Sequence[str] = (),
        note: str = "",
        device: torch.device | str = "cpu",
    ):
        self.name, self.models, self.note = name, tuple(models), note
        self.device = torch.device(device)
        self._clip, self._tokenizer, self._view = _ready(clip, self.device), tokenizer, view
        self._dino = (_ready(dino[0], self.device), dino[1]) if dino else None

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        """What a picture shows, for comparing it with pictures: DINOv2's where it is here, else CLIP's.

        Args:
            pictures: (n, 3, h, w), −1…1.

        Returns: unit vectors, float32 on the CPU, (n, dimensions).
        """
        if self._dino is None:
            return self.embed_for_texts(pictures)
        network, view = self._dino
        return self._embedded(pictures, lambda part: network(view(part).to(self.device)).pooler_output)

    def embed_for_texts(self, pictures: Tensor) -> Tensor:
        """CLIP's unit vectors of pictures (n, 3, h, w), −1…1, for comparing them with texts: (n, dimensions)."""
        return self._embedded(
            pictures,
            lambda part: self._clip.get_image_features(self._view(part).to(self.device)).pooler_output,
        )

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """CLIP's unit vectors of texts, (texts, dimensions). What is beyond CLIP's length is cut off."""
        return self._embedded(list(texts), self._text_features)

    def _text_features(self, texts: list[str]) -> Tensor:
        longest = self._clip.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        return self._clip.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output

    def _embedded(self, things: Tensor | list[str], features: Callable) -> Tensor:
        if not len(things):
            return torch.zeros(0, self._clip.config.projection_dim)
        with torch.no_grad():
            parts = [features(things[start : start + BATCH]) for start in range(0, len(things), BATCH)]
        return F.normalize(torch.cat(parts).float(), dim=-1).cpu()


def load_judge(
    settings: Settings,
    model: "ImageModel",
    *,
    starter: Path = STARTER,
    progress: sources.Progress | None = None,
) -> Judge:
    """DINOv2 and CLIP where the Hub's cache has them or the Hub can be reached, else the starter CLIP.

    It computes on the model's device, in float32. Its ``note`` says why it is the starter CLIP.

    Args:
        starter: folder of the starter CLIP: a CLIPModel with its tokenizer, which takes pictures in −1…1.
        progress: told of downloads, see ``models.sources.locate``.

    Raises:
        ModelUnavailable: none of them is here.
    """
    try:
        return _published_judge(settings, model.device, progress)
    except ModelUnavailable as error:
        reason = str(error)
    except (OSError, ValueError, SafetensorError) as error:  # what is in the cache is damaged
        reason = f"they cannot be read: {error}"
    if not sources.whole(starter):
        raise ModelUnavailable(
            f"Nothing can judge pictures here: there is no starter CLIP in {starter}, and {reason}"
        )
    clip = CLIPModel.from_pretrained(
        starter, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    edge = clip.config.vision_config.image_size
    return Judge(
        "starter CLIP",
        clip,
        CLIPTokenizer.from_pretrained(starter, local_files_only=True),
        View(edge, edge, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        models=(f"starter CLIP@{sources.revision(starter)}",),
        note=f"DINOv2 and CLIP are not used: {reason}",
        device=model.device,
    )


def _published_judge(settings: Settings, device: torch.device, progress: sources.Progress | None) -> Judge:
    seer, seer_folder = _first(DINO, settings, progress)
    reader, reader_folder = _first(CLIP, settings, progress)
    options = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    clip = CLIPModel.from_pretrained(reader_folder, **options)
    edge = clip.config.vision_config.image_size
    return Judge(
        "DINOv2 + CLIP",
        clip,
        CLIPTokenizer.from_pretrained(reader_folder, local_files_only=True),
        _view(reader_folder, edge, edge, _CLIP_MEAN, _CLIP_STD),
        (
            Dinov2Model.from_pretrained(seer_folder, **options),
            _view(seer_folder, 256, 224, _IMAGENET_MEAN, _IMAGENET_STD),
        ),
        models=(
            f"{seer.repo}@{sources.revision(seer_folder)}",
            f"{reader.repo}@{sources.revision(reader_folder)}",
        ),
        device=device,
    )


_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _first(
    entries: Sequence[Model], settings: Settings, progress: sources.Progress | None
) -> tuple[Model, Path]:
    """The first of these that is at hand, else the first that can be fetched."""
    refused = ""
    for entry in sorted(entries, key=lambda entry: not sources.at_hand(entry, settings)):
        try:
            folder = sources.locate(entry, settings, progress)
            sources.refuse_foreign(folder, entry.title)
            return entry, folder
        except ModelUnavailable as error:
            refused = refused or str(error)
    raise ModelUnavailable(refused)


def _view(folder: Path, edge: int, crop: int, mean: tuple[float, ...], std: tuple[float, ...]) -> View:
    """The view that the model's ``preprocessor_config.json`` describes; what it does not say is as given."""
    path = folder / "preprocessor_config.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    crop = _length(told.get("crop_size")) or crop
    return View(
        max(_length(told.get("size")) or edge, crop),
        crop,
        tuple(told.get("image_mean") or mean),
        tuple(told.get("image_std") or std),
    )


def _length(size: int | dict | None) -> int | None:
    return (size.get("shortest_edge") or size.get("height")) if isinstance(size, dict) else size


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    return network.requires_grad_(False).eval().to(device)


# Measures of unit vectors


def alike(vectors: Tensor, others: Tensor) -> float | None:
    """Mean cosine over all pairs of one of ``vectors`` (n, d) and one of ``others`` (m, d); None without pairs."""
    return _mean(vectors @ others.T)


def agreement(vectors: Tensor, others: Tensor) -> float | None:
    """Mean cosine of each vector and the one at its place among ``others``; None without vectors."""
    return _mean((vectors * others).sum(1))


def distance(vectors: Tensor, others: Tensor) -> float | None:
    """1 − mean cosine of each vector and the one at its place among ``others``; None without vectors."""
    return _rest(agreement(vectors, others))


def spread(vectors: Tensor) -> float | None:
    """1 − mean cosine over all pairs of two different vectors; None with fewer than two."""
    return _rest(_mean(_between(vectors)))


def most_alike(vectors: Tensor, others: Tensor) -> list[tuple[int, float]]:
    """For each vector the index of the one most like it among ``others``, and their cosine."""
    if not len(others):
        return []
    best = (vectors @ others.T).max(dim=1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def bounds_of(real: Tensor, base_class: Tensor) -> Bounds:
    """How much drift and likeness to a training picture is too much, for this judge and this subject.

    Drift: half of the way to a different picture of the class, that is ``DRIFT_SHARE`` times the diversity
    of what the base model draws. Memorisation: the middle between the most alike of two different real
    pictures and a copy, whose cosine is 1. With too few pictures for one of them, its default.

    Args:
        real: unit vectors of all pictures of the subject, (n, d).
        base_class: those of the base model's pictures of the class, (m, d).
    """
    between, apart, usual = _between(real), spread(base_class), Bounds()
    return Bounds(
        usual.class_drift if apart is None else DRIFT_SHARE * apart,
        (1 + between.max().item()) / 2 if len(between) else usual.memorisation,
    )


def _between(vectors: Tensor) -> Tensor:
    """Cosines of all pairs of two different vectors."""
    one, other = torch.triu_indices(len(vectors), len(vectors), offset=1)
    return (vectors[one] * vectors[other]).sum(1)


def _mean(cosines: Tensor) -> float | None:
    return cosines.double().mean().item() if cosines.numel() else None


def _rest(cosine: float | None) -> float | None:
    """1 − cosine, without what rounding left below 0."""
    if cosine is None:
        return None
    return 0.0 if cosine > 1 else 1 - cosine


# Measures of pictures


def fidelity(judge: Judge, samples: Tensor, held_out: Tensor) -> float | None:
    """Mean cosine over all pairs of a drawn and a real picture, −1…1 (DreamBooth's DINO and CLIP-I).

    Args:
        samples: (n, 3, h, w), −1…1.
        held_out: real pictures that were not trained on, (m, 3, h, w), −1…1.

    Returns: None where there are no pictures of one kind.
    """
    return alike(judge.embed_pictures(samples), judge.embed_pictures(held_out))


def prompt_fidelity(judge: Judge, samples: Tensor, texts: Sequence[str]) -> float | None:
    """Mean cosine of each picture and its text (DreamBooth's CLIP-T); None without pictures.

    Args:
        samples: (n, 3, h, w), −1…1.
        texts: one a picture, in words that CLIP knows: with the class word instead of the rare one.
    """
    if not texts:
        return None
    return agreement(judge.embed_for_texts(samples), judge.embed_texts(texts))


def drift(judge: Judge, class_samples: Tensor, base_class_samples: Tensor) -> float | None:
    """1 − mean cosine of pictures that the tuned and the base model drew from the same prompt and seed.

    Args:
        class_samples: of the tuned model, (n, 3, h, w), −1…1.
        base_class_samples: of the base model, in the same order.

    Returns: 0 for a model that was not changed; None without pictures.
    """
    return distance(judge.embed_pictures(class_samples), judge.embed_pictures(base_class_samples))


def diversity(judge: Judge, samples: Tensor) -> float | None:
    """1 − mean cosine over all pairs of two different pictures (n, 3, h, w); None with fewer than two."""
    return spread(judge.embed_pictures(samples))


def nearest(judge: Judge, samples: Tensor, train: Tensor) -> list[tuple[int, float]]:
    """For each picture the index of the training picture most like it, and their cosine."""
    return most_alike(judge.embed_pictures(samples), judge.embed_pictures(train))
