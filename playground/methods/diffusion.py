"""What all methods that train an image model share: parameters, class pictures, looks on the way, the result's folder.

A technique adds which weights it trains (``wrap``) and how they are written and read.
"""

from abc import abstractmethod
from collections.abc import Callable, Container, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from playground.data.subjects import Subject
from playground.errors import AdapterError, InvalidParams
from playground.events import Event
from playground.methods.base import Method, Params, parameter

if TYPE_CHECKING:
    from torch import Tensor

    from playground.models.image import ImageModel
    from playground.training.diffusion import DiffusionPlan, DiffusionResult, Prior

ADAPTER = "adapter"  # folder of a finished run's result, below the run's folder
LOOKS_BYTES = 4 * 10**9  # weights of all looks together, in float32: above it only the best look's stay
CLASS_PICTURES = "class"  # pictures of the class by the model as it was, below the run's folder

Look = Callable[[int], Iterable[Event]]


@dataclass
class ImageContext:
    """What a run hands to an image method; the image side's ``Context``.

    ``subject`` is None where a finished run is restored: its visitor may have deleted the pictures meanwhile.
    ``look`` draws and measures samples after a step and tells them as events; ``choose`` says which of the
    given steps is the one to keep, None = it saw none of them. ``requests`` gives what was asked for since it was
    called last: "sample", "save".
    """

    subject: Subject | None
    model: "ImageModel"
    folder: Path
    seed: int
    look: Look | None = None
    choose: Callable[[Container[int]], int | None] = lambda steps: None
    requests: Callable[[], set[str]] = set
    resume: bool = False


@dataclass
class AdaptedImage:
    """What an image method hands back; see ``Adapted``. ``step`` is the one whose weights the model has."""

    model: "ImageModel"
    stored_bytes: int
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    step: int = 0
    restored: bool = False


class ImageMethod(Method):
    """A technique for image models: it is adapted to a ``Subject`` instead of a ``Task``."""

    modality: ClassVar[Literal["text", "image"]] = "image"

    def check(self, params: Params, subject: Subject) -> None:
        """Refuse parameters that do not fit the subject, before the start.

        Raises:
            InvalidParams: says which parameter, and what would fit.
        """

    @abstractmethod
    def adapt(self, params: Params, context: ImageContext) -> Generator[Event, None, AdaptedImage]:
        """Do what the technique does, telling progress, and return the adapted model."""

    @abstractmethod
    def restore(self, params: Params, context: ImageContext) -> AdaptedImage:
        """See ``Method.restore``; ``context`` may have no subject."""

    def switch(self, model: "ImageModel", on: bool) -> None:
        """Let a restored model draw with what was learnt, or as the base model; nothing to switch by default."""


class DiffusionParams(Params):
    """What every training of an image model lets one choose."""

    steps: int = parameter(
        300,
        "Steps",
        "Steps of the optimiser. Too many, and it draws nothing else.",
        minimum=1,
        maximum=20_000,
    )
    learning_rate: float = parameter(
        1e-4, "Learning rate", "The highest one; too high forgets, too low learns nothing.",
        minimum=1e-7, maximum=0.1,
    )  # fmt: skip
    batch_size: int = parameter(
        4, "Batch size", "Pictures of the subject a step; those of the class come beside them.",
        minimum=1, maximum=64,
    )  # fmt: skip
    schedule: Literal["constant", "cosine", "linear"] = parameter(
        "constant", "Schedule", "How the learning rate falls after the warm-up.", advanced=True
    )
    warmup: float = parameter(
        0.05, "Warm-up", "Share of the steps in which the learning rate rises.",
        minimum=0, maximum=0.9, step=0.05, advanced=True,
    )  # fmt: skip
    weight_decay: float = parameter(
        0.01, "Weight decay", "Pulls the trained weights towards zero.", minimum=0, maximum=1, advanced=True
    )
    snr_gamma: float = parameter(
        0.0,
        "Min-SNR γ",
        "Weights the loss of easy, nearly clean pictures down (Hang et al. 2023); 5 is usual, 0 = off.",
        minimum=0, maximum=100, step=1, advanced=True,
    )  # fmt: skip
    gradient_checkpointing: bool = parameter(
        False,
        "Save memory",
        "Compute parts of the network twice instead of keeping them: about a third slower, for large models.",
        advanced=True,
    )
    sample_every: int = parameter(
        50, "Look every", "Steps between two looks: samples, fidelity, drift. Each takes a few seconds.",
        minimum=1, maximum=20_000,
    )  # fmt: skip
    keep: Literal["recommended", "last"] = parameter(
        "recommended",
        "Keep",
        "The weights of the recommended look, or those of the last step.",
        advanced=True,
    )


METHODS_FOR = {
    "subject": "DreamBooth",
    "style": "Style LoRA",
}  # what to choose instead, by what is to be learnt


class Diffusion(ImageMethod):
    """A method that trains weights of an image model, its own or added ones. ``learns`` is the kind it is for."""

    family: ClassVar[str] = "parametric"
    learns: ClassVar[Literal["subject", "style"]] = "subject"
    Params = DiffusionParams

    @abstractmethod
    def wrap(self, params: DiffusionParams, model: "ImageModel", seed: int = 0) -> None:
        """Make the trainable part in place; only it requires a gradient afterwards.

        Raises:
            InvalidParams: the technique does not fit this model; the message says why.
        """

    @abstractmethod
    def write(self, params: DiffusionParams, model: "ImageModel", folder: Path) -> None:
        """Write what was trained into an empty folder, as safetensors."""

    @abstractmethod
    def read(self, params: DiffusionParams, model: "ImageModel", folder: Path) -> None:
        """Put what ``write`` wrote into a freshly loaded model.

        Raises:
            AdapterError: it does not fit, or holds numbers that are not finite.
        """

    def prior(self, params: DiffusionParams, context: ImageContext) -> "Generator[Event, None, Prior | None]":
        """What keeps the class as it was: pictures of it with their prompts, the network itself, or nothing."""
        return None
        yield

    def prior_weight(self, params: DiffusionParams) -> float:
        """λ, the weight of the prior's loss beside the subject's."""
        return 0.0

    def class_batch(self, params: DiffusionParams) -> int:
        """Pictures of the class a step beside those of the subject, 0 = as many."""
        return 0

    def plan(self, params: DiffusionParams, context: ImageContext) -> "DiffusionPlan":
        """The parameters in the training loop's words; weights of the looks are kept where the disk can bear it."""
        from playground.settings import Settings
        from playground.training.diffusion import DiffusionPlan

        settings = Settings.from_environment()
        looks = 2 + params.steps // params.sample_every
        small = looks * 4 * counts(context.model)[0] <= LOOKS_BYTES
        return DiffusionPlan(
            steps=params.steps,
            batch_size=params.batch_size,
            class_batch=self.class_batch(params),
            learning_rate=params.learning_rate,
            schedule=params.schedule,
            warmup=params.warmup,
            weight_decay=params.weight_decay,
            snr_gamma=params.snr_gamma or None,
            prior_weight=self.prior_weight(params),
            sample_every=params.sample_every,
            keep_looks=params.keep == "recommended" and small and context.look is not None,
            seed=context.seed,
            gradient_checkpointing=params.gradient_checkpointing,
            threads=settings.threads,
            mixed=None if settings.dtype == "auto" else False,
        )

    def check(self, params: DiffusionParams, subject: Subject) -> None:
        """Refuse a subject without pictures, and one of another kind.

        Raises:
            InvalidParams: it has none, or is a style where a subject is learnt, or the other way round.
        """
        if not subject.train:
            raise InvalidParams(f"“{subject.title}” has no pictures to train on; add three to five.", "task")
        if subject.kind != self.learns:
            raise InvalidParams(
                f"“{subject.title}” is a {subject.kind}: choose {METHODS_FOR[subject.kind]} for it.", "task"
            )

    def adapt(self, params: DiffusionParams, context: ImageContext) -> Generator[Event, None, AdaptedImage]:
        """Train, and save the result in ``context.folder``/adapter.

        Raises:
            TrainingDiverged, OutOfMemory, RunFailed: see playground.training.diffusion.train.
        """
        from playground.training import adapter_files, checkpoints
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
        yield Event.artifact(ADAPTER, ADAPTER, adapted.stored_bytes)
        return adapted

    def restore(self, params: DiffusionParams, context: ImageContext) -> AdaptedImage:
        """The finished result in the model.

        Raises:
            AdapterError: it is missing, damaged, of another model or other parameters.
        """
        from playground.training import adapter_files

        about = self._about(params, context)
        folder = context.folder / ADAPTER
        kept = adapter_files.verify(folder, {name: about[name] for name in ("method", "model", "revision")})
        if not params.same(kept.get("params")):
            raise AdapterError(
                f"The adapter was made with params {kept.get('params')!r}, not with {about['params']!r}."
            )
        self.read(params, context.model, folder)
        return self._adapted(context, kept.get("kept_step") or 0)

    def _train(self, params: DiffusionParams, context: ImageContext) -> Generator[Event, None, AdaptedImage]:
        from playground.training import adapter_files
        from playground.training.diffusion import Concept, train

        model, subject = context.model, context.subject
        prior = yield from self.prior(params, context)
        self.wrap(params, model, context.seed)
        pictures = training_pictures(subject, model.size)
        instance = Concept(pictures, [subject.instance_prompt(picture) for picture in subject.train])
        plan = self.plan(params, context)
        result = yield from train(
            model,
            instance,
            plan,
            context.folder,
            prior=prior,
            resume=context.resume,
            looks=context.look,
            best=context.choose if params.keep == "recommended" and not plan.keep_looks else None,
            requests=context.requests,
        )
        kept = result.steps
        if params.keep == "recommended":
            kept = yield from self._keep(context, result)
        about = self._about(params, context) | _origin(context) | {"kept_step": kept}
        adapter_files.save(context.folder / ADAPTER, lambda folder: self.write(params, model, folder), about)
        yield Event.metric("train_loss", result.train_loss)
        yield Event.metric("steps", result.steps)
        yield Event.metric("kept_step", kept)
        yield Event.metric("steps_per_second", result.steps / result.seconds)
        return self._adapted(context, kept)

    def _keep(self, context: ImageContext, result: "DiffusionResult") -> Generator[Event, None, int]:
        """Put back the weights of the step that the looks recommend; those of the last one where none is better.

        Where the weights of every look had no room, the recommended ones may have made room for equally good ones.
        """
        from playground.training.diffusion import restore

        step = context.choose((*result.kept, result.steps)) or result.steps
        if step != result.steps:
            restore(context.model, context.folder, step)
        recommended = context.choose(range(1, result.steps + 1))
        if recommended not in (None, step):
            yield Event.log(
                f"The looks recommend step {recommended}, whose weights are gone: those of every look would take more "
                f"than {LOOKS_BYTES / 1e9:.0f} GB. Step {step} is kept, the best of those that are there.",
                "warning",
            )
        elif step != result.steps:
            yield Event.log(
                f"The weights of step {step} are kept: those looks recommend, of {result.steps} steps."
            )
        return step

    def _adapted(self, context: ImageContext, step: int) -> AdaptedImage:
        from playground.training.measure import directory_bytes

        trainable, total = counts(context.model)
        return AdaptedImage(context.model, directory_bytes(context.folder / ADAPTER), trainable, total, step)

    def _about(self, params: DiffusionParams, context: ImageContext) -> dict[str, Any]:
        return {
            "method": self.id,
            "model": context.model.entry.id,
            "revision": context.model.revision,
            "params": params.model_dump(mode="json"),
        }


def _origin(context: ImageContext) -> dict[str, Any]:
    """What a result comes from beside its settings, as stands beside it."""
    return {"subject": context.subject.id, "data": context.subject.data_hash, "seed": context.seed}


def training_pictures(subject: Subject, size: int) -> "Tensor":
    """The subject's training pictures, cropped: float32 (n, 3, size, size), −1…1."""
    from playground.training.pictures import tensors

    return tensors([picture.path for picture in subject.train], size)


def counts(model: "ImageModel") -> tuple[int, int]:
    """Parameters that training may change, and all that draw a picture: denoiser, text encoders, autoencoder."""
    networks = [part for part in model.pipeline.components.values() if hasattr(part, "parameters")]
    parameters = [one for network in networks for one in network.parameters()]
    return sum(one.numel() for one in parameters if one.requires_grad), sum(one.numel() for one in parameters)
