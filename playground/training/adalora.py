"""What AdaLoRA does beside following the gradient: orthogonality, importance of ranks, their budget."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from playground.errors import AdapterError
from playground.training.text import StepHook

MEMORY = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of PEFT's allocator: importance, its mean, its spread
RANKS = "ranks/"


class RankBudget(StepHook):
    """Drives PEFT's rank allocator, which asks to be called after each step, and remembers its averages."""

    def __init__(self, network: nn.Module):
        self.tuner = network.base_model
        self.config = network.active_peft_config
        self.matrices = [
            value if ".lora_A." in name else value.T
            for name, value in network.named_parameters()
            if ".lora_A." in name or ".lora_B." in name
        ]

    def before_step(self) -> None:
        """Add the gradient of the mean Frobenius norm of P·Pᵀ - 1 over all matrices P (PEFT adds it to its loss)."""
        if not self.config.orth_reg_weight:
            return
        distances = [torch.dist(rows @ rows.T, _one(rows)) for rows in self.matrices]
        (self.config.orth_reg_weight * torch.stack(distances).mean()).backward()

    def after_step(self, step: int) -> None:
        """Update the importances, and set the least important singular values to 0."""
        self.tuner.update_and_allocate(step)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The allocator's averages and the ranks settled on."""
        kept = {
            f"{memory}/{name}": value
            for memory in MEMORY
            for name, value in getattr(self.tuner.rankallocator, memory).items()
        }
        ranks = self.config.rank_pattern or {}
        return kept | {RANKS + name: torch.tensor(value) for name, value in ranks.items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """See ``StepHook.load``."""
        devices = {name: value.device for name, value in self.tuner.model.named_parameters()}
        for memory in MEMORY:
            start = f"{memory}/"
            kept = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
            setattr(self.tuner.rankallocator, memory, {name: t.to(devices[name]) for name, t in kept.items()})
        ranks = {
            name.removeprefix(RANKS): t.tolist() for name, t in tensors.items() if name.startswith(RANKS)
        }
        self.config.rank_pattern = ranks or None


def singular_values(network: nn.Module) -> dict[str, torch.Tensor]:
    """Each layer's singular values by the name that PEFT's rank pattern gives them."""
    values = network.base_model.model.named_parameters()
    return {name: value.detach() for name, value in values if ".lora_E." in name}


def take_ranks(network: nn.Module, weights: Path) -> None:
    """Make room in a freshly wrapped network for the ranks that a file holds.

    Raises:
        AdapterError: the file cannot be read, or holds more rank than there was at the start.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith(".lora_E")]  # noqa: SIM118
            ranks = {name: file.get_slice(name).get_shape()[0] for name in names}
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"The adapter cannot be read, it is damaged: {error}") from error
    pattern = {}
    for name, value in singular_values(network).items():
        rank = ranks.get("base_model.model." + name.removesuffix(".default"), len(value))
        if rank > len(value):
            raise AdapterError(f"The adapter does not fit this model: {name} has rank {rank}.")
        pattern[name] = [True] * rank + [False] * (len(value) - rank)
    network.base_model.resize_modules_by_rank_pattern(pattern, network.active_adapter)
    network.active_peft_config.rank_pattern = {
        name: [True] * len(value) for name, value in singular_values(network).items()
    }


def _one(rows: torch.Tensor) -> torch.Tensor:
    return torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
