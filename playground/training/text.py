"""The one training loop of all parametric text methods: logits of what is learnt only, nothing computed twice.

What it does not do: more than one device, gradient checkpointing, sharded optimisers.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from playground.errors import InvalidInput, OutOfMemory, TrainingDiverged
from playground.events import Event
from playground.models.quantise import numbers
from playground.training import checkpoints, gradients, lower_blocks, mixed, token_losses
from playground.training.batches import IGNORED, Example, Row, can_pack, pack, pad, shared_prefix
from playground.training.lower_blocks import LowerBlocks
from playground.training.measure import Stopwatch, memory_in_use, set_threads
from playground.training.memory import out_of_memory
from playground.training.noise import embedding_noise, state_noise
from playground.training.saving import clear_leftovers

REPORTS = 100  # points of the train-loss curve of a run
PROBE = 2  # examples of a batch that are enough to choose the number of threads by


@dataclass(frozen=True)
class Plan:
    """How to train. ``learning_rate`` is the highest one; ``warmup`` the share of steps leading up to it.

    ``prompt_loss_weight`` is what a token of the prompt counts in the loss beside one of the answer; those that all
    examples share count nothing. Huerta-Enochian and Ko 2024 (arXiv:2401.13586) find 0.01 to 0.1 best where answers
    are short. ``noise`` is NEFTune's α, ``state_noise`` the share of noise on what enters the first trained block (both
    playground.training.noise).

    One step of the optimiser sees ``batch_size`` × ``gradient_accumulation`` examples. ``evals`` is how
    often the dev loss is taken after the start. ``patience`` stops after so many evaluations without a
    better dev loss and keeps the best weights; None trains to the end and keeps the last. ``autocast``
    computes in bfloat16 with float32 weights. ``mixed`` multiplies in bfloat16 on a CPU
    (playground.training.mixed); None = where the processor has instructions for it. ``pack_tokens`` caps
    the tokens of one forward pass (memory follows it). ``checkpoint_seconds`` is the shortest time
    between two checkpoints, longer where they take long to write: writing costs about a fortieth at most;
    0 = one after every step. ``threads``: CPU threads, 0 = time a few examples and choose, None = leave as set.
    """

    epochs: int = 4
    batch_size: int = 4
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    prompt_loss_weight: float = 0.0
    noise: float = 0.0
    state_noise: float = 0.0
    max_length: int = 512
    seed: int = 0
    evals: int = 4
    patience: int | None = None
    checkpoint_seconds: float = 30.0
    autocast: bool = False
    mixed: bool | None = None
    pack_tokens: int = 1024
    threads: int | None = 0

    @property
    def effective_batch(self) -> int:
        """Examples per step of the optimiser."""
        return self.batch_size * self.gradient_accumulation

    def steps_per_epoch(self, examples: int) -> int:
        """Steps of the optimiser in one pass over the data; the last one may see fewer examples."""
        return math.ceil(examples / self.effective_batch)

    def steps(self, examples: int) -> int:
        """Steps of the optimiser in the whole training."""
        return self.steps_per_epoch(examples) * self.epochs

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step 0 ≤ step < steps."""
        warm = math.ceil(self.warmup * steps)
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(1, steps - warm)
        factor = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
        return self.learning_rate * factor[self.schedule]


@dataclass(frozen=True)
class TrainingResult:
    """What a training ended with.

    ``seconds`` is training alone (dev loss and samples left out), summed over resumes, as is
    ``tokens``. ``train_loss`` is the mean of the last reported steps. ``kept_step`` is the step whose
    weights the model has now.
    """

    steps: int
    kept_step: int
    seconds: float
    tokens: int
    train_loss: float | None
    dev_loss: float | None
    trainable_parameters: int
    total_parameters: int
    stopped_early: bool
    packed: bool


class StepHook:
    """What a technique does around each step of the optimiser, beside following the gradient.

    ``tensors`` is what it remembers from step to step: it goes into the checkpoints, and ``load`` puts
    it back, so that a resumed training is the same as an undisturbed one.
    """

    def before_step(self) -> None:
        """The gradient of the whole step is there, not yet clipped: more may be added to it."""

    def after_step(self, step: int) -> None:
        """Step 1 ≤ ``step`` ≤ steps has been taken; its gradient is still there."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What has to be remembered."""
        return {}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from what ``tensors`` gave."""


def fit(examples: Sequence[Example], max_length: int, what: str) -> tuple[list[Example], list[Event]]:
    """The examples that are short enough, and a warning where some are not.

    Raises:
        InvalidInput: none is short enough.
    """
    kept, warnings = within(examples, max_length, what)
    if not kept:
        shortest = min((len(example.ids) for example in examples), default=0)
        raise InvalidInput(
            f"No {what} example fits into {max_length} tokens: the shortest has {shortest}. Raise the maximum length.",
            field="max_length",
        )
    return kept, warnings


def within(examples: Sequence[Example], length: int, what: str) -> tuple[list[Example], list[Event]]:
    """As ``fit``, and none where none is short enough."""
    kept = [example for example in examples if len(example.ids) <= length]
    if len(kept) == len(examples):
        return kept, []
    left_out = len(examples) - len(kept)
    text = f"{left_out} of {len(examples)} {what} examples are longer than {length} tokens and are left out."
    return kept, [Event.log(text, "warning")]


def train(
    model: nn.Module,
    examples: Sequence[Example],
    dev: Sequence[Example],
    plan: Plan,
    folder: Path,
    *,
    resume: bool = False,
    groups: Sequence[tuple[list[nn.Parameter], float]] | None = None,
    samples: Callable[[int], Iterable[Event]] | None = None,
    hook: StepHook | None = None,
) -> Generator[Event, None, TrainingResult]:
    """Train the parameters of ``model`` that require a gradient, telling progress.

    Args:
        model: a causal language model of transformers, also one that PEFT has wrapped.
        dev: for the dev-loss curve; may be empty.
        folder: the run's folder; checkpoints are written below it.
        resume: go on from the last whole checkpoint in ``folder`` where there is one.
        groups: all trainable parameters, in groups with the factor of each group's learning rate;
            None = all at the plan's.
        samples: called with the step at the start and in the middle; its events are passed on.
        hook: called around each step.

    Raises:
        TrainingDiverged: the loss or a weight became NaN or infinite; no checkpoint holds such a number.
        OutOfMemory: says what to lower.
        RunFailed: the disk is full.
    """
    run = _Training(model, examples, dev, plan, Path(folder), samples, hook or StepHook(), groups)
    try:
        return (yield from run.events(resume))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"Out of memory while training with batch size {plan.batch_size} and maximum length "
            f"{plan.max_length}. Lower the batch size (raise gradient accumulation to make up for it), "
            "the maximum length, or the rank, or choose a smaller model."
        ) from error


def evaluate_loss(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    pack_tokens: int = 1024,
    packed: bool | None = None,
    lower: LowerBlocks | None = None,
) -> float:
    """Mean cross-entropy in nats per answer token, over all answer tokens of ``examples``.

    Args:
        packed: whether the model takes packed rows; None = find out.
        lower: the examples' hidden states, to start from.
    """
    dtype = _dtype(model)
    if packed is None:
        packed = can_pack(model, examples, dtype)
    ordered = sorted(examples, key=lambda example: len(example.ids))
    was_training = model.training
    model.eval()
    total, answers = 0.0, 0
    try:
        with torch.no_grad():
            for row in _rows(model, ordered, packed, pack_tokens, dtype, lower):
                total += row_loss(model, row, lower).item()
                answers += row.answers
    finally:
        model.train(was_training)
    return total / answers


def row_loss(model: nn.Module, row: Row, lower: LowerBlocks | None = None) -> torch.Tensor:
    """Sum of the cross-entropy over the row's labels, weighted; logits are computed for those alone."""
    return objective(model, row, lower)[0]


def objective(
    model: nn.Module, row: Row, lower: LowerBlocks | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``row_loss``, and the part of it that the answers have, without a gradient."""
    with lower.left_out() if lower else nullcontext():
        losses = _losses(model, row)
    if row.prompts is None:
        loss = losses.sum()
        return loss, loss.detach()
    prompts = row.prompts.reshape(-1)
    answers = losses.masked_fill(prompts, 0.0).sum()
    return answers + row.prompt_weight * losses.masked_fill(~prompts, 0.0).sum(), answers.detach()


def _losses(model: nn.Module, row: Row) -> torch.Tensor:
    """The cross-entropy of each label, 0 where there is none; (labels,)."""
    labels = row.labels.reshape(-1)
    if row.prompts is not None and (head := token_losses.of(model)):
        exact = torch.nonzero_static(~row.prompts.reshape(-1), size=row.answers)[:, 0]
        losses = token_losses.losses(model, head, row.inputs, labels, exact)
        if losses is not None:
            return losses.masked_fill(labels == IGNORED, 0.0)
    logits = model(**row.inputs, use_cache=False).logits
    logits = logits.reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")


def _rows(
    model: nn.Module,
    examples: Sequence[Example],
    packed: bool,
    limit: int,
    dtype: torch.dtype,
    lower: LowerBlocks | None = None,
    prompt_weight: float = 0.0,
    prefix: int | None = None,
) -> list[Row]:
    device = next(model.parameters()).device
    prefix = shared_prefix(examples) if prefix is None else prefix
    if packed:
        hidden = lower.hidden if lower else None
        return pack(examples, prefix, limit, device, dtype, hidden, prompt_weight)
    rows, start = [], 0
    while start < len(examples):
        end, longest = start, 0
        while end < len(examples):
            longest = max(longest, len(examples[end].ids))
            if end > start and longest * (end + 1 - start) > limit:
                break
            end += 1
        rows.append(pad(examples[start:end], device, prefix=prefix, prompt_weight=prompt_weight))
        start = end
    return rows


def _dtype(model: nn.Module) -> torch.dtype:
    # that of the embedding, hence of the activations; adapters may be wider
    return next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())


class _Training:
    """One training in progress."""

    def __init__(self, model, examples, dev, plan, folder, samples, hook, groups):
        self.model, self.plan, self.folder, self.samples = model, plan, folder, samples
        self.hook = hook
        self.examples, self.dev = list(examples), list(dev)
        self.device, self.dtype = next(model.parameters()).device, _dtype(model)
        self.parameters = list(checkpoints.trainable(model).values())
        self.steps = plan.steps(len(self.examples))
        self.per_epoch = plan.steps_per_epoch(len(self.examples))
        self.groups = groups or [(self.parameters, 1.0)]
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "factor": factor} for parameters, factor in self.groups],
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            fused=self.device.type in {"cpu", "cuda"},
        )
        self.state = checkpoints.State(self._fingerprint(), history=[])
        self.pending: list[torch.Tensor] = []  # losses of the steps since the last report
        self.tokens = 0  # that went through the model since then
        # what all share, not a batch alone: else a batch of one example would have no prompt to learn
        self.prefix = shared_prefix(self.examples) if plan.prompt_loss_weight else None
        self.packed = False
        self.lower: LowerBlocks | None = None

    def events(self, resume: bool) -> Generator[Event, None, TrainingResult]:
        clear_leftovers(self.folder)
        clear_leftovers(self.folder / checkpoints.FOLDER)
        torch.manual_seed(self.plan.seed)
        self.packed = can_pack(self.model, self.examples, self.dtype, self.dev)
        yield Event.log(self._layout())
        if resume:
            self.state = yield from checkpoints.resume(
                self.folder, self.state, self.steps, self.model, self.optimizer, self.hook.load
            )
        else:
            checkpoints.remove(self.folder)
        with self._products() as layers, self._noise():
            if layers:
                yield Event.log(f"{layers} linear layers multiply in bfloat16, which is faster on this CPU.")
            return (yield from self._train())

    def _train(self) -> Generator[Event, None, TrainingResult]:
        self.model.train()
        yield from self._keep_lower_blocks()
        if self.plan.threads is not None and self.device.type == "cpu":
            yield Event.log(self._set_threads())
        yield Event.progress("adapt", self.state.step, self.steps, unit="step")
        if self.state.step == 0:
            yield from self._start()
        yield from self._loop()
        self.model.eval()
        result = self._result()
        if told := self._stopped(result):
            yield Event.log(told)
        return result

    def _keep_lower_blocks(self) -> Generator[Event, None, None]:
        if not self.packed:
            return
        with self._precision(), torch.random.fork_rng():  # else a resume would go on with other chance
            everything = [*self.examples, *self.dev]
            self.lower = lower_blocks.keep(self.model, everything, self.plan.pack_tokens, self.dtype)
        if self.lower:
            yield Event.log(
                f"The {self.lower.count} blocks below the first trained one stay as they are: "
                "what they give is computed once for all epochs."
            )

    @contextmanager
    def _noise(self) -> Iterator[None]:
        length = sum(len(example.ids) for example in self.examples) / len(self.examples)
        with (
            embedding_noise(self.model, self.plan.noise, length),
            state_noise(self.model, self.plan.state_noise),
        ):
            yield

    def _layout(self) -> str:
        prefix = shared_prefix(self.examples)
        if self.packed:
            return f"Examples are packed without padding; the {prefix} tokens that all share are computed once a step."
        return "This model cannot take packed examples: they are padded, grouped by length."

    def _set_threads(self) -> str:
        with torch.random.fork_rng():
            told = set_threads(
                self.plan.threads, lambda: self._backward(self._probe()), "a first piece of the work"
            )
        gradients.clear(self.parameters)
        return told

    def _start(self) -> Generator[Event, None, None]:
        yield from self._evaluate()
        if self.samples:
            yield from self.samples(0)
            self.model.train()

    def _loop(self) -> Generator[Event, None, None]:
        report_every = max(1, self.steps // REPORTS)
        evaluations = self._eval_steps()
        first, opened = self.state.step, time.perf_counter()
        saved = began = opened
        pause = self.plan.checkpoint_seconds
        while self.state.step < self.steps and not self.state.stopped_early:
            self._step()
            step = self.state.step
            last, evaluate = step == self.steps, step in evaluations
            save = self._last_saves() if last else time.perf_counter() - saved >= pause
            if step % report_every == 0 or evaluate or save:
                yield from self._report(began)
                if evaluate:
                    yield from self._look(last)
                if last or save or self.state.stopped_early:
                    self._refuse_broken_weights()
                if save or (self.state.stopped_early and self._last_saves()):
                    with Stopwatch() as writing:
                        checkpoints.save(
                            self.folder, self.state, self.model, self.optimizer, self.hook.tensors()
                        )
                    saved = time.perf_counter()
                    pause = max(pause, checkpoints.WRITING_PAYS * writing.seconds) if pause else 0.0
                began = time.perf_counter()
            left = (time.perf_counter() - opened) / (step - first) * (self.steps - step)
            yield Event.progress("adapt", step, self.steps, unit="step", left_seconds=left)

    def _last_saves(self) -> bool:
        """Whether the last step gets a checkpoint: it is deleted as soon as the result is saved.

        A small one costs nothing and saves the training where the disk is too full for the result.
        """
        return checkpoints.size(self.model) <= checkpoints.LARGE

    def _look(self, last: bool) -> Generator[Event, None, None]:
        yield from self._evaluate()
        if self.samples and not last:
            yield from self.samples(self.state.step)
        self.model.train()

    def _step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * self.plan.rate(self.state.step, self.steps)
        micro = self._batches(self.state.step)
        loss, tokens = 0.0, 0
        answers = sum(row.answers for rows in micro for row in rows)
        for rows in micro:
            part, count = self._backward(rows, answers)
            loss, tokens = loss + part, tokens + count
        self.hook.before_step()
        gradients.step(self.optimizer, self.parameters, self.plan.clip_norm)
        self.hook.after_step(self.state.step + 1)
        gradients.clear(self.parameters)
        self.pending.append(loss)
        self.state.step += 1
        self.tokens += tokens

    def _backward(self, rows: list[Row], answers: int | None = None) -> tuple[torch.Tensor, int]:
        """Add the gradient of the mean loss per answer token of the whole step; that loss, and tokens.

        The loss that is told is the answers' alone, so that it can be held against the dev loss.
        """
        answers = answers or sum(row.answers for row in rows)
        loss = torch.zeros((), device=self.device)
        for row in rows:
            with self._precision():
                aim, part = objective(self.model, row, self.lower)
            (aim / answers).backward()
            loss += part / answers
        return loss, sum(row.tokens for row in rows)

    def _products(self):
        """The context in which linear layers multiply in bfloat16; gives how many do.

        A training that is resumed on another machine goes on in the number type that it began with.
        """
        if self.state.mixed is None:
            self.state.mixed = mixed.pays(self.device) if self.plan.mixed is None else self.plan.mixed
        if not self.state.mixed or self.plan.autocast or self.dtype != torch.float32:
            return nullcontext(0)
        return mixed.half_products(self.model, bool(self.plan.prompt_loss_weight))

    def _precision(self):
        if not self.plan.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _batches(self, step: int) -> list[list[Row]]:
        """The rows of each micro-batch of a step. Depends on seed and step alone, so resuming is exact."""
        epoch, at = divmod(step, self.per_epoch)
        order = self._order(epoch)[at * self.plan.effective_batch : (at + 1) * self.plan.effective_batch]
        chosen = [self.examples[index] for index in order]
        size = self.plan.batch_size
        return [self._rows_of(chosen[start : start + size]) for start in range(0, len(chosen), size)]

    def _probe(self) -> list[Row]:
        """A small piece of the work, like the rest."""
        few = min(PROBE, self.plan.batch_size)
        return self._rows_of([self.examples[index] for index in self._order(0)[:few]])

    def _rows_of(self, examples: Sequence[Example]) -> list[Row]:
        plan = self.plan
        return _rows(
            self.model,
            examples,
            self.packed,
            plan.pack_tokens,
            self.dtype,
            self.lower,
            plan.prompt_loss_weight,
            self.prefix,
        )

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.examples), generator=generator).tolist()
        if self.packed:
            return order
        # padded: neighbours of like length within windows, the batches in random order
        size = self.plan.effective_batch
        windows = [order[start : start + 16 * size] for start in range(0, len(order), 16 * size)]
        ordered = [
            at for window in windows for at in sorted(window, key=lambda at: len(self.examples[at].ids))
        ]
        batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        full, rest = [b for b in batches if len(b) == size], [b for b in batches if len(b) < size]
        shuffled = [full[at] for at in torch.randperm(len(full), generator=generator).tolist()]
        return [index for batch in shuffled + rest for index in batch]

    def _report(self, began: float) -> Generator[Event, None, None]:
        losses = torch.stack(self.pending).tolist()  # waits for the device
        seconds, tokens = time.perf_counter() - began, self.tokens
        step = self.state.step
        for at, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss):
                raise TrainingDiverged(self._diverged("loss", at))
        self.pending, self.tokens = [], 0
        self.state.seconds += seconds
        self.state.tokens += tokens
        self.state.train_loss = sum(losses) / len(losses)
        yield Event.metric("train_loss", self.state.train_loss, step)
        yield Event.metric("learning_rate", self.plan.rate(step - 1, self.steps), step)
        yield Event.metric("train_tokens_per_second", tokens / seconds, step)
        yield Event.metric("train_memory_bytes", memory_in_use(str(self.device)), step)

    def _diverged(self, what: str, step: int) -> str:
        if step == 0:
            kind = str(self.dtype).removeprefix("torch.")
            return (
                f"The {what} is NaN or infinite before the first step: this model cannot be computed in {kind}. "
                "Set PLAYGROUND_DTYPE=float32, or choose another model."
            )
        good = checkpoints.checkpoints(self.folder)
        kept = f"The last good checkpoint is {good[-1].name}." if good else "There was no checkpoint yet."
        return (
            f"The {what} became NaN or infinite at step {step} of {self.steps}. {kept} "
            "Lower the learning rate or lengthen the warm-up, and start again."
        )

    def _refuse_broken_weights(self) -> None:
        """A finite loss can have a gradient that is not: the next loss shows it, a checkpoint must not keep it."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        # a sum is finite where all are, and takes a twelfth of the time of looking at each
        sums = [value.detach().sum(dtype=torch.float32) for value in (*self.parameters, *moments)]
        if not all(map(math.isfinite, torch.stack([each.cpu() for each in sums]).tolist())):
            raise TrainingDiverged(self._diverged("update", self.state.step))

    def _eval_steps(self) -> set[int]:
        return {round(self.steps * part / self.plan.evals) for part in range(1, self.plan.evals + 1)}

    def _evaluate(self) -> Generator[Event, None, None]:
        if not self.dev:
            return
        loss = evaluate_loss(
            self.model, self.dev, pack_tokens=self.plan.pack_tokens, packed=self.packed, lower=self.lower
        )
        step = self.state.step
        if not math.isfinite(loss):
            raise TrainingDiverged(self._diverged("dev loss", step))
        self.state.dev_loss = loss
        self.state.history.append([step, loss])
        yield Event.metric("dev_loss", loss, step)
        if self.plan.patience is None or step == 0:
            return
        if self.state.best_loss is None or loss < self.state.best_loss:
            self._refuse_broken_weights()
            self.state.best_loss, self.state.best_step, self.state.waited = loss, step, 0
            checkpoints.save_best(self.folder, self.model)
            return
        self.state.waited += 1
        self.state.stopped_early = self.state.waited >= self.plan.patience

    def _result(self) -> TrainingResult:
        state, kept = self.state, self.state.step
        if self.plan.patience is not None and state.best_loss is not None and state.best_step != kept:
            checkpoints.load_best(self.folder, self.model)
            kept = state.best_step
        return TrainingResult(
            steps=state.step,
            kept_step=kept,
            seconds=state.seconds,
            tokens=state.tokens,
            train_loss=state.train_loss,
            dev_loss=state.best_loss if kept != state.step else state.dev_loss,
            trainable_parameters=sum(parameter.numel() for parameter in self.parameters),
            total_parameters=sum(numbers(parameter) for parameter in self.model.parameters()),
            stopped_early=state.stopped_early,
            packed=self.packed,
        )

    def _stopped(self, result: TrainingResult) -> str | None:
        """What patience did, in words; None where the training went on to its end and kept that."""
        if not result.stopped_early and result.kept_step == result.steps:
            return None
        kept = f"the weights of step {result.kept_step} are kept, its dev loss {result.dev_loss:.4f} is the lowest."
        if not result.stopped_early:
            return f"Trained to the end; {kept}"
        return f"Stopped early at step {result.steps} of {self.steps}; {kept}"

    def _fingerprint(self) -> str:
        plan = {key: value for key, value in asdict(self.plan).items() if key not in _FREE}
        shapes = {name: list(value.shape) for name, value in checkpoints.trainable(self.model).items()}
        groups = [(len(parameters), factor) for parameters, factor in self.groups]
        text = json.dumps([plan, shapes, groups, [(e.ids, e.answer) for e in self.examples]])
        return hashlib.sha256(text.encode()).hexdigest()


# what may differ between the first start and a resume
_FREE = {"threads", "checkpoint_seconds", "pack_tokens"}
