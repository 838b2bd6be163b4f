"""PEFT's prompt learning as a model that is called like any other: packed rows, padded batches, a cache.

PEFT's own forward knows neither a packed row's attention mask nor a cache that the caller owns. Here the
virtual tokens stand once at the beginning of whatever goes through the model: positions go on from them,
every token sees them, and their outputs are left out. The caller never counts them.
"""

import torch
from peft import PeftModelForCausalLM, PeftType
from torch import nn
from transformers import DynamicCache


class VirtualTokens(PeftModelForCausalLM):
    """A causal language model with trained tokens (or their keys and values) before every input.

    Saved and loaded as PEFT does. ``on`` False: the base model alone answers.
    """

    on: bool = True

    @property
    def virtual_tokens(self) -> int:
        """How many there are."""
        return self.active_peft_config.num_virtual_tokens

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ):
        """As the base model's forward; logits are those of ``input_ids`` alone.

        Args:
            input_ids: (rows, tokens).
            attention_mask: None, (rows, tokens seen so far) with 1 = seen, or additive
                (rows or 1, 1, tokens, tokens seen so far). Without the virtual tokens.
            position_ids: (rows, tokens), counted from 0 without the virtual tokens.
            past_key_values: empty on the first call, when the virtual tokens are put into it.
            logits_to_keep: the last so many, or those at these places; 0 = all.
        """
        if not self.on:
            return self.base_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                logits_to_keep=logits_to_keep,
                **kwargs,
            )
        first = past_key_values is None or past_key_values.get_seq_length() == 0
        lead = 0  # virtual tokens among this call's own inputs
        kwargs |= {"input_ids": input_ids}
        if first and self.peft_type == PeftType.PREFIX_TUNING:
            past_key_values = _filled(past_key_values, self.get_prompt(len(input_ids)))
        elif first:
            lead = self.virtual_tokens
            words = self.get_input_embeddings()(kwargs.pop("input_ids"))
            kwargs["inputs_embeds"] = torch.cat([self.get_prompt(len(words)).to(words.dtype), words], dim=1)
            logits_to_keep = _shifted(logits_to_keep, lead, input_ids.shape[1])
        return self.base_model(
            attention_mask=_widened(attention_mask, self.virtual_tokens, lead),
            position_ids=_counted(position_ids, self.virtual_tokens, lead),
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )


class FixedEncoder(nn.Module):
    """Stands in for a prompt encoder whose outputs, (virtual tokens, size), were loaded from a file."""

    def __init__(self, outputs: torch.Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(outputs, freeze=False)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return self.embedding(indices)


def keys_and_values(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """What a base model keeps of a text, as a prefix encoder stores it.

    Args:
        ids: (tokens,) token ids.

    Returns: (tokens, layers × 2 × heads × head size), keys before values in each layer.
    """
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    kept = torch.cat([torch.cat([layer.keys, layer.values]) for layer in cache.layers])
    return kept.permute(2, 0, 1, 3).flatten(1)


def _filled(cache: DynamicCache | None, prompt: DynamicCache) -> DynamicCache:
    if cache is None:
        return prompt
    for number, layer in enumerate(prompt.layers):
        cache.update(layer.keys, layer.values, number)
    return cache


def _shifted(keep: int | torch.Tensor, lead: int, tokens: int) -> int | torch.Tensor:
    return keep + lead if isinstance(keep, torch.Tensor) else keep or tokens


def _counted(positions: torch.Tensor | None, count: int, lead: int) -> torch.Tensor | None:
    if positions is None:
        return None
    own = torch.arange(lead, device=positions.device).expand(len(positions), lead)
    return torch.cat([own, positions + count], dim=-1)


def _widened(mask: torch.Tensor | None, count: int, lead: int) -> torch.Tensor | None:
    """The mask with ``count`` columns before it that all may see, and rows for the ``lead`` new tokens."""
    if mask is None:
        return None
    wide = nn.functional.pad(mask, (count, 0), value=1 if mask.dim() == 2 else 0)
    if mask.dim() == 2 or not lead:
        return wide
    own = torch.full((lead, wide.shape[-1]), torch.finfo(mask.dtype).min, device=mask.device).triu(1)
    return torch.cat([own.to(mask.dtype).expand(*wide.shape[:2], -1, -1), wide], dim=-2)
