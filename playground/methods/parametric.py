"""What all methods that train a text model share: parameters of the training, estimate, run, restore.

A technique adds to it how its trainable part gets into the model (``wrap``), how that is written and
read (``write``, ``read``), how it is switched off for a comparison (``switch``) and, where that is
possible, folded into the weights (``merge``).
"""

from abc import abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from playground.data.tasks import Task
from playground.errors import AdapterError, InvalidParams
from playground.events import Event
from playground.methods.base import Adapted, Context, Method, Params, Prompt, parameter
from playground.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from playground.models.catalogue import Model
    from playground.training.estimate import Estimate
    from playground.training.text import Plan, StepHook

ADAPTER = "adapter"  # folder of a finished run's result, below the run's folder
COUNTS = ("trainable_parameters", "total_parameters")
SAMPLES = 3  # dev items answered before, during and after training


class TrainingParams(Params):
    """What every training lets one choose."""

    learning_rate: float = parameter(
        1e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )
    epochs: int = parameter(5, "Epochs", "How often each training example is seen.", minimum=1, maximum=100)
    batch_size: int = parameter(
        2,
        "Batch size",
        "Examples computed at once: few make many small steps, which learn more from little data.",
        minimum=1,
        maximum=256,
    )
    gradient_accumulation: int = parameter(
        1, "Gradient accumulation", "Batches added up before one step.", minimum=1, maximum=256, advanced=True
    )
    schedule: Literal["cosine", "linear", "constant"] = parameter(
        "cosine", "Schedule", "How the learning rate falls after the warm-up.", advanced=True
    )
    warmup: float = parameter(
        0.05,
        "Warm-up",
        "Share of the steps in which the learning rate rises.",
        minimum=0,
        maximum=0.9,
        step=0.05,
        advanced=True,
    )
    weight_decay: float = parameter(
        0.0, "Weight decay", "Pulls the trained weights towards zero.", minimum=0, maximum=1, advanced=True
    )
    prompt_loss_weight: float = parameter(
        0.0,
        "Prompt loss weight",
        "What a token of the input counts in the loss beside one of the answer; 0 = answers alone. A little makes "
        "the model read the inputs, not only tell the few apart; the instruction that all share is never learnt.",
        minimum=0,
        maximum=1,
        step=0.01,
        advanced=True,
    )
    embedding_noise: float = parameter(
        0.0,
        "Embedding noise",
        "NEFTune's α: noise on the tokens' embeddings while training, against learning few examples by heart.",
        minimum=0,
        maximum=100,
        step=1,
        advanced=True,
    )
    max_length: int = parameter(
        512,
        "Maximum length",
        "Longer examples are left out, in tokens.",
        minimum=16,
        maximum=32768,
        advanced=True,
    )
    patience: int = parameter(
        0,
        "Patience",
        "Stop after so many dev evaluations without a lower loss and keep the best weights; 0 = never.",
        minimum=0,
        maximum=100,
        advanced=True,
    )


class BlockParams(TrainingParams):
    """What a technique lets one choose that can leave the model's lower blocks as they are."""

    top_layers: int = parameter(
        0,
        "Only the top blocks",
        "Adapt only so many of the model's last blocks; 0 = all. What the blocks below give is computed once "
        "for all epochs, so fewer train faster, and forget less.",
        minimum=0,
        maximum=1024,
        advanced=True,
    )
    state_noise: float = parameter(
        0.0,
        "Noise on hidden states",
        "Noise on what enters the first adapted block while training, as a share of its spread, against learning "
        "few examples by heart: embedding noise for when the blocks below stay as they are.",
        minimum=0,
        maximum=2,
        step=0.05,
        advanced=True,
    )


class Parametric(Method):
    """A method that trains weights of a text model, its own or added ones."""

    family: ClassVar[str] = "parametric"
    Params = TrainingParams

    @abstractmethod
    def wrap(self, params: TrainingParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """The network with a fresh trainable part; only that part requires a gradient.

        Works on PyTorch's meta device, too: ``estimate`` counts on it.

        Raises:
            InvalidParams: the technique does not fit this network; the message says why.
        """

    @abstractmethod
    def write(self, network: "nn.Module", folder: Path) -> None:
        """Write the trained part of a wrapped network into an empty folder, weights as safetensors."""

    @abstractmethod
    def read(self, network: "nn.Module", folder: Path) -> None:
        """Put what ``write`` wrote into a freshly wrapped network.

        Raises:
            AdapterError: it does not fit the network, or holds numbers that are not finite.
        """

    @abstractmethod
    def switch(self, network: "nn.Module", on: bool) -> None:
        """Let a wrapped network answer with its trained part, or as the base model.

        Raises:
            AdapterError: that cannot be done with this network.
        """

    def merge(self, network: "nn.Module") -> "nn.Module":
        """The wrapped network with the trained part folded into its weights; itself where that cannot be."""
        return network

    def merging_bytes(self, network: "nn.Module") -> int:
        """Memory that restoring a result and merging it takes: by default that of the weights.

        Args:
            network: the base model in the run's number type; it may stand on the meta device.
        """
        return sum(value.nbytes for value in network.parameters())

    def prepare(self, params: TrainingParams, network: "nn.Module", context: Context) -> None:
        """Give a freshly wrapped network a better start from the task, before training; nothing by default."""

    def hook(self, params: TrainingParams, network: "nn.Module", steps: int) -> "StepHook | None":
        """What is to be done around each of the ``steps`` steps of the training; nothing by default."""
        return None

    def frame(self, params: TrainingParams, network: "nn.Module", seed: int = 0) -> "nn.Module":
        """The wrapped network that ``read`` fills: as ``wrap``, unless what is kept has another form."""
        return self.wrap(params, network, seed)

    def groups(
        self, params: TrainingParams, network: "nn.Module"
    ) -> "list[tuple[list[nn.Parameter], float]] | None":
        """Parameters that learn at a rate of their own, each group with its factor; None = all at one rate."""
        return None

    def faster(self, network: "nn.Module", on: bool) -> None:
        """Switch exact short cuts for training on or off; none by default."""

    def check(self, params: TrainingParams, task: Task) -> None:
        """Refuse a task with nothing to train on.

        Raises:
            InvalidParams: the task has no training examples.
        """
        if not task.train:
            raise InvalidParams(
                f"The task “{task.title}” has no training examples; {self.title} needs some.", "task"
            )

    def plan(self, params: TrainingParams, seed: int = 0) -> "Plan":
        """The training plan that the parameters ask for."""
        from playground.training.text import Plan

        settings = Settings.from_environment()
        return Plan(
            epochs=params.epochs,
            batch_size=params.batch_size,
            gradient_accumulation=params.gradient_accumulation,
            learning_rate=params.learning_rate,
            schedule=params.schedule,
            warmup=params.warmup,
            weight_decay=params.weight_decay,
            prompt_loss_weight=params.prompt_loss_weight,
            noise=params.embedding_noise,
            state_noise=params.state_noise if isinstance(params, BlockParams) else 0.0,
            max_length=params.max_length,
            seed=seed,
            patience=params.patience or None,
            threads=settings.threads,
            mixed=None if settings.dtype == "auto" else False,
        )

    def fits(self, params: TrainingParams, model: "Model", settings: Settings) -> None:
        """Refuse parameters that the model has no place for. Loads no weights.

        Raises:
            InvalidParams: the technique, or a parameter, does not fit the model.
            ModelUnavailable: the model is not on this machine.
        """
        from playground.training.weightless import weightless

        self.wrap(params, weightless(model, settings).model)

    def estimate(
        self,
        params: TrainingParams,
        task: Task,
        model: "Model",
        settings: Settings,
        *,
        tokens_per_second: float | None = None,
        their_flops: float | None = None,
        flops_per_second: float | None = None,
    ) -> "Estimate":
        """What training would take: exact counts, estimated memory and time. Loads no weights.

        Args:
            tokens_per_second: ``train_tokens_per_second`` of an earlier run of this method and model here.
            their_flops: its FLOPs per token, where its settings may have been others.
            flops_per_second: of an earlier run of another method with this model here.

        Raises:
            ModelUnavailable: the model is not on this machine.
            InvalidParams: the technique does not fit the model or the task.
        """
        from playground.evaluation.text import max_new_tokens
        from playground.models import device
        from playground.training.batches import encode
        from playground.training.estimate import Workload, estimate, part
        from playground.training.text import within
        from playground.training.weightless import weightless

        self.check(params, task)
        empty = weightless(model, settings)
        dev, _ = within(encode(empty, task, part(task.dev)), empty.context_length, "dev")
        work = Workload(
            examples=encode(empty, task, part(task.train)),
            dev=dev,
            plan=self.plan(params),
            sampled=dev[:SAMPLES],
            sample_tokens=max_new_tokens(task, empty),
            stands_for=len(task.train),
        )

        def wrap(network: "nn.Module") -> "nn.Module":
            wrapped = self.wrap(params, network)
            self.faster(wrapped, True)
            return wrapped

        return estimate(
            empty.model,
            wrap,
            work,
            device=device.choose(settings).name,
            quantization=self.quantization(params),
            tokens_per_second=tokens_per_second,
            their_flops=their_flops,
            flops_per_second=flops_per_second,
        )

    def adapt(self, params: TrainingParams, context: Context) -> Generator[Event, None, Adapted]:
        """Train, save the result in ``context.folder``/adapter, and merge it for fast answers.

        Raises:
            TrainingDiverged, OutOfMemory, RunFailed: see playground.training.text.train.
        """
        from playground.training import adapter_files, checkpoints
        from playground.training.measure import directory_bytes
        from playground.training.saving import clear_leftovers

        folder = context.folder / ADAPTER
        clear_leftovers(context.folder)
        if context.resume and folder.exists() and adapter_files.says(folder, _origin(context)):
            yield Event.log("Training was finished before; its result is used.")
            adapted = self.restore(params, context)
            adapted.restored = True
        else:
            adapted = yield from self._train(params, context)
        checkpoints.remove(context.folder)
        yield Event.artifact(ADAPTER, ADAPTER, directory_bytes(folder))
        adapted.model.model = self.merge(adapted.model.model)
        adapted.model.model.eval()
        yield from _samples(adapted, context.task, "after")
        return adapted

    def restore(self, params: TrainingParams, context: Context) -> Adapted:
        """The finished result in the model, not merged: see ``switch``.

        Raises:
            AdapterError: it is missing, damaged, of another model or other parameters.
        """
        from playground.training import adapter_files
        from playground.training.measure import directory_bytes

        folder = context.folder / ADAPTER
        about = self._about(params, context)
        kept = adapter_files.verify(folder, {name: about[name] for name in ("method", "model", "revision")})
        if not params.same(kept.get("params")):
            raise AdapterError(
                f"The adapter was made with params {kept.get('params')!r}, not with {about['params']!r}."
            )
        network = self.frame(params, context.model.model, context.seed)
        self.read(network, folder)
        context.model.model = network.eval()
        counted = {name: kept[name] for name in COUNTS if name in kept}  # it may be kept in another form
        return replace(_adapted(context, directory_bytes(folder)), **counted)

    def _train(self, params: TrainingParams, context: Context) -> Generator[Event, None, Adapted]:
        from playground.training import adapter_files
        from playground.training.batches import encode
        from playground.training.measure import directory_bytes
        from playground.training.text import fit, train, within

        plan = self.plan(params, context.seed)
        examples, warnings = fit(
            encode(context.model, context.task, context.task.train), plan.max_length, "training"
        )
        yield from warnings
        # those that the model can read, whatever the maximum length: the same items for every run
        dev, more = within(
            encode(context.model, context.task, context.task.dev), context.model.context_length, "dev"
        )
        yield from more
        network = context.model.model = self.wrap(params, context.model.model, context.seed)
        self.prepare(params, network, context)
        self.faster(network, True)
        adapted = _adapted(context, 0)
        result = yield from train(
            network,
            examples,
            dev,
            plan,
            context.folder,
            resume=context.resume,
            groups=self.groups(params, network),
            samples=lambda step: _samples(adapted, context.task, "during" if step else "before", step),
            hook=self.hook(params, network, plan.steps(len(examples))),
        )
        self.faster(network, False)
        about = self._about(params, context) | _origin(context) | {"dev_loss": result.dev_loss}
        about |= {name: getattr(result, name) for name in COUNTS}
        adapter_files.save(context.folder / ADAPTER, lambda folder: self.write(network, folder), about)
        yield Event.metric("train_loss", result.train_loss)
        yield Event.metric("dev_loss", result.dev_loss)
        yield Event.metric("steps", result.steps)
        yield Event.metric("kept_step", result.kept_step)
        yield Event.metric("train_tokens_per_second", result.tokens / result.seconds)
        return _adapted(context, directory_bytes(context.folder / ADAPTER))

    def _about(self, params: TrainingParams, context: Context) -> dict[str, Any]:
        return {
            "method": self.id,
            "model": context.model.entry.id,
            "revision": context.model.revision,
            "params": params.model_dump(),
        }


def _origin(context: Context) -> dict[str, Any]:
    """What a result comes from beside its settings, as stands beside it."""
    return {"task": context.task.id, "data": context.task.data_hash, "seed": context.seed}


def _adapted(context: Context, stored_bytes: int) -> Adapted:
    from playground.models.quantise import numbers

    parameters = list(context.model.model.parameters())
    return Adapted(
        model=context.model,
        prompts=lambda inputs: [Prompt(context.task.messages(text)) for text in inputs],
        stored_bytes=stored_bytes,
        trainable_parameters=sum(one.numel() for one in parameters if one.requires_grad),
        total_parameters=sum(numbers(one) for one in parameters),
    )


def _samples(adapted: Adapted, task: Task, stage: str, step: int | None = None) -> Iterable[Event]:
    from playground.evaluation.text import answer_some

    return answer_some(adapted, task, task.dev[:SAMPLES], stage, step=step)
