"""One evaluation for every text method: the same items, greedy, scored by the same rules."""

import random
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from playground.data.tasks import Item, Task
from playground.errors import RunFailed
from playground.evaluation.scoring import Score, score
from playground.evaluation.statistics import Interval, mean_interval, wilson
from playground.events import Event
from playground.methods.base import Adapted, Prompt

if TYPE_CHECKING:
    from playground.models.text import Answer, LanguageModel

__all__ = ["answer_some", "evaluate", "max_new_tokens", "score"]

PROBE_ITEMS = 16  # questions asked one at a time
PROBE_SECONDS = 10.0  # no further question is started after that
PROMPT_BATCH = 32  # as many as the embedding model takes at once
PROGRESS_SECONDS = 0.25  # at most one progress event in that time
FREE_TOKENS = 32
MOST_TOKENS = 256
_END = object()


def evaluate(
    adapted: Adapted, task: Task, items: Sequence[Item], *, seed: int = 0
) -> Generator[Event, None, None]:
    """Answer ``items`` and say how well: progress, one test sample an item, then the metrics.

    First all items in batches (``evaluate_seconds``), then up to ``PROBE_ITEMS`` seeded ones
    again, one at a time, for the seconds that one question takes. The metrics have the names of
    ``playground.results.metrics``; "quality/<group>" and "n/<group>" stand for the marked parts.

    Raises:
        RunFailed: there are no items, or no prompt fits the model's context.
    """
    if not items:
        raise RunFailed("There is no item to answer.")
    limit = max_new_tokens(task, adapted.model)
    clock = Clock()
    scores: list[Score] = [None] * len(items)  # type: ignore[list-item]
    prompt_tokens: list[int] = []
    told = time.perf_counter()
    prompts: list[Prompt] = []
    for some in clock.timed(_prompts(adapted, items)):
        prompts += some
        if time.perf_counter() - told > PROGRESS_SECONDS:
            told = time.perf_counter()
            yield Event.progress("prompts", len(prompts), len(items), unit="item")
    yield Event.progress("evaluate", 0, len(items), unit="item")
    for done, (index, prompt, answer) in enumerate(clock.timed(_answers(adapted, prompts, limit)), 1):
        if answer is None:
            item = items[index]
            yield Event.log(f"Item {item.id}: the prompt is longer than the model's context.", "warning")
        else:
            prompt_tokens.append(answer.prompt_tokens)
        text = "" if answer is None else answer.text
        scores[index] = score(task, items[index], text)
        yield _sample("test", items[index], text, scores[index], prompt)
        if time.perf_counter() - told > PROGRESS_SECONDS or done == len(items):
            told = time.perf_counter()
            yield Event.progress("evaluate", done, len(items), unit="item")
    if not prompt_tokens:
        raise RunFailed(
            f"No prompt fits the model's context of {adapted.model.context_length} tokens. "
            "Use fewer examples or passages, or a shorter instruction."
        )
    yield from _quality(task, items, scores, seed)
    yield Event.metric("prompt_tokens", fmean(prompt_tokens))
    yield Event.metric("evaluate_seconds", clock.seconds)
    yield from _probe(adapted, items, limit, seed)


def answer_some(
    adapted: Adapted, task: Task, items: Sequence[Item], stage: str, step: int | None = None
) -> Iterator[Event]:
    """Answer a few items and tell each as a sample of ``stage`` ("before", "during", "after")."""
    more = {} if step is None else {"step": step}
    prompts = adapted.prompts([item.input for item in items])
    for index, prompt, answer in _answers(adapted, prompts, max_new_tokens(task, adapted.model)):
        text = "" if answer is None else answer.text
        yield _sample(stage, items[index], text, score(task, items[index], text), prompt, **more)


def max_new_tokens(task: Task, model: "LanguageModel") -> int:
    """How many tokens an answer may take: the longest label (or train target) and a few more."""

    def tokens(text: str) -> int:
        return len(model.tokenizer.encode(text, add_special_tokens=False))

    if task.answer == "label":
        return max(map(tokens, task.labels)) + 4
    longest = max((tokens(item.target) for item in (*task.train, *task.dev)), default=0)
    return min(MOST_TOKENS, max(FREE_TOKENS, longest + 8))


class Clock:
    """Adds up the seconds spent inside an iterator, without those of whoever consumes it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, iterator: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            found = next(iterator, _END)
            self.seconds += time.perf_counter() - start
            if found is _END:
                return
            yield found


def _prompts(adapted: Adapted, items: Sequence[Item]) -> Iterator[list[Prompt]]:
    """The items' prompts, a batch at a time: finding passages or examples for many takes a while."""
    for start in range(0, len(items), PROMPT_BATCH):
        yield adapted.prompts([item.input for item in items[start : start + PROMPT_BATCH]])


def _answers(
    adapted: Adapted, prompts: Sequence[Prompt], limit: int
) -> Iterator[tuple[int, Prompt, "Answer | None"]]:
    """Index, prompt and answer of each prompt as they come; None where it does not fit."""
    model = adapted.model
    encoded = [model.encode(prompt.messages) for prompt in prompts]
    fitting = [i for i, ids in enumerate(encoded) if len(ids) + limit <= model.context_length]
    for i in sorted(set(range(len(prompts))) - set(fitting)):
        yield i, prompts[i], None
    for position, answer in model.generate([encoded[i] for i in fitting], limit) if fitting else ():
        yield fitting[position], prompts[fitting[position]], answer


def _sample(stage: str, item: Item, text: str, scored: Score, prompt: Prompt, **more) -> Event:
    if prompt.passages:
        more["passages"] = prompt.passages
    if prompt.examples:
        more["examples"] = prompt.examples
    return Event.sample(
        stage,
        item.id,
        item.input,
        text,
        item.target,
        correct=scored.correct,
        score=scored.score,
        valid=scored.valid,
        prediction=scored.prediction,
        group=item.group,
        **more,
    )


def _quality(task: Task, items: Sequence[Item], scores: Sequence[Score], seed: int) -> Iterator[Event]:
    interval = _interval(task, scores, seed)
    yield Event.metric("quality", fmean(one.score for one in scores))
    yield Event.metric("quality_low", interval.low)
    yield Event.metric("quality_high", interval.high)
    yield Event.metric("n", len(scores))
    yield Event.metric("exact_match", fmean(one.exact for one in scores))
    if task.answer == "free":
        yield Event.metric("token_f1", fmean(one.token_f1 for one in scores))
    yield Event.metric("valid_rate", fmean(one.valid for one in scores))
    present = dict.fromkeys([*task.groups, *(item.group for item in items)])
    for group in present:
        part = [one.score for item, one in zip(items, scores, strict=True) if item.group == group]
        if group is not None and part:
            yield Event.metric(f"quality/{group}", fmean(part))
            yield Event.metric(f"n/{group}", len(part))


def _interval(task: Task, scores: Sequence[Score], seed: int) -> Interval:
    values = [one.score for one in scores]
    if task.metric == "token_f1" and set(values) not in ({0}, {1}):  # there resampling would show no width
        return mean_interval(values, seed)
    return wilson(round(sum(values)), len(values))


def _probe(adapted: Adapted, items: Sequence[Item], limit: int, seed: int) -> Iterator[Event]:
    """Ask a seeded few one at a time, as a single visitor would: nothing is shared between them."""
    chosen = random.Random(seed).sample(list(items), min(PROBE_ITEMS, len(items)))
    asked: list[_Asked] = []
    started = time.perf_counter()
    for done, item in enumerate(chosen, 1):
        one = _ask(adapted, item, limit)
        if one is not None:
            asked.append(one)
        yield Event.progress("probe", done, len(chosen), unit="item")
        if time.perf_counter() - started > PROBE_SECONDS:
            break
    if asked:
        seconds = [one.seconds for one in asked]
        yield Event.metric("query_seconds_p50", float(np.percentile(seconds, 50)))
        yield Event.metric("query_seconds_p95", float(np.percentile(seconds, 95)))
    decoded, decoding = sum(one.decoded for one in asked), sum(one.decoding for one in asked)
    if decoded:
        yield Event.metric("tokens_per_second", decoded / decoding)


@dataclass(frozen=True)
class _Asked:
    """One question asked alone: its seconds, and the tokens after the first with their seconds."""

    seconds: float
    decoded: int
    decoding: float


def _ask(adapted: Adapted, item: Item, limit: int) -> _Asked | None:
    """Ask one question; None where its prompt does not fit the context."""
    model = adapted.model
    passes: list[float] = []
    hook = model.model.register_forward_pre_hook(lambda *_: passes.append(time.perf_counter()))
    try:
        start = time.perf_counter()
        ids = model.encode(adapted.prompts([item.input])[0].messages)
        if len(ids) + limit > model.context_length:
            return None
        [(_, answer)] = model.generate([ids], limit, share_prefix=False)
        end = time.perf_counter()
    finally:
        hook.remove()
    decoded = answer.tokens - 1  # the first token comes with the pass that reads the prompt
    return _Asked(end - start, decoded, end - passes[-decoded] if decoded else 0.0)
