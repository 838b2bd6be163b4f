"""What a trained LoRA update is made of: the singular values of ΔW = λ · B · A of each layer.

ΔW has the size of the layer's weight, but at most ``rank`` singular values. With B = Qb · Rb and
Aᵀ = Qa · Ra, those of Rb · Raᵀ, a rank × rank matrix, are the same, so ΔW is never built.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from playground.errors import AdapterError
from playground.training import adapter_files

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
START = "base_model.model."
NOT_LORA = "This run's result holds no LoRA matrices; only LoRA's update has such a spectrum."
PLAIN = (True, False, "true", "false", "gaussian", "orthogonal")  # ΔW is zero at the start


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer's update. ``values`` are the singular values, largest first; ``rows`` × ``columns`` is ΔW."""

    name: str
    rows: int
    columns: int
    values: tuple[float, ...]

    @property
    def kind(self) -> str:
        """The layer's own name: "q_proj"."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def block(self) -> int | None:
        """The number of the transformer block; None outside of blocks."""
        return next((int(part) for part in self.name.split(".") if part.isdigit()), None)

    @property
    def norm(self) -> float:
        """Frobenius norm of ΔW."""
        return math.sqrt(sum(value * value for value in self.values))

    @property
    def shares(self) -> tuple[float, ...]:
        """How much of ΔW each rank holds: its part of the squared Frobenius norm, summing to 1."""
        whole = sum(value * value for value in self.values)
        return tuple(value * value / whole if whole else 0.0 for value in self.values)

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the singular values divided by their sum (Roy and Vetterli 2007): 1 to rank."""
        whole = sum(self.values)
        parts = [value / whole for value in self.values if value > 0] if whole else []
        return math.exp(-sum(part * math.log(part) for part in parts)) if parts else 0.0


def singular_values(b: torch.Tensor, a: torch.Tensor, scale: float) -> torch.Tensor:
    """Singular values of ``scale`` · b · a, largest first, without building the product.

    Args:
        b: d × r.
        a: r × n.

    Returns: r values in float64 on the CPU (fewer where d or n is below r).
    """
    _, left = torch.linalg.qr(b.double().cpu(), mode="r")
    _, right = torch.linalg.qr(a.double().cpu().T, mode="r")
    return torch.linalg.svdvals(left @ right.T) * abs(scale)


def spectra(folder: Path) -> list[LayerSpectrum]:
    """The spectrum of every layer of a saved LoRA adapter, in the order of the blocks.

    Raises:
        AdapterError: it is missing or damaged, holds no LoRA matrices, or its ΔW is not λ · B · A.
    """
    adapter_files.verify(folder, {})
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise AdapterError(NOT_LORA)
    config = _config(folder)
    found = _tensors(folder / WEIGHTS)
    pairs = {
        name.removesuffix(".lora_A.weight"): (found[name.replace(".lora_A.", ".lora_B.")], value)
        for name, value in found.items()
        if name.endswith(".lora_A.weight") and name.replace(".lora_A.", ".lora_B.") in found
    }
    if not pairs:
        raise AdapterError(
            "This run's result holds no LoRA matrices; only LoRA's update has such a spectrum."
        )
    layers = [_layer(name.removeprefix(START), b, a, config) for name, (b, a) in pairs.items()]
    return sorted(layers, key=lambda layer: (layer.block is None, layer.block or 0))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"The adapter cannot be read, it is damaged: {error}") from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"The adapter's {CONFIG} cannot be read: {error}") from error
    start = config.get("init_lora_weights", True)
    if start not in PLAIN:
        raise AdapterError(
            f"This adapter began as a part of the weights ({start}), so its update is not λ · B · A alone."
        )
    if config.get("use_dora"):
        raise AdapterError(
            "DoRA also rescales whole rows of the weight, so its update is not λ · B · A alone."
        )
    return config


def _layer(name: str, b: torch.Tensor, a: torch.Tensor, config: Mapping[str, Any]) -> LayerSpectrum:
    values = singular_values(b, a, _scale(name, a.shape[0], config))
    return LayerSpectrum(name, b.shape[0], a.shape[1], tuple(values.tolist()))


def _scale(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """λ of one layer: alpha / rank, or alpha / √rank with rsLoRA."""
    special = config.get("alpha_pattern") or {}
    fitting = (value for key, value in special.items() if re.match(rf"(.*\.)?({key})$", name))  # as PEFT does
    alpha = next(fitting, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
