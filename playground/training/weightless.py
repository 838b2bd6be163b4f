"""A model with its tokenizer but without its weights: enough to count, to tokenise and to run dry."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from playground.errors import ModelUnavailable
from playground.models import device, sources
from playground.models.catalogue import Model
from playground.models.text import LanguageModel
from playground.settings import Settings


def weightless(model: Model, settings: Settings) -> LanguageModel:
    """The model as ``models.text.load`` would give it, on PyTorch's meta device.

    Raises:
        ModelUnavailable: its configuration is not on this machine, and the Hub does not give it (see
            ``models.sources.outline``), or its files cannot be read as a language model.
        InvalidInput: the settings name a device that is not here.
    """
    folder = sources.outline(model, settings)
    dtype = device.choose(settings).dtype
    try:
        network, tokenizer = skeleton(folder, dtype), _tokenizer(folder, sources.revision(folder))
    except (ValueError, KeyError, OSError) as error:
        raise ModelUnavailable(f"{model.title} cannot be read as a language model: {error}") from error
    return LanguageModel(network, tokenizer, model, torch.device("meta"), dtype, 0.0, model.revision)


def skeleton(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of a folder without its weights: shapes and names only."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if (Path(folder) / "generation_config.json").is_file():
        network.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return network


@lru_cache(maxsize=2)
def _tokenizer(folder: Path, revision: str) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
