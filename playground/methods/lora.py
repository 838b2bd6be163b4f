"""LoRA: freeze the model and train two thin matrices beside each chosen layer (PEFT)."""

import hashlib
import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from playground.data.tasks import Task
from playground.errors import AdapterError, InvalidParams, ModelUnavailable
from playground.events import Event
from playground.methods.base import Adapted, Context, Method, Params, Prompt, parameter
from playground.settings import Settings

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

    from playground.models.catalogue import Model
    from playground.models.text import LanguageModel
    from playground.training.estimate import Estimate
    from playground.training.text import Plan

ADAPTER = "adapter"
WEIGHTS = "adapter_model.safetensors"
ABOUT = "playground.json"
SAMPLES = 3  # dev items answered before, during and after training

_LAYERS = {
    "all-linear": "all-linear",
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv"),
    "mlp": (
        "gate_proj",
        "up_proj",
        "down_proj",
        "gate_up_proj",
        "fc1",
        "fc2",
        "c_fc",
        "dense_h_to_4h",
        "dense_4h_to_h",
    ),
}


class LoRAParams(Params):
    """What LoRA lets one choose."""

    rank: int = parameter(
        8, "Rank", "Columns of the two matrices: more can store more, and costs more.", minimum=1, maximum=256
    )
    alpha: float = parameter(
        16.0,
        "Alpha",
        "The update counts alpha / rank times: a larger alpha acts like a larger learning rate.",
        minimum=0.1,
        maximum=1024,
    )
    dropout: float = parameter(
        0.0,
        "Dropout",
        "Share of the adapter's inputs set to zero while training.",
        minimum=0,
        maximum=0.9,
        step=0.05,
    )
    layers: Literal["all-linear", "attention", "mlp"] = parameter(
        "all-linear",
        "Layers",
        "Which layers get an adapter: all linear ones, those of attention, or of the MLP.",
    )
    learning_rate: float = parameter(
        2e-3, "Learning rate", "The highest one; it rises to it and falls again.", minimum=1e-7, maximum=1.0
    )
    epochs: int = parameter(5, "Epochs", "How often each training example is seen.", minimum=1, maximum=100)
    batch_size: int = parameter(4, "Batch size", "Examples computed at once.", minimum=1, maximum=256)
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
        0.0, "Weight decay", "Pulls the adapter's weights towards zero.", minimum=0, maximum=1, advanced=True
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


class LoRA(Method):
    """W = W0 + (alpha / rank) · B · A, with W0 frozen and A, B trained. Hu et al. 2021."""

    id: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    family: ClassVar[str] = "parametric"
    changes_weights: ClassVar[str] = "Adds low-rank matrices"
    summary: ClassVar[str] = (
        "Freezes the model and trains a small low-rank update of its layers, which can be switched on, off or merged."
    )
    training_cost: ClassVar[str] = "Medium"
    storage_cost: ClassVar[str] = "Low"
    use_case: ClassVar[str] = "Teaching a model a task or a style with little memory"
    best_for: ClassVar[str] = "Many tasks on one base model"
    paper: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"
    Params = LoRAParams

    def check(self, params: LoRAParams, task: Task) -> None:
        """Refuse a task with nothing to train on.

        Raises:
            InvalidParams: the task has no training examples.
        """
        if not task.train:
            raise InvalidParams(f"The task “{task.title}” has no training examples; LoRA needs some.", "task")

    def plan(self, params: LoRAParams, seed: int = 0) -> "Plan":
        """The training plan that the parameters ask for."""
        from playground.training.text import Plan

        return Plan(
            epochs=params.epochs,
            batch_size=params.batch_size,
            gradient_accumulation=params.gradient_accumulation,
            learning_rate=params.learning_rate,
            schedule=params.schedule,
            warmup=params.warmup,
            weight_decay=params.weight_decay,
            max_length=params.max_length,
            seed=seed,
            patience=params.patience or None,
            threads=Settings.from_environment().threads,
        )

    def wrap(self, params: LoRAParams, model: "nn.Module", seed: int = 0) -> "nn.Module":
        """The model with fresh adapters in its layers; only they require a gradient.

        Raises:
            InvalidParams: the model has no layers of that kind.
        """
        import torch
        from peft import get_peft_model

        torch.manual_seed(seed)
        return get_peft_model(model, _config(params, model))

    def estimate(
        self,
        params: LoRAParams,
        task: Task,
        model: "Model",
        settings: Settings,
        *,
        tokens_per_second: float | None = None,
    ) -> "Estimate":
        """What training would take: exact counts, estimated memory and time. Loads no weights.

        Args:
            tokens_per_second: ``train_tokens_per_second`` of an earlier run with this model here.

        Raises:
            ModelUnavailable: the model is not on this machine.
        """
        import torch
        from transformers import AutoTokenizer

        from playground.models import device, sources
        from playground.models.text import LanguageModel
        from playground.training.batches import encode
        from playground.training.estimate import estimate, skeleton

        if not sources.at_hand(model, settings):
            raise ModelUnavailable(
                f"{model.title} is not on this machine yet: it is fetched by its first run."
            )
        folder = sources.locate(model, settings)
        chosen = device.choose(settings)
        empty = skeleton(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        language_model = LanguageModel(
            empty, tokenizer, model, torch.device("meta"), chosen.dtype, 0.0, model.revision
        )
        return estimate(
            empty,
            lambda network: self.wrap(params, network),
            encode(language_model, task, task.train),
            self.plan(params),
            dtype=chosen.dtype,
            device=chosen.name,
            tokens_per_second=tokens_per_second,
        )

    def adapt(self, params: LoRAParams, context: Context) -> Generator[Event, None, Adapted]:
        """Train, save the adapter in ``context.folder``/adapter, and merge it for fast answers.

        Raises:
            TrainingDiverged, OutOfMemory, RunFailed: see playground.training.text.train.
        """
        from playground.training import checkpoints
        from playground.training.measure import directory_bytes
        from playground.training.saving import clear_leftovers

        folder = context.folder / ADAPTER
        clear_leftovers(context.folder)
        if context.resume and folder.exists():
            yield Event.log("Training was finished before; its adapter is used.")
            adapted = self.restore(params, context)
        else:
            adapted = yield from self._train(params, context)
            checkpoints.remove(context.folder)
        yield Event.artifact(ADAPTER, ADAPTER, directory_bytes(folder))
        adapted.model.model = adapted.model.model.merge_and_unload()
        adapted.model.model.eval()
        yield from _samples(adapted, context.task, "after")
        return adapted

    def _train(self, params: LoRAParams, context: Context) -> Generator[Event, None, Adapted]:
        from playground.training.batches import encode
        from playground.training.fused_lora import fuse, unfuse
        from playground.training.measure import directory_bytes
        from playground.training.text import fit, train

        plan = self.plan(params, context.seed)
        examples, warnings = fit(
            encode(context.model, context.task, context.task.train), plan.max_length, "training"
        )
        yield from warnings
        dev = [
            e for e in encode(context.model, context.task, context.task.dev) if len(e.ids) <= plan.max_length
        ]
        context.model.model = self.wrap(params, context.model.model, context.seed)
        fuse(context.model.model)
        adapted = _adapted(context, 0)
        result = yield from train(
            context.model.model,
            examples,
            dev,
            plan,
            context.folder,
            resume=context.resume,
            samples=lambda step: _samples(adapted, context.task, "during" if step else "before", step),
        )
        unfuse(context.model.model)
        _save(params, context, result.dev_loss)
        yield Event.metric("train_loss", result.train_loss)
        yield Event.metric("dev_loss", result.dev_loss)
        yield Event.metric("train_tokens_per_second", result.tokens / result.seconds)
        return _adapted(context, directory_bytes(context.folder / ADAPTER))

    def restore(self, params: LoRAParams, context: Context) -> Adapted:
        """The finished adapter beside the model, not merged: see ``switch``.

        Raises:
            AdapterError: the adapter is missing, damaged, of another model or other parameters.
        """
        from playground.training.measure import directory_bytes

        folder = context.folder / ADAPTER
        weights = _read(folder, params, context.model)
        wrapped = self.wrap(params, context.model.model, context.seed)
        _load(wrapped, weights)
        wrapped.eval()
        context.model.model = wrapped
        return _adapted(context, directory_bytes(folder))


def switch(model: "LanguageModel", on: bool) -> None:
    """Turn the adapter of a restored model on or off.

    Raises:
        AdapterError: the model has none, or it is merged.
    """
    from peft import PeftModel

    if not isinstance(model.model, PeftModel):
        raise AdapterError(
            "This model has no adapter that could be switched: it is merged, or was never added."
        )
    if on:
        model.model.base_model.enable_adapter_layers()
    else:
        model.model.base_model.disable_adapter_layers()


def _config(params: LoRAParams, model: "nn.Module") -> "LoraConfig":
    from peft import LoraConfig

    return LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=_targets(params, model),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _targets(params: LoRAParams, model: "nn.Module") -> str | list[str]:
    wanted = _LAYERS[params.layers]
    if isinstance(wanted, str):
        return wanted
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    found = sorted(present.intersection(wanted))
    if not found:
        raise InvalidParams(
            f"This model has no layers called {', '.join(wanted)}. Choose “all-linear”.", "layers"
        )
    return found


def _adapted(context: Context, stored_bytes: int) -> Adapted:
    trainable, total = context.model.model.get_nb_trainable_parameters()
    return Adapted(
        model=context.model,
        prompts=lambda inputs: [Prompt(context.task.messages(text)) for text in inputs],
        stored_bytes=stored_bytes,
        trainable_parameters=trainable,
        total_parameters=total,
    )


def _samples(adapted: Adapted, task: Task, stage: str, step: int | None = None) -> Iterable[Event]:
    from playground.evaluation.text import answer_some

    return answer_some(adapted, task, task.dev[:SAMPLES], stage, step=step)


def _save(params: LoRAParams, context: Context, dev_loss: float | None) -> None:
    from playground.training.saving import atomic_folder

    with atomic_folder(context.folder / ADAPTER) as partial:
        context.model.model.save_pretrained(partial, save_embedding_layers=False)
        (partial / "README.md").unlink()  # PEFT's empty model card
        digest = hashlib.sha256((partial / WEIGHTS).read_bytes()).hexdigest()
        about = _about(params, context.model)
        about |= {"task": context.task.id, "dev_loss": dev_loss, "sha256": digest}
        (partial / ABOUT).write_text(json.dumps(about, indent=1))


def _about(params: LoRAParams, model: "LanguageModel") -> dict[str, Any]:
    return {
        "method": LoRA.id,
        "model": model.entry.id,
        "revision": model.revision,
        "params": params.model_dump(),
    }


def _read(folder: Path, params: LoRAParams, model: "LanguageModel") -> dict[str, Any]:
    """The adapter's tensors, after making sure that it is whole and made for this model.

    Only safetensors and our own JSON are read: a foreign configuration or a pickle is never opened.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not folder.is_dir():
        raise AdapterError("There is no adapter in this run's folder: the training did not finish.")
    for name in (ABOUT, WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterError(f"The adapter is incomplete: {name} is missing.")
    try:
        about = json.loads((folder / ABOUT).read_text())
        content = (folder / WEIGHTS).read_bytes()
        weights = load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"The adapter cannot be read, it is damaged: {error}") from error
    if not isinstance(about, dict):
        raise AdapterError(f"The adapter's {ABOUT} is not one that the playground wrote.")
    for name, value in _about(params, model).items():
        if about.get(name) != value:
            raise AdapterError(f"The adapter was made for {name} {about.get(name)!r}, not for {value!r}.")
    if hashlib.sha256(content).hexdigest() != about.get("sha256"):
        raise AdapterError(f"The adapter is damaged: {WEIGHTS} is not the file that was saved.")
    return weights


def _load(wrapped: "nn.Module", weights: dict[str, Any]) -> None:
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    wrong = sorted(
        name
        for name in expected.keys() | weights.keys()
        if name not in expected or name not in weights or expected[name].shape != weights[name].shape
    )
    if wrong:
        raise AdapterError(
            f"The adapter does not fit this model: {len(wrong)} tensors differ, first {wrong[0]}."
        )
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise AdapterError("The adapter is damaged: it holds numbers that are not finite.")
    set_peft_model_state_dict(wrapped, weights)
