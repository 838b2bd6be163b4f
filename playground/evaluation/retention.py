"""Forgetting: what a model that was adapted to a task still does where the task is not concerned.

One small set of probes of our own (``assets/retention``: prose, chat answers, questions; nothing of the
bundled tasks) goes through the base model before a method adapts it, and through the adapted model after the
test, by the same function for every method, merged or not.

- **Divergence**: KL(base ‖ adapted) of the next token, in nats, averaged over all tokens of the prose and of
  the chat answers. Of the base model's distribution the ``TOP`` likeliest tokens are kept and the others
  summed up as one, so that the reference is a small file. Summing up can only make the divergence smaller, by
  what moved among those others (for the starter model they hold 1.5 % of the probability).
- **Accuracy**: share of unfinished sentences of which the right one of four endings is the likeliest. They
  are plain text as in common benchmarks of small models, not chat: what is asked is knowledge, not form.
  Compared is the first token in which the four endings differ. Chance is 25 %.
- **Loss** on the prose: cross-entropy in nats per token.

What it is not: a benchmark of the model's abilities. 48 questions tell a change of about 15 points from chance.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from playground.events import Event
from playground.settings import ASSETS, Settings

if TYPE_CHECKING:
    from playground.models.text import LanguageModel

PROBES = ASSETS / "retention"
FILES = ("texts", "chats", "questions")
TOP = 1024  # next tokens of the base model that are kept one by one
LOGIT_BYTES = 1 << 27  # of one forward pass: the rows of a batch follow from it
FORMAT = 1  # of the cached reference; another number and it is computed anew


@dataclass(frozen=True)
class Probes:
    """The parsed lines of the probe files, and a hash of all of them."""

    texts: tuple[dict[str, Any], ...]
    chats: tuple[dict[str, Any], ...]
    questions: tuple[dict[str, Any], ...]
    digest: str


@dataclass(frozen=True)
class Reference:
    """What the base model said: ``path`` holds its distributions; ``right`` the ids of questions answered right.

    ``accuracy`` is a share of the ``questions`` that were asked, ``loss`` in nats per token.
    """

    path: Path
    accuracy: float
    loss: float
    right: tuple[str, ...]
    questions: int


@dataclass(frozen=True)
class _Row:
    """Token ids of one probe; the tokens from ``start`` on are scored, of a question the one after the last.

    ``endings`` are the tokens that a question's endings have there, the right one's first.
    """

    kind: str
    id: str
    ids: tuple[int, ...]
    start: int
    endings: tuple[int, ...] = ()


@cache
def probes() -> Probes:
    """The probes that come with the playground."""
    texts = {name: (PROBES / f"{name}.jsonl").read_text(encoding="utf-8") for name in FILES}
    lines = {name: tuple(map(json.loads, text.splitlines())) for name, text in texts.items()}
    return Probes(**lines, digest=hashlib.sha256(json.dumps(texts).encode()).hexdigest())


def reference(model: "LanguageModel", settings: Settings) -> Generator[Event, None, Reference | None]:
    """What the base model says, from the settings' home where it was asked before; tells progress.

    Args:
        model: the base model as the run has loaded it (quantised, where the method asks for that).

    Returns: None where no probe fits into the model's context.
    """
    path = settings.home / "retention" / f"{_key(model)}.safetensors"
    if (known := _read(path)) is not None:
        return known
    rows = _rows(model)
    if not _measurable(rows):
        return None
    distributions: dict[int, dict[str, torch.Tensor]] = {}
    losses: list[float] = []
    right: list[str] = []
    for done, (place, log_probs) in enumerate(_log_probs(model, rows), 1):
        row = rows[place]
        if row.kind == "question":
            right += [row.id] * _is_right(row, log_probs)
        else:
            distributions[place] = _kept(log_probs)
            losses += _losses(row, log_probs)
        yield Event.progress("reference", done, len(rows), unit="probe")
    asked = sum(row.kind == "question" for row in rows)
    facts = {
        "accuracy": len(right) / asked,
        "loss": sum(losses) / len(losses),
        "right": sorted(right),
        "questions": asked,
    }
    _write(path, distributions, facts)
    return _read(path)


def measure(model: "LanguageModel", before: Reference | None) -> Generator[Event, None, None]:
    """Forgetting of an adapted model: progress, then the metrics ``retention_*``, and a line of log."""
    rows = _rows(model)
    if before is None or not _measurable(rows):
        yield Event.log(
            "Forgetting is not measured: the probes do not fit into the model's context.", "warning"
        )
        return
    started = time.perf_counter()
    divergences: list[float] = []
    losses: list[float] = []
    right: list[str] = []
    with safe_open(before.path, "pt") as file:
        for done, (place, log_probs) in enumerate(_log_probs(model, rows), 1):
            row = rows[place]
            if row.kind == "question":
                right += [row.id] * _is_right(row, log_probs)
            else:
                kept = {name: file.get_tensor(f"{place}/{name}") for name in ("ids", "log_probs", "rest")}
                divergences += divergence(kept, log_probs).tolist()
                losses += _losses(row, log_probs)
            yield Event.progress("retention", done, len(rows), unit="probe")
    accuracy, loss = len(right) / before.questions, sum(losses) / len(losses)
    yield Event.metric("retention_divergence", max(0.0, sum(divergences) / len(divergences)))  # not -1e-10
    yield Event.metric("retention_accuracy", accuracy)
    yield Event.metric("retention_accuracy_change", accuracy - before.accuracy)
    yield Event.metric("retention_loss", loss)
    yield Event.metric("retention_loss_change", loss - before.loss)
    yield Event.metric("retention_seconds", time.perf_counter() - started)
    yield Event.log(_words(before, right))


def divergence(kept: dict[str, torch.Tensor], log_probs: torch.Tensor) -> torch.Tensor:
    """KL(kept ‖ other) of each position in nats, shape (positions,), the tokens not kept taken as one.

    Args:
        kept: "ids" and "log_probs" (positions, top), "rest" (positions,): the log of what is left.
        log_probs: of the other model, (positions, vocabulary).
    """
    log_p, ids = kept["log_probs"].double(), kept["ids"].long()
    log_q = log_probs.double().gather(-1, ids)
    total = (log_p.exp() * (log_p - log_q)).sum(-1)
    rest_q = log_probs.double().scatter(-1, ids, -torch.inf).logsumexp(-1)
    rest = kept["rest"].double().exp() * (kept["rest"].double() - rest_q)
    return total + torch.where(kept["rest"].isneginf(), 0.0, rest)


def _kept(log_probs: torch.Tensor) -> dict[str, torch.Tensor]:
    top = log_probs.topk(min(TOP, log_probs.shape[-1]), dim=-1)
    rest = log_probs.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    return {"ids": top.indices.int(), "log_probs": top.values, "rest": rest}


def _losses(row: _Row, log_probs: torch.Tensor) -> list[float]:
    if row.kind != "text":
        return []
    labels = torch.tensor(row.ids[row.start :]).unsqueeze(-1)
    return (-log_probs.gather(-1, labels).squeeze(-1)).tolist()


def _is_right(row: _Row, log_probs: torch.Tensor) -> bool:
    right, *wrong = log_probs[-1, list(row.endings)].tolist()
    return right > max(wrong)


def _words(before: Reference, right: Sequence[str]) -> str:
    stems = {one["id"]: one["stem"] for one in probes().questions}
    lost = [stems[id] for id in before.right if id not in right]
    was, now = round(before.accuracy * before.questions), len(right)
    told = f"General questions: {now} of {before.questions} right, {was} with the base model."
    shown = "; ".join(f"“{stem} …”" for stem in lost[:5])
    return told + (f" No longer: {shown}{' and others' if len(lost) > 5 else ''}." if lost else "")


# From probes to rows


def _rows(model: "LanguageModel") -> list[_Row]:
    """All probes that fit into the model's context, as token ids."""
    found = probes()
    rows = [_Row("text", one["id"], _plain(model, one["text"]), 1) for one in found.texts]
    rows += [_chat(model, one) for one in found.chats]
    rows += [_question(model, one) for one in found.questions]
    return [row for row in rows if 1 <= row.start <= len(row.ids) < model.context_length]


def _measurable(rows: Sequence[_Row]) -> bool:
    return {row.kind for row in rows} == {"text", "chat", "question"}


def _plain(model: "LanguageModel", text: str) -> tuple[int, ...]:
    """A text as it is, with the mark of its beginning where the model has one."""
    ids = model.tokenizer(text)["input_ids"]
    return tuple(ids[:-1] if ids and ids[-1] == model.tokenizer.eos_token_id else ids)


def _chat(model: "LanguageModel", probe: dict[str, Any]) -> _Row:
    prompt = model.encode([{"role": "user", "content": probe["question"]}])
    answer = model.tokenizer.encode(probe["answer"], add_special_tokens=False)
    return _Row("chat", probe["id"], (*prompt, *answer, model.tokenizer.eos_token_id), len(prompt))


def _question(model: "LanguageModel", probe: dict[str, Any]) -> _Row:
    """The stem and whatever all endings begin with; scored is the token after it."""
    wholes = [_plain(model, f"{probe['stem']} {ending}") for ending in (probe["right"], *probe["wrong"])]
    shortest = min(map(len, wholes)) - 1
    same = next((at for at in range(shortest) if len({ids[at] for ids in wholes}) > 1), shortest)
    return _Row("question", probe["id"], wholes[0][:same], same, tuple(ids[same] for ids in wholes))


def _log_probs(model: "LanguageModel", rows: Sequence[_Row]) -> Iterator[tuple[int, torch.Tensor]]:
    """For each row, as its batch is done: its place, and log-probabilities (scored tokens, vocabulary) on the CPU.

    Rows are padded on the right and positions left to the model: so prompts that a method puts before them
    (prefix and prompt tuning) work as well. A question's one scored position is that of its last token.
    """
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids), reverse=True)
    most = LOGIT_BYTES // (4 * model.model.config.get_text_config().vocab_size)
    while order:
        longest = len(rows[order[0]].ids)
        count = max(1, most // longest)
        batch, order = order[:count], order[count:]
        logits = _forward(model, [rows[place].ids for place in batch])
        for line, place in enumerate(batch):
            row = rows[place]
            end = len(row.ids) - (row.kind != "question")
            yield place, logits[line, row.start - 1 : end].float().log_softmax(-1).cpu()


def _forward(model: "LanguageModel", batch: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Logits, shape (rows, longest, vocabulary)."""
    longest = max(map(len, batch))
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(batch):
        ids[line, : len(row)] = torch.tensor(row)
        mask[line, : len(row)] = 1
    training = model.model.training
    model.model.eval()
    try:
        with torch.no_grad():
            out = model.model(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
            )
    finally:
        model.model.train(training)
    return out.logits[:, -longest:]  # a trained prompt stands before the row


# The reference on disk


def _key(model: "LanguageModel") -> str:
    parts = [
        FORMAT,
        TOP,
        model.revision,
        str(model.dtype),
        model.device.type,
        model.quantization,
        probes().digest,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _write(path: Path, distributions: dict[int, dict[str, torch.Tensor]], facts: dict[str, Any]) -> None:
    tensors = {
        f"{place}/{name}": value.contiguous()
        for place, kept in distributions.items()
        for name, value in kept.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(descriptor)
    try:
        save_file(tensors, beside, metadata={"facts": json.dumps(facts)})
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def _read(path: Path) -> Reference | None:
    """The reference in a file; None where there is none that is whole."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
    except (OSError, SafetensorError):
        return None
    return Reference(path, facts["accuracy"], facts["loss"], tuple(facts["right"]), facts["questions"])
