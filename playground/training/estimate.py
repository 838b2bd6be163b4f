"""What a training will take, before it starts: exact counts, and memory and time estimated.

Memory is the sum of (all in bytes; ``size`` is that of the number type):

- weights: all parameters of the base model × size,
- adapter, gradients, optimiser: trainable parameters × 4, × 4, × 8 (AdamW keeps two numbers each),
- activations of the largest forward pass, as a Llama-type layer keeps them for the backward pass::

    tokens × layers × (12 × hidden + 5 × intermediate + 2 × keys and values) × size
    + tokens² × size                                      the attention mask of a packed row
    + answer tokens × vocabulary × 12                     logits, their logarithms and gradient, float32

- runtime: what Python with PyTorch, transformers and PEFT takes by itself on a CPU (not on a GPU).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from playground.training.batches import Example, shared_prefix
from playground.training.text import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

RUNTIME_BYTES = 450_000_000  # resident set of a worker that has imported everything, measured on Linux


@dataclass(frozen=True)
class Memory:
    """Parts of the estimated peak, in bytes."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        """The estimated peak, in bytes."""
        return sum(self.__dict__.values())


@dataclass(frozen=True)
class Estimate:
    """``tokens`` go through the model in the whole training, forwards and backwards.

    ``examples`` are used, ``left_out`` are too long. Counts are exact; ``memory`` and ``seconds`` are
    estimates, ``seconds`` is None where no speed was measured yet.
    """

    examples: int
    left_out: int
    steps: int
    effective_batch: int
    tokens: int
    trainable_parameters: int
    total_parameters: int
    memory: Memory
    seconds: float | None


def skeleton(folder: Path) -> nn.Module:
    """The model of a folder without its weights (PyTorch's meta device): shapes and names only."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def estimate(
    model: nn.Module,
    wrap: Callable[[nn.Module], nn.Module],
    examples: Sequence[Example],
    plan: Plan,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    tokens_per_second: float | None = None,
) -> Estimate:
    """What training would take.

    Args:
        model: the base model, best as ``skeleton`` gives it.
        wrap: adds what is trained, as the method does for real.
        tokens_per_second: training speed measured before, on this machine with this model.
    """
    base = sum(parameter.numel() for parameter in model.parameters())
    config = model.config.get_text_config()
    with torch.device("meta"):
        wrapped = wrap(model)
    trainable = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in wrapped.parameters())
    kept = [example for example in examples if len(example.ids) <= plan.max_length]
    tokens = _tokens(kept, plan) if kept else 0
    return Estimate(
        examples=len(kept),
        left_out=len(examples) - len(kept),
        steps=plan.steps(len(kept)),
        effective_batch=plan.effective_batch,
        tokens=tokens,
        trainable_parameters=trainable,
        total_parameters=total,
        memory=Memory(
            weights=base * dtype.itemsize,
            adapter=(total - base) * 4,
            gradients=trainable * 4,
            optimizer=trainable * 8,
            activations=_activations(kept, plan, config, dtype.itemsize) if kept else 0,
            runtime=0 if device.startswith("cuda") else RUNTIME_BYTES,
        ),
        seconds=tokens / tokens_per_second if tokens_per_second else None,
    )


def _tokens(examples: Sequence[Example], plan: Plan) -> int:
    """Tokens through the model: the shared beginning once a batch, the last token never."""
    prefix = shared_prefix(examples)
    own = sum(len(example.ids) - 1 - prefix for example in examples)
    sizes = [plan.effective_batch] * (len(examples) // plan.effective_batch)
    sizes.append(len(examples) % plan.effective_batch)
    batches = sum(-(-size // plan.batch_size) for size in sizes)
    return plan.epochs * (own + prefix * batches)


def _activations(examples: Sequence[Example], plan: Plan, config: "PreTrainedConfig", size: int) -> int:
    prefix = shared_prefix(examples)
    longest = sorted((len(example.ids) - 1 - prefix for example in examples), reverse=True)
    tokens = prefix + sum(longest[: plan.batch_size])
    tokens = min(tokens, max(plan.pack_tokens, prefix + longest[0]))
    answers = sum(sorted((example.answer for example in examples), reverse=True)[: plan.batch_size])
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer = 12 * config.hidden_size + 5 * inner + 2 * heads * width
    return (
        tokens * config.num_hidden_layers * layer * size
        + tokens * tokens * size
        + answers * config.vocab_size * 12
    )
