"""From a task's items to the tensors of a forward pass: examples, rows without padding, labels.

A *packed* row holds several examples one after another. The prompt's beginning that all of them share
(the instruction) stands in it once; an attention mask lets every example see that beginning and
itself, and position ids go on from it. The loss and its gradient are the same as with one padded
line an example (tests/training/test_batches.py), with far fewer tokens to compute.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from playground.data.tasks import Item, Task
from playground.training.packed_attention import mark

if TYPE_CHECKING:
    from playground.models.text import LanguageModel

IGNORED = -100
UNMOVED = 1e-4  # nats; two passes of the same shapes have no rounding between them


@dataclass(frozen=True)
class Example:
    """Token ids of prompt and answer; the last ``answer`` of them (end of turn included) are learnt."""

    ids: tuple[int, ...]
    answer: int


@dataclass
class Row:
    """One forward pass.

    ``inputs`` are the model's keyword arguments. ``labels`` has the shape of the logits without the
    vocabulary: (1, answers) packed, (batch, longest answer) padded, -100 where nothing is learnt.
    ``tokens`` counts what goes through the model, padding left out. Where prompts are learnt, too, ``prompts`` says
    which labels are theirs, shaped as ``labels``, and ``prompt_weight`` what each of those counts in the loss.
    """

    inputs: dict[str, Any]
    labels: torch.Tensor
    answers: int
    tokens: int
    prompts: torch.Tensor | None = None
    prompt_weight: float = 0.0


def encode(model: "LanguageModel", task: Task, items: Iterable[Item]) -> list[Example]:
    """The items as examples, in the chat template that the methods use for asking."""
    return [_encode(model, task.messages(item.input), item.target) for item in items]


def _encode(model: "LanguageModel", messages: list[dict[str, str]], target: str) -> Example:
    prompt = model.encode(messages)
    whole = model.encode([*messages, {"role": "assistant", "content": target}], add_generation_prompt=False)
    stops = stop_tokens(model)
    answer = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
    end = next((at for at, token in enumerate(answer) if token in stops), None)
    if end is None:  # the template ends a turn in its own way: answer and end token as they are
        answer = [*model.tokenizer.encode(target, add_special_tokens=False), model.tokenizer.eos_token_id]
    else:
        answer = answer[: end + 1]
    return Example((*prompt, *answer), len(answer))


def stop_tokens(model: "LanguageModel") -> set[int]:
    """The tokens that end an answer."""
    ends = model.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {token for token in (*ends, model.tokenizer.eos_token_id) if token is not None}


def shared_prefix(examples: Sequence[Example]) -> int:
    """How many leading tokens all examples share. The last prompt token is never among them."""
    most = min(len(example.ids) - example.answer for example in examples) - 1
    first = examples[0].ids
    for at in range(max(most, 0)):
        if any(example.ids[at] != first[at] for example in examples):
            return at
    return max(most, 0)


def pack(
    examples: Sequence[Example],
    prefix: int,
    limit: int,
    device: torch.device,
    dtype: torch.dtype,
    hidden: Mapping[Example, torch.Tensor] | None = None,
    prompt_weight: float = 0.0,
) -> list[Row]:
    """Rows of at most ``limit`` tokens each (more where one example alone is longer), in order.

    Args:
        hidden: what goes in instead of token ids, (tokens - 1, width) for each example.
        prompt_weight: what a prompt's token counts in the loss beside an answer's; those of the shared beginning
            (``prefix`` and one more) count nothing.
    """
    groups: list[list[Example]] = []
    used = 0
    for example in examples:
        length = len(example.ids) - 1 - prefix
        if not groups or used + length > limit:
            groups.append([])
            used = prefix
        groups[-1].append(example)
        used += length
    return [_packed(group, prefix, device, dtype, hidden, prompt_weight) for group in groups]


def _packed(
    examples: Sequence[Example],
    prefix: int,
    device: torch.device,
    dtype: torch.dtype,
    hidden: Mapping[Example, torch.Tensor] | None = None,
    prompt_weight: float = 0.0,
) -> Row:
    ids = list(examples[0].ids[:prefix])
    positions, sizes = list(range(prefix)), [prefix]
    keep: list[int] = []
    labels: list[int] = []
    prompts: list[bool] = []
    for example in examples:
        learnt = _learnt(example, prefix, prompt_weight)
        rest = example.ids[prefix:-1]  # nothing follows the last token: it is a label only
        ids += rest
        positions += range(prefix, prefix + len(rest))
        sizes.append(len(rest))
        keep += range(len(ids) - learnt, len(ids))
        labels += example.ids[-learnt:]
        prompts += [True] * (learnt - example.answer) + [False] * example.answer
    if hidden is None:
        inputs = {"input_ids": torch.tensor([ids], device=device)}
    else:
        states = [hidden[example] for example in examples]
        inputs = {"inputs_embeds": torch.cat([states[0][:prefix], *(one[prefix:] for one in states)])[None]}
    inputs |= {
        "position_ids": torch.tensor([positions], device=device),
        "attention_mask": mark(_mask(sizes, device, dtype), sizes),
        "logits_to_keep": torch.tensor(keep, device=device),
    }
    answers = sum(example.answer for example in examples)
    return Row(
        inputs,
        torch.tensor([labels], device=device),
        answers,
        len(ids),
        torch.tensor([prompts], device=device) if prompt_weight else None,
        prompt_weight,
    )


def _learnt(example: Example, prefix: int, prompt_weight: float) -> int:
    """How many of its last tokens are labels."""
    return len(example.ids) - 1 - prefix if prompt_weight else example.answer


def _mask(sizes: Sequence[int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask (1, 1, tokens, tokens): itself and the past of the own segment and of segment 0.

    ``sizes`` are the segments' tokens.
    """
    numbers = [number for number, size in enumerate(sizes) for _ in range(size)]
    segments = torch.tensor(numbers, device=device)
    order = torch.arange(len(numbers), device=device)
    seen = (order[:, None] >= order) & ((segments == 0) | (segments[:, None] == segments))
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[None, None]


def pad(
    examples: Sequence[Example],
    device: torch.device,
    filler: int = 0,
    *,
    prefix: int = 0,
    prompt_weight: float = 0.0,
) -> Row:
    """One line an example, padded on the left: for models that cannot be packed. See ``pack``."""
    longest = max(len(example.ids) for example in examples) - 1
    learnt = [_learnt(example, prefix, prompt_weight) for example in examples]
    kept = max(learnt)
    ids = torch.full((len(examples), longest), filler, device=device)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(examples), kept), IGNORED, device=device)
    prompts = torch.ones_like(labels, dtype=torch.bool)
    for line, (example, count) in enumerate(zip(examples, learnt, strict=True)):
        length = len(example.ids) - 1
        ids[line, longest - length :] = torch.tensor(example.ids[:-1], device=device)
        mask[line, longest - length :] = 1
        labels[line, kept - count :] = torch.tensor(example.ids[len(example.ids) - count :], device=device)
        prompts[line, kept - example.answer :] = False
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "logits_to_keep": kept,
    }
    return Row(
        inputs,
        labels,
        sum(example.answer for example in examples),
        sum(len(e.ids) - 1 for e in examples),
        prompts if prompt_weight else None,
        prompt_weight,
    )


def within_window(model: nn.Module, examples: Iterable[Example]) -> bool:
    """Whether all of every example, and virtual tokens before it, is seen where layers slide a window over it."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    longest = max((len(example.ids) for example in examples), default=0)
    return window is None or longest + getattr(model, "virtual_tokens", 0) <= window


def can_pack(
    model: nn.Module, examples: Sequence[Example], dtype: torch.dtype, dev: Sequence[Example] = ()
) -> bool:
    """Whether the model gives a packed row the same log-probabilities as its examples alone.

    It is tried on two examples: recurrent layers, ALiBi and attention kernels that take no free mask
    show themselves, whatever the architecture is called. Half precision's rounding could hide a weak memory of
    the example before: so other tokens there must leave the next one's answers as they are. A sliding window shows
    only in long examples, so its size is asked for.

    Args:
        dev: examples that are packed, too, and may be longer.
    """
    if not within_window(model, [*examples, *dev]):
        return False
    shortest = sorted(examples, key=lambda example: len(example.ids))
    first, second = shortest[0], shortest[len(shortest) // 2]
    device, prefix = next(model.parameters()).device, shared_prefix([first, second])
    try:
        packed, beside_others = (
            log_probabilities(model, _packed([one, second], prefix, device, dtype))
            for one in (first, _other_tokens(first, prefix, second.ids))
        )
    except (ValueError, TypeError, NotImplementedError, RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False
    alone = torch.cat([log_probabilities(model, pad([example], device)) for example in (first, second)])
    tolerance = 1e-3 if dtype == torch.float32 else 0.2
    if packed.shape != alone.shape or not torch.allclose(packed, alone, atol=tolerance, rtol=tolerance):
        return False
    moved = (packed - beside_others)[first.answer :].abs().max().item()
    return moved <= (tolerance if _outliers_are_shared(model) else UNMOVED)


def _other_tokens(example: Example, prefix: int, known: Sequence[int]) -> Example:
    """The same length with other ``known`` tokens after the shared beginning."""
    rest = (next((one for one in reversed(known) if one != token), token) for token in example.ids[prefix:])
    return Example((*example.ids[:prefix], *rest), example.answer)


def _outliers_are_shared(model: nn.Module) -> bool:
    """On a GPU LLM.int8() rounds a column by what all tokens of a pass have in it."""
    return any(type(value).__name__ == "Int8Params" and value.is_cuda for value in model.parameters())


@torch.no_grad()
def log_probabilities(model: nn.Module, row: Row) -> torch.Tensor:
    """Natural logarithms of the probabilities of the row's answer tokens, without dropout; (answers,)."""
    was_training = model.training
    model.eval()
    try:
        logits = model(**row.inputs, use_cache=False).logits
    finally:
        model.train(was_training)
    logits = logits.reshape(-1, logits.shape[-1]).float()
    return logits.log_softmax(-1).gather(-1, row.labels.reshape(-1, 1)).squeeze(-1)
