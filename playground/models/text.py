"""A causal language model with its tokenizer: exact prompts, fast greedy answers, a stream for the page.

``generate`` answers as transformers' plain greedy ``generate`` would, one prompt after the other, but

- the tokens that all prompts begin with are computed once, and their keys and values are used for all,
- prompts of similar length go through the model together, padded on the left,
- a row that has ended leaves the batch, and only the last position goes through the output head.
"""

import copy
import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging as transformers_logging

from playground.errors import InvalidInput, ModelUnavailable, OutOfMemory
from playground.models import chat_date, quantise, sources
from playground.models import device as devices
from playground.models.catalogue import Model
from playground.settings import Settings

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
Stop = Callable[[], bool]

# For models without a chat template. An answer ends where the model begins the next turn by itself.
PLAIN_INPUT, PLAIN_OUTPUT = "Input:", "Output:"

MIN_SHARED = 8  # tokens; a shorter common prefix is not worth a pass of its own
MAX_ROWS = 64
TOKENS_PER_PASS = {"cpu": 4096, "mps": 8192, "cuda": 65536}  # padded tokens of one forward pass
CACHE_BYTES = {"cpu": 1 << 30, "mps": 1 << 30}  # keys and values of one batch; CUDA: a part of what is free


@dataclass(frozen=True)
class Answer:
    """One answer. ``tokens`` were generated (the end token included), ``prompt_tokens`` read.

    ``seconds`` is the answer's equal share of its batch's time, and of the shared prefix's.
    """

    text: str
    tokens: int
    prompt_tokens: int
    seconds: float | None


@dataclass
class LanguageModel:
    """A causal language model and its tokenizer, ready to answer on ``device``.

    ``revision`` is the Hub's commit or the SHA-256 of the file that the weights come from.
    ``load_seconds`` counts reading the files and moving the weights, not fetching them.
    ``quantization`` says how the weights were packed, see ``models.quantise``; None = not at all.
    """

    model: torch.nn.Module
    tokenizer: object
    entry: Model
    device: torch.device
    dtype: torch.dtype
    load_seconds: float
    revision: str
    quantization: str | None = None
    _template_takes_system: bool | None = field(default=None, repr=False)

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together; what is trained to stand before every prompt takes some away."""
        config = self.model.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
        limits.append(self.tokenizer.model_max_length)
        return min(limit for limit in limits if limit) - getattr(self.model, "virtual_tokens", 0)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in memory, with the tables that quantised ones need."""
        return quantise.loaded_bytes(self.model)

    def text(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The exact prompt of a chat.

        A system text goes into the first user turn where the model's template knows no system role. A model
        without a template gets the system text, then "Input: …" and "Output: …" for each turn.
        """
        if not self.tokenizer.chat_template:
            return _plain(messages, add_generation_prompt)
        if not self._takes_system:
            messages = _fold_system(messages)
        return self._render(messages, add_generation_prompt)

    def encode(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The token ids of ``text(messages)``."""
        text = self.text(messages, add_generation_prompt)
        if self.tokenizer.chat_template:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = self.tokenizer(text)["input_ids"]
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def generate(
        self,
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        *,
        share_prefix: bool = True,
        batch_size: int | None = None,
        stop: Stop | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Greedy answers to many prompts; yields (index of the prompt, answer) as batches finish.

        Args:
            prompts: token ids, each as ``encode`` gives them.
            max_new_tokens: an answer is cut there, or where the context is full.
            share_prefix: compute the tokens that all prompts begin with once.
            batch_size: rows of a batch; None = as many as go through the device at once.
            stop: asked before every token; True ends the generation without further answers.

        Raises:
            InvalidInput: a prompt is empty or leaves no room for an answer.
            OutOfMemory: even one row does not fit.
        """
        self.check(prompts, max_new_tokens)
        if not prompts:
            return
        prefix = _common_prefix(prompts) if share_prefix and len(prompts) > 1 else []
        if len(prefix) < MIN_SHARED:
            prefix = []
        start = time.perf_counter()
        shared = self._guarded(lambda: self._read_prefix(prefix)) if prefix else None
        share = (time.perf_counter() - start) / len(prompts)
        waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
        while waiting and not (stop and stop()):
            rows = min(
                batch_size or MAX_ROWS, self._rows(len(prompts[waiting[0]]), len(prefix), max_new_tokens)
            )
            batch, done = waiting[:rows], None
            if shared and len(prompts[batch[0]]) + max_new_tokens > self._window:
                # Padding stands between the prefix and the row's own tokens, and would fill the window.
                batch = [i for i in batch if len(prompts[i]) == len(prompts[batch[0]])]
            start = time.perf_counter()
            while done is None:
                try:
                    done = self._answer(
                        [prompts[i] for i in batch], shared, len(prefix), max_new_tokens, stop
                    )
                except torch.OutOfMemoryError as error:
                    if len(batch) == 1:
                        raise _too_little_memory(error) from error
                    batch = batch[: len(batch) // 2]
                    batch_size = len(batch)
                    _empty_cache(self.device)
            if stop and stop():
                return
            waiting = waiting[len(batch) :]
            seconds = (time.perf_counter() - start) / len(batch) + share
            for i, ids in zip(batch, done, strict=True):
                yield i, Answer(self._decode(ids), len(ids), len(prompts[i]), seconds)

    def stream(self, ids: list[int], max_new_tokens: int, *, stop: Stop | None = None) -> Iterator[str]:
        """One greedy answer, piece by piece; the pieces joined are ``generate``'s text, but for spaces at the end.

        Raises:
            InvalidInput: the prompt is empty or leaves no room for an answer.
            OutOfMemory: it does not fit.
        """
        self.check([ids], max_new_tokens)
        batch = self._guarded(lambda: _Batch(self, [ids], None, 0))
        shown = ""
        while batch.ids and not (stop and stop()):
            self._guarded(batch.step)
            text = self._decode(batch.out[0], strip=False).lstrip()
            last = batch.ended(0, max_new_tokens)
            if text.endswith("\ufffd") and not last:  # the bytes of a character that is not complete yet
                continue
            if len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
            if last:
                return

    # ---- prompts

    @property
    def _takes_system(self) -> bool:
        if self._template_takes_system is None:
            probe = [{"role": "system", "content": "s7q"}, {"role": "user", "content": "u"}]
            try:
                self._template_takes_system = "s7q" in self._render(probe, True)
            except Exception as error:  # a template says no by raising jinja2's TemplateError
                if type(error).__module__.split(".")[0] != "jinja2":
                    raise
                self._template_takes_system = False
        return self._template_takes_system

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages),
            chat_template=chat_date.STRFTIME_NOW + self.tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,  # Qwen3, SmolLM3: an answer, not a train of thought
            date_string=chat_date.DATE_STRING,
        )

    def check(self, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
        """Refuse prompts that the model cannot answer, before any is begun.

        Raises:
            InvalidInput: a prompt is empty or leaves no room for an answer.
        """
        if max_new_tokens < 1:
            raise InvalidInput("The answer must be allowed at least one token.", field="max_new_tokens")
        for ids in prompts:
            if not ids:
                raise InvalidInput("The prompt is empty: write something to ask.", field="prompt")
            if len(ids) >= self.context_length:
                raise InvalidInput(
                    f"The prompt has {len(ids):,} tokens, and {self.entry.title} reads at most "
                    f"{self.context_length:,} with the answer. Shorten it, or use fewer or shorter examples or passages.",
                    field="prompt",
                )

    # ---- generation

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        settings = getattr(self.model, "generation_config", None)
        ids = getattr(settings, "eos_token_id", None)
        ids = ids if isinstance(ids, list) else [ids]
        return frozenset(id for id in [*ids, self.tokenizer.eos_token_id] if id is not None)

    def _forward(self, ids: torch.Tensor, cache: DynamicCache, mask: torch.Tensor, positions: torch.Tensor):
        """Logits of the last position, shape (rows, vocabulary); the cache grows by the new tokens."""
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        takes = inspect.signature(base.forward).parameters
        keep = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                out = self.model(
                    input_ids=ids,
                    past_key_values=cache,
                    attention_mask=mask,
                    position_ids=positions,
                    use_cache=True,
                    **keep,
                )
        finally:
            self.model.train(training)
        return out.logits[:, -1]

    def _read_prefix(self, prefix: list[int]) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([prefix], device=self.device)
        positions = torch.arange(len(prefix), device=self.device)[None]
        self._forward(ids, cache, torch.ones_like(ids), positions)
        return cache

    def _answer(
        self, prompts, shared, prefix: int, max_new_tokens: int, stop: Stop | None
    ) -> list[list[int]]:
        batch = _Batch(self, prompts, shared, prefix)
        while batch.ids and not (stop and stop()):
            batch.step()
            batch.leave([row for row in range(len(batch.ids)) if batch.ended(row, max_new_tokens)])
        return batch.out

    def _rows(self, longest: int, prefix: int, max_new_tokens: int) -> int:
        """Rows whose tokens go through one pass, and whose keys and values fit."""
        kind = self.device.type
        by_pass = TOKENS_PER_PASS[kind] // (longest - prefix)
        room = CACHE_BYTES.get(kind) or torch.cuda.mem_get_info(self.device)[0] // 4
        by_cache = room // ((longest + max_new_tokens) * self._cache_bytes_per_token)
        return max(1, min(by_pass, by_cache))

    @cached_property
    def _window(self) -> float:
        """Tokens that the layers with the shortest view look back; infinite where all see everything."""
        layers = DynamicCache(config=self.model.config).layers
        return min((layer.sliding_window for layer in layers if layer.is_sliding), default=math.inf)

    @cached_property
    def _cache_bytes_per_token(self) -> int:
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * size * self.dtype.itemsize

    def _decode(self, ids: list[int], strip: bool = True) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if not self.tokenizer.chat_template:
            text = text.split(f"\n{PLAIN_INPUT}")[0]
        return text.strip() if strip else text

    def _guarded(self, work: Callable):
        try:
            return work()
        except torch.OutOfMemoryError as error:
            raise _too_little_memory(error) from error


class _Batch:
    """Rows that are answered together. ``ids`` are the rows still running, ``out`` all rows' new tokens."""

    def __init__(
        self, lm: LanguageModel, prompts: Sequence[list[int]], shared: DynamicCache | None, prefix: int
    ):
        self.lm = lm
        self.out: list[list[int]] = [[] for _ in prompts]
        self.ids = list(range(len(prompts)))
        self.lengths = [len(ids) for ids in prompts]
        suffixes = [ids[prefix:] for ids in prompts]
        width = max(map(len, suffixes))
        pad = lm.tokenizer.pad_token_id or 0
        device = lm.device
        self.next = torch.tensor([[pad] * (width - len(s)) + s for s in suffixes], device=device)
        here = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in suffixes], device=device)
        self.positions = (prefix + here.cumsum(-1) - 1).clamp(min=0)
        self.mask = torch.cat([here.new_ones(len(prompts), prefix), here], dim=-1)
        self.cache = _repeated(shared, len(prompts)) if shared else DynamicCache(config=lm.model.config)

    def step(self) -> None:
        """Add one token to every running row."""
        logits = self.lm._forward(self.next, self.cache, self.mask, self.positions)
        self.next = logits.argmax(-1, keepdim=True)
        self.positions = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.ids), 1)], dim=-1)
        for row, id in zip(self.ids, self.next[:, 0].tolist(), strict=True):
            self.out[row].append(id)

    def ended(self, place: int, max_new_tokens: int) -> bool:
        """Whether the running row at that place has its whole answer."""
        row = self.ids[place]
        out = self.out[row]
        if len(out) >= min(max_new_tokens, self.lm.context_length - self.lengths[row]):
            return True
        if out[-1] in self.lm._end_ids:
            return True
        tokenizer = self.lm.tokenizer
        return not tokenizer.chat_template and f"\n{PLAIN_INPUT}" in tokenizer.decode(out[-16:])

    def leave(self, places: Sequence[int]) -> None:
        """Take finished rows out, so that no more work is done for them."""
        if not places:
            return
        gone = set(places)
        keep = [place for place in range(len(self.ids)) if place not in gone]
        self.ids = [self.ids[place] for place in keep]
        if keep:
            index = torch.tensor(keep, device=self.next.device)
            self.next, self.positions, self.mask = (t[index] for t in (self.next, self.positions, self.mask))
            self.cache.batch_select_indices(index)


def load(
    model: Model, settings: Settings, *, folder: Path | None = None, quantization: str | None = None
) -> LanguageModel:
    """Load a language model from its ``folder`` (default: wherever ``sources.locate`` finds it).

    Sets torch's CPU threads for this process.

    Args:
        quantization: one of ``models.quantise.KINDS``, or None to keep the weights as they are.

    Raises:
        ModelUnavailable: it cannot be had here, cannot be read as a language model, or not be quantised.
        OutOfMemory: it does not fit on the device.
        InvalidInput: the settings name a device that is not here.
    """
    folder = folder or sources.locate(model, settings)
    sources.refuse_foreign(folder, model.title)
    chosen = devices.choose(settings)
    torch.set_num_threads(chosen.threads)
    transformers_logging.disable_progress_bar()
    start = time.perf_counter()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = _network(folder, chosen, quantization).eval()
    except torch.OutOfMemoryError as error:
        raise _too_little_memory(error) from error
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        raise ModelUnavailable(f"{model.title} cannot be read as a language model: {error}") from error
    return LanguageModel(
        model=network,
        tokenizer=tokenizer,
        entry=model,
        device=torch.device(chosen.name),
        dtype=chosen.dtype,
        load_seconds=time.perf_counter() - start,
        revision=sources.revision(folder),
        quantization=quantization,
    )


def _network(folder: Path, chosen: devices.Device, quantization: str | None) -> torch.nn.Module:
    options = {"dtype": chosen.dtype, "use_safetensors": True, "local_files_only": True}
    if quantization is None:
        return AutoModelForCausalLM.from_pretrained(folder, **options).to(chosen.name)
    options |= quantise.loading(quantization, chosen)
    return quantise.settle(AutoModelForCausalLM.from_pretrained(folder, **options))


def _plain(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    names = {"user": f"{PLAIN_INPUT} ", "assistant": f"{PLAIN_OUTPUT} ", "system": ""}
    turns = [f"{names[message['role']]}{message['content']}" for message in messages]
    if add_generation_prompt:
        turns.append(PLAIN_OUTPUT)
    return "\n".join(turns)


def _fold_system(messages: Sequence[Message]) -> list[Message]:
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    turns = [dict(message) for message in messages if message["role"] != "system"]
    if not system:
        return turns
    if turns and turns[0]["role"] == "user":
        turns[0]["content"] = f"{system}\n\n{turns[0]['content']}"
        return turns
    return [{"role": "user", "content": system}, *turns]


def _common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all prompts begin with, leaving each at least one of its own."""
    low, high = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    same = next((i for i in range(limit) if low[i] != high[i]), limit)
    return low[:same]


def _repeated(shared: DynamicCache, rows: int) -> DynamicCache:
    """The prefix's keys and values for every row of a batch."""
    cache = copy.deepcopy(shared)
    cache.batch_repeat_interleave(rows)
    return cache


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _too_little_memory(error: Exception) -> OutOfMemory:
    return OutOfMemory(
        "The device has too little memory for this. Use a smaller model, shorter prompts or fewer examples, or "
        f"set PLAYGROUND_DEVICE=cpu. ({str(error).splitlines()[0]})"
    )
