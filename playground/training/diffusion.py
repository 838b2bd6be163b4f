"""The one training loop of all methods that adapt a text-to-image model: nothing is computed twice.

Pictures go through the VAE once, texts through the text encoders once (unless those train), and both are kept by
the sample's number. Pictures of the subject and of its class stand in one batch, each with a weight of its own.

What it does not do: more than one device, sharded optimisers, averaged weights.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from playground.errors import AdapterError, InvalidInput, OutOfMemory, RunFailed, TrainingDiverged
from playground.events import Event
from playground.models.families import Moments
from playground.models.families.base import Conditioning
from playground.models.image import ImageModel, precision
from playground.training import checkpoints
from playground.training.fused_lora import fuse, unfuse
from playground.training.measure import Stopwatch, memory_in_use, set_threads
from playground.training.memory import out_of_memory
from playground.training.objectives import objective_of
from playground.training.saving import atomic_folder, clear_leftovers

REPORTS = 100  # points of the loss curves of a run
ENCODED_AT_ONCE = 4  # pictures in the VAE
RECALLED = 128  # questions to the network as it was, for the prior without pictures


@dataclass(frozen=True)
class DiffusionPlan:
    """How to train. ``learning_rate`` is the highest one; ``warmup`` the share of steps leading up to it.

    One step sees ``batch_size`` pictures of the subject and ``class_batch`` of the class (where there is a prior;
    0 = as many), whose mean loss counts ``prior_weight`` times (λ). ``snr_gamma`` weighs errors by min-SNR-γ,
    None = all alike. ``caption_dropout`` is the share of samples that are seen without their text. ``sample_every`` steps the caller
    may look at the model, 0 = only at the start and at the end; with ``keep_looks`` the weights of each look stay on
    disk (``kept``, ``restore``). ``checkpoint_seconds`` is the shortest time between two checkpoints, longer where
    they take long to write: writing costs about a fortieth at most; 0 = one after every step.
    ``gradient_checkpointing`` trades time for memory. ``mixed`` computes in bfloat16 with float32 weights; None =
    as the model is drawn with (``ImageModel.mixed``). ``threads``: CPU threads, 0 = time one step and choose, None =
    leave as set.
    """

    steps: int = 200
    batch_size: int = 2
    class_batch: int = 0
    learning_rate: float = 1e-4
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    seed: int = 0
    prior_weight: float = 1.0
    snr_gamma: float | None = None
    caption_dropout: float = 0.0
    sample_every: int = 0
    keep_looks: bool = False
    checkpoint_seconds: float = 30.0
    gradient_checkpointing: bool = False
    mixed: bool | None = None
    threads: int | None = 0

    def rate(self, step: int) -> float:
        """Learning rate of step 0 ≤ step < steps."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(1, self.steps - warm)
        factor = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
        return self.learning_rate * factor[self.schedule]


@dataclass(frozen=True)
class Concept:
    """Pictures (n, 3, h, w), -1…1, and the text of each."""

    pictures: Tensor
    prompts: Sequence[str]

    def __post_init__(self):
        if len(self.pictures) != len(self.prompts) or not len(self.pictures):
            raise InvalidInput(
                f"{len(self.pictures)} pictures with {len(self.prompts)} texts: there has to be at least one "
                "picture, and one text for each."
            )


@dataclass(frozen=True)
class PriorFromNetwork:
    """The prior without pictures of the class: what the network answered before it was adapted.

    On noised pictures of the subject, with a text of the class in place of the subject's, the adapted network is
    to answer as it does with its adapter switched off. That is asked once for each of ``RECALLED`` draws of picture,
    noise, time and text, which come in turn: they stand for the class as a set of pictures of it would.
    """

    prompts: Sequence[str]

    def __post_init__(self):
        if not self.prompts:
            raise InvalidInput("The prior needs at least one text about the class.")


Prior = Concept | PriorFromNetwork


@dataclass(frozen=True)
class DiffusionResult:
    """What a training ended with.

    ``seconds`` is training alone (looks and checkpoints left out), summed over resumes. The losses are the means
    of the last reported steps; ``prior_loss`` is None without a prior. ``kept`` are the steps whose weights are on
    disk.
    """

    steps: int
    seconds: float
    train_loss: float | None
    instance_loss: float | None
    prior_loss: float | None
    trainable_parameters: int
    total_parameters: int
    kept: tuple[int, ...]


def train(
    model: ImageModel,
    instance: Concept,
    plan: DiffusionPlan,
    folder: Path,
    *,
    prior: Prior | None = None,
    groups: Sequence[tuple[list[nn.Parameter], float]] | None = None,
    resume: bool = False,
    looks: Callable[[int], Iterable[Event]] | None = None,
    best: Callable[[Container[int]], int | None] | None = None,
    requests: Callable[[], set[str]] | None = None,
) -> Generator[Event, None, DiffusionResult]:
    """Train the parameters of denoiser and text encoders that require a gradient, telling progress.

    The loss is that of DreamBooth (Ruiz et al. 2023, arXiv:2208.12242): the subject's mean error plus λ times the
    prior's.

    Args:
        folder: the run's folder; checkpoints are written below it.
        prior: what keeps the class as it was; None = nothing does.
        groups: all trainable parameters, in groups with the factor of each group's learning rate; None = all at
            the plan's.
        resume: go on from the last whole checkpoint in ``folder`` where there is one.
        looks: called with the step at the start, every ``sample_every`` steps and at the end; its events are
            passed on.
        best: which of some steps has the best look, None = none of them; with it the weights of the best look so
            far stay on disk, and are replaced when a better one comes. Those of the last step stay in the model.
        requests: asked after each step; "sample" in its answer is a look now, "save" a checkpoint now.

    Raises:
        InvalidInput: pictures, prior or trainable parts do not fit the model; nothing was started.
        TrainingDiverged: the loss or a weight became NaN or infinite; no checkpoint holds such a number.
        OutOfMemory: says what to lower.
        RunFailed: the disk is full.
    """
    try:
        run = _Training(model, instance, plan, Path(folder), prior, groups, looks, requests, best)
        return (yield from run.events(resume))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"Out of memory while training with batch size {plan.batch_size}"
            f"{' and pictures of the class beside it' if prior else ''}. Lower the batch size, the rank or the size of "
            "the pictures, leave the text encoder as it is, or choose a smaller model."
        ) from error


def kept(folder: Path) -> tuple[int, ...]:
    """The steps whose weights a training with ``keep_looks`` or ``best`` left in a run's folder, in order."""
    return tuple(int(path.name.removeprefix(_LOOK)) for path in sorted(_looks(folder)))


def restore(model: ImageModel, folder: Path, step: int) -> None:
    """Put the trained weights of a look back, into a model in which the same parts require a gradient.

    Raises:
        AdapterError: they are not there, damaged, or of another model.
    """
    path = _place(folder, step) / "weights.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"The weights of step {step} cannot be read: {error}") from error
    parameters = checkpoints.trainable(_networks(model))
    if {name: value.shape for name, value in weights.items()} != {n: p.shape for n, p in parameters.items()}:
        raise AdapterError(f"The weights of step {step} belong to another model.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


@contextmanager
def adapters_off(*networks: nn.Module) -> Iterator[None]:
    """Inside the block networks into which PEFT put adapters answer without them."""
    layers = [part for network in networks for part in network.modules() if isinstance(part, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


_LOOK = "look-"


def _looks(folder: Path) -> Iterable[Path]:
    return (Path(folder) / checkpoints.FOLDER).glob(f"{_LOOK}*")


def _place(folder: Path, step: int) -> Path:
    return Path(folder) / checkpoints.FOLDER / f"{_LOOK}{step:07d}"


def _networks(model: ImageModel) -> nn.ModuleDict:
    """Denoiser and text encoders, so that checkpoints name their parameters alike."""
    return nn.ModuleDict({"denoiser": model.denoiser, **model.text_encoders})


def _trains(network: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in network.parameters())


class _Texts:
    """What the denoiser is told of texts: computed once where no text encoder trains, else for each batch."""

    def __init__(self, model: ImageModel, texts: Iterable[str], cached: bool):
        self.model = model
        self.places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self.table: Conditioning | None = None
        if cached:
            with torch.no_grad():
                parts = [self._encode([text]) for text in self.places]
            self.table = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def __call__(self, texts: Sequence[str]) -> Conditioning:
        """The conditioning of a batch of texts."""
        table, places = self.table, self.places
        if table is None:
            places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
            table = self._encode(list(places))
        index = torch.tensor([places[text] for text in texts], device=self.model.device)
        return {name: value[index] for name, value in table.items()}

    def _encode(self, texts: Sequence[str]) -> Conditioning:
        return self.model.family.encode_prompts(self.model.pipeline, texts)


@dataclass
class _Samples:
    """One concept's samples, by number. ``order`` is the seed of the order in which they come."""

    moments: Moments
    prompts: Sequence[str]
    order: int

    def choose(self, first: int, count: int, of: int) -> list[int]:
        """Numbers of the samples at places ``first`` … of an endless sequence that has all ``of`` in each round."""
        rounds = range(first // of, (first + count - 1) // of + 1)
        sequence = [number for round in rounds for number in self._round(round, of)]
        start = first - rounds[0] * of
        return sequence[start : start + count]

    def _round(self, round: int, of: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.order * 1_000_003 + round)
        return torch.randperm(of, generator=generator).tolist()


@dataclass(frozen=True)
class _Batch:
    """What the denoiser is asked, and what it should answer; the first dimension of the tensors is the batch."""

    noisy: Tensor
    times: Tensor
    target: Tensor
    prompts: list[str]

    @staticmethod
    def cat(parts: Sequence["_Batch"]) -> "_Batch":
        tensors = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("noisy", "times", "target")
        )
        return _Batch(*tensors, [prompt for part in parts for prompt in part.prompts])


class _Training:
    """One call of ``train``."""

    def __init__(self, model, instance, plan, folder, prior, groups, looks, requests, best=None):
        self.model, self.instance, self.plan, self.folder = model, instance, plan, folder
        self.prior, self.looks, self.best = prior, looks, best
        self.requests = requests or set
        self.networks = _networks(model)
        self._check()
        for parameter in self._trainable():  # steps are too small for bfloat16
            parameter.data = parameter.data.float()
        self.parameters = self._trainable()
        self.groups = groups or [(self.parameters, 1.0)]
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "factor": factor} for parameters, factor in self.groups],
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            fused=model.device.type in {"cpu", "cuda"},
        )
        self.text_trains = any(_trains(network) for network in model.text_encoders.values())
        self.state = checkpoints.State(self._fingerprint(), history=[])
        self.pending: list[Tensor] = []  # losses of the steps since the last report: instance, prior
        self.last: tuple[float | None, float | None] = (None, None)
        self.recalled: dict[int, Tensor] = {}  # answers of the network before it was adapted, by turn

    # ---- the course of a training

    def events(self, resume: bool) -> Generator[Event, None, DiffusionResult]:
        clear_leftovers(self.folder)
        clear_leftovers(self.folder / checkpoints.FOLDER)
        if resume:
            self.state = yield from checkpoints.resume(
                self.folder, self.state, self.plan.steps, self.networks, self.optimizer
            )
        else:
            checkpoints.remove(self.folder)
        if self.state.mixed is None:
            self.state.mixed = self.model.mixed if self.plan.mixed is None else self.plan.mixed
        yield from self._encode()
        if self.plan.gradient_checkpointing:
            self.model.denoiser.enable_gradient_checkpointing()
        try:
            self._mode(True)
            if self.plan.threads is not None and self.model.device.type == "cpu":
                yield Event.log(self._set_threads())
            yield Event.progress("adapt", self.state.step, self.plan.steps, unit="step")
            if self.state.step == 0:
                yield from self._look()
            yield from self._loop()
            yield from self._look()
        finally:
            self._mode(False)
            if self.plan.gradient_checkpointing:
                self.model.denoiser.disable_gradient_checkpointing()
        return self._result()

    def _check(self) -> None:
        if not self._trainable():
            raise ValueError("nothing requires a gradient: a technique says beforehand what it trains")
        for concept in (self.instance, self.prior):
            if isinstance(concept, Concept):
                self._check_size(concept.pictures)
        if (
            isinstance(self.prior, Concept)
            and self.prior.pictures.shape[1:] != self.instance.pictures.shape[1:]
        ):
            raise InvalidInput("The pictures of the class have another size than those of the subject.")
        if not isinstance(self.prior, PriorFromNetwork):
            return
        adapted = [network for network in self.networks.values() if _trains(network)]
        if any(_trains_itself(network) for network in adapted):
            raise InvalidInput(
                "The prior without pictures needs an adapter that can be switched off: here the model's own weights "
                "are trained. Use pictures of the class.",
                field="prior_preservation",
            )

    def _check_size(self, pictures: Tensor) -> None:
        multiple = self.model.family.multiple(self.model.pipeline)
        if any(edge % multiple for edge in pictures.shape[-2:]):
            height, width = pictures.shape[-2:]
            raise InvalidInput(
                f"Pictures of {width}×{height} pixels do not fit this model: both have to be multiples of {multiple}.",
                field="size",
            )

    def _encode(self) -> Generator[Event, None, None]:
        plan, family, pipeline = self.plan, self.model.family, self.model.pipeline
        concepts = [c for c in (self.instance, self.prior) if isinstance(c, Concept)]
        total, done, found = sum(len(c.pictures) for c in concepts), 0, []
        for concept in concepts:
            parts = []
            for part in family.moments(pipeline, concept.pictures, ENCODED_AT_ONCE):
                parts.append(part)
                done += len(part)
                yield Event.progress("encode", done, total, unit="picture")
            found.append(Moments.cat(parts))
        self.samples = [
            _Samples(moments, concept.prompts, 2 * plan.seed + place)
            for place, (moments, concept) in enumerate(zip(found, concepts, strict=True))
        ]
        texts = [*self.instance.prompts, *(self.prior.prompts if self.prior else [])]
        texts += [""] * bool(plan.caption_dropout)
        self.texts = _Texts(self.model, texts, cached=not self.text_trains)
        self.base_texts = self.texts
        if self.text_trains and isinstance(self.prior, PriorFromNetwork):
            with adapters_off(*self.networks.values()):
                self.base_texts = _Texts(self.model, self.prior.prompts, cached=True)
        height, width = found[0].mean.shape[-2:]
        self.objective = objective_of(self.model, height, width, plan.snr_gamma)
        if plan.snr_gamma is not None and family.objective == "flow":
            yield Event.log(
                "This model learnt by flow matching: min-SNR weights do not apply and are left out."
            )
        kind = "bfloat16, weights in float32" if self.state.mixed else "float32"
        kinds = "for each batch" if self.text_trains else "once"
        yield Event.log(
            f"{total} pictures went through the VAE once, {len(self.texts.places)} texts are encoded {kinds}; "
            f"the training computes in {kind}."
        )

    def _set_threads(self) -> str:
        told = set_threads(self.plan.threads, lambda: self._backward(0), "one step")
        self.optimizer.zero_grad(set_to_none=True)
        return told

    def _loop(self) -> Generator[Event, None, None]:
        plan, steps = self.plan, self.plan.steps
        report_every = max(1, steps // REPORTS)
        first, opened = self.state.step, time.perf_counter()
        saved = began = opened
        pause = plan.checkpoint_seconds
        while self.state.step < steps:
            self._step()
            step = self.state.step
            asked = self.requests()
            last = step == steps
            look = not last and ("sample" in asked or (plan.sample_every and step % plan.sample_every == 0))
            save = self._last_saves() if last else "save" in asked or time.perf_counter() - saved >= pause
            if last or look or save or step % report_every == 0:
                yield from self._report(began)
                if last or save or look:
                    self._refuse_broken_weights()
                if save:
                    with Stopwatch() as writing:
                        checkpoints.save(self.folder, self.state, self.networks, self.optimizer)
                    saved = time.perf_counter()
                    pause = max(pause, checkpoints.WRITING_PAYS * writing.seconds) if pause else 0.0
                    if "save" in asked:
                        yield Event.log(f"Saved at step {step}: a stopped run goes on from here.")
                if look:
                    yield from self._look()
                began = time.perf_counter()
            left = (time.perf_counter() - opened) / (step - first) * (steps - step)
            yield Event.progress("adapt", step, steps, unit="step", left_seconds=left)

    def _last_saves(self) -> bool:
        """Whether the last step gets a checkpoint: a small one costs nothing and saves the training where the
        disk is too full for the result."""
        return checkpoints.size(self.networks) <= checkpoints.LARGE

    def _look(self) -> Generator[Event, None, None]:
        step = self.state.step
        if self.plan.keep_looks and step:
            self._keep(step)
        if self.looks:
            self._mode(False)
            yield from self.looks(step)
            self._mode(True)
        if self.best and 0 < step < self.plan.steps:
            yield from self._keep_best(step)

    def _keep(self, step: int) -> None:
        with atomic_folder(_place(self.folder, step)) as partial:
            trained = checkpoints.trainable(self.networks)
            weights = {name: value.detach().contiguous().cpu() for name, value in trained.items()}
            save_file(weights, partial / "weights.safetensors")

    def _keep_best(self, step: int) -> Iterator[Event]:
        """Let the weights of a step that was looked at take the place of those kept, where its look is better."""
        earlier = kept(self.folder)
        if self.best((*earlier, step)) != step:
            return
        try:
            self._keep(step)
        except RunFailed:  # it can train on without them
            yield Event.log(
                f"The weights of step {step}, the best so far, are not kept: the disk is full.", "warning"
            )
            return
        for old in earlier:
            if old != step:
                shutil.rmtree(_place(self.folder, old))

    # ---- one step

    def _step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * self.plan.rate(self.state.step)
        losses = self._backward(self.state.step)
        if self.plan.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.plan.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.pending.append(losses)
        self.state.step += 1

    def _backward(self, step: int) -> Tensor:
        """Add the gradient of a step's loss; the mean losses of subject and prior, (2,), on the device.

        All that is random depends on seed and step alone, so resuming is exact.
        """
        count = self.plan.batch_size
        seed = self.plan.seed * 1_000_003 + step
        torch.manual_seed(seed)  # for dropout in the networks
        batch = self._batch(step, seed)
        if isinstance(self.prior, PriorFromNetwork):
            batch = _Batch.cat([batch, self._asked_before(step)])
        with precision(self.model.device, self.state.mixed):
            told = self.texts(self._dropped(batch.prompts, seed))
            prediction = self._predict(batch.noisy, batch.times, told)
        errors = (prediction.float() - batch.target).square().flatten(1).mean(1)
        errors = errors * self.objective.weights(batch.times)
        subject = errors[:count].mean()
        prior = errors[count:].mean() if self.prior else torch.zeros_like(subject)
        (subject + self.plan.prior_weight * prior).backward()
        return torch.stack([subject, prior]).detach()

    def _batch(self, step: int, seed: int) -> "_Batch":
        """The step's samples of subject and class, the subject's first."""
        counts = self.plan.batch_size, self._class_batch
        moments, prompts = [], []
        for samples, count in zip(self.samples, counts, strict=False):
            numbers = samples.choose(step * count, count, len(samples.prompts))
            moments.append(samples.moments[numbers])
            prompts += [samples.prompts[number] for number in numbers]
        return self._noised(moments, prompts, seed)

    def _asked_before(self, step: int) -> "_Batch":
        """Pictures of the subject with texts of the class, and what the network answered before it was adapted.

        There are ``RECALLED`` such questions, in turn: its answers do not change, so each is asked for once.
        """
        count, own, texts = self._class_batch, self.samples[0], self.prior.prompts
        turn = step % max(1, RECALLED // count)
        moments = own.moments[own.choose(turn * count, count, len(own.prompts))]
        prompts = [texts[at] for at in own.choose(turn * count, count, len(texts))]
        asked = self._noised([moments], prompts, -1 - turn - self.plan.seed * 1_000_003)
        if turn not in self.recalled:
            self.recalled[turn] = self._base(asked.noisy, asked.times, prompts)
        return replace(asked, target=self.recalled[turn])

    def _noised(self, concepts: Sequence[Moments], prompts: list[str], seed: int) -> "_Batch":
        generator = torch.Generator(self.model.device).manual_seed(seed)
        latents = self.model.family.latents(self.model.pipeline, Moments.cat(concepts), generator)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        times = torch.cat([self.objective.times(len(concept), generator) for concept in concepts])
        noisy = self.objective.noisy(latents, noise, times)
        return _Batch(noisy, times, self.objective.target(latents, noise, times), prompts)

    @property
    def _class_batch(self) -> int:
        return self.plan.class_batch or self.plan.batch_size

    def _dropped(self, prompts: list[str], seed: int) -> list[str]:
        if not self.plan.caption_dropout:
            return prompts
        chances = torch.rand(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
        return [
            "" if chance < self.plan.caption_dropout else text
            for text, chance in zip(prompts, chances, strict=True)
        ]

    def _base(self, noisy: Tensor, times: Tensor, prompts: list[str]) -> Tensor:
        """What the network answers without its adapter, float32."""
        # a context of its own: autocast keeps what it rounded until the end of one
        with (
            torch.no_grad(),
            adapters_off(*self.networks.values()),
            precision(self.model.device, self.state.mixed),
        ):
            return self._predict(noisy, times, self.base_texts(prompts)).float()

    def _predict(self, noisy: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        model = self.model
        return model.family.predict(model.denoiser, noisy, times, conditioning, model.pipeline)

    # ---- what is told

    def _report(self, began: float) -> Generator[Event, None, None]:
        losses = torch.stack(self.pending).tolist()  # waits for the device
        seconds, step = time.perf_counter() - began, self.state.step
        for at, pair in enumerate(losses, step - len(losses) + 1):
            if not all(map(math.isfinite, pair)):
                raise TrainingDiverged(self._diverged("loss", at))
        self.pending = []
        self.state.seconds += seconds
        subject, prior = (sum(values) / len(values) for values in zip(*losses, strict=True))
        self.last = subject, prior if self.prior else None
        self.state.train_loss = subject + self.plan.prior_weight * prior
        yield Event.metric("train_loss", self.state.train_loss, step)
        yield Event.metric("instance_loss", subject, step)
        if self.prior:
            yield Event.metric("prior_loss", prior, step)
        yield Event.metric("learning_rate", self.plan.rate(step - 1), step)
        yield Event.metric("steps_per_second", len(losses) / seconds, step)
        yield Event.metric("train_memory_bytes", memory_in_use(str(self.model.device)), step)

    def _diverged(self, what: str, step: int) -> str:
        good = checkpoints.checkpoints(self.folder)
        held = f"The last good checkpoint is {good[-1].name}." if good else "There was no checkpoint yet."
        return (
            f"The {what} became NaN or infinite at step {step} of {self.plan.steps}. {held} "
            "Lower the learning rate or lengthen the warm-up, and start again."
        )

    def _refuse_broken_weights(self) -> None:
        """A finite loss can have a gradient that is not: the next loss shows it, a checkpoint must not keep it."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        norms = torch._foreach_norm([value.detach() for value in (*self.parameters, *moments)])
        if not all(math.isfinite(norm) for norm in torch.stack([norm.cpu() for norm in norms]).tolist()):
            raise TrainingDiverged(self._diverged("update", self.state.step))

    def _result(self) -> DiffusionResult:
        subject, prior = self.last
        return DiffusionResult(
            steps=self.state.step,
            seconds=self.state.seconds,
            train_loss=self.state.train_loss,
            instance_loss=subject,
            prior_loss=prior,
            trainable_parameters=sum(parameter.numel() for parameter in self.parameters),
            total_parameters=sum(parameter.numel() for parameter in self.networks.parameters()),
            kept=kept(self.folder),
        )

    # ---- details

    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.networks.parameters() if parameter.requires_grad]

    def _mode(self, training: bool) -> None:
        """Looks are drawn as the result will draw: without the short cuts, which round elsewhere."""
        for network in self.networks.values():
            network.train(training and _trains(network))
            fuse(network) if training else unfuse(network)

    def _fingerprint(self) -> str:
        plan = {key: value for key, value in asdict(self.plan).items() if key not in _FREE}
        shapes = {name: list(value.shape) for name, value in checkpoints.trainable(self.networks).items()}
        groups = [(len(parameters), factor) for parameters, factor in self.groups]
        digest = hashlib.sha256(json.dumps([plan, shapes, groups]).encode())
        for concept in (self.instance, self.prior):
            if concept is not None:
                digest.update(json.dumps(list(concept.prompts)).encode())
            if isinstance(concept, Concept):
                digest.update(concept.pictures.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()


# what may differ between the first start and a resume
_FREE = {"threads", "checkpoint_seconds", "sample_every", "gradient_checkpointing"}


def _trains_itself(network: nn.Module) -> bool:
    """Whether weights of the network's own are trained, not those of an adapter in it."""
    added = set()
    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in layer.adapter_layer_names:
                part = getattr(layer, name)
                added |= {id(parameter) for parameter in part.parameters()}
    return any(p.requires_grad and id(p) not in added for p in network.parameters())
