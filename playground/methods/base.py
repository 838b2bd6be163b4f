"""What a technique is: parameters, a description in the guide's words, and ``adapt``.

One file in this folder is one technique. Built-in techniques register through the entry-point
group ``playground.methods`` or, when the project runs from a checkout, through ``BUILT_IN`` in
``playground.methods.registry``; a third party's package uses the same ``Method`` class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from playground.data.tasks import Task
from playground.errors import InvalidParams
from playground.events import Event, result_of

if TYPE_CHECKING:
    from playground.models.embedding import Embedder
    from playground.models.text import LanguageModel

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
Family = Literal["non-parametric", "parametric"]


@dataclass(frozen=True)
class FieldSpec:
    """One parameter as a form, a command line or an API shows it.

    ``kind`` is "integer", "number", "boolean", "choice" or "text". ``minimum``, ``maximum`` and
    ``step`` are None where there is no bound. ``advanced`` fields sit behind a fold.
    """

    name: str
    label: str
    help: str
    kind: str
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False


def parameter(
    default: Any,
    label: str,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    step: float | None = None,
    advanced: bool = False,
) -> Any:
    """Declare one field of ``Params``: default, label, help and bounds in one place."""
    return Field(
        default,
        title=label,
        description=help,
        ge=minimum,
        le=maximum,
        json_schema_extra={"step": step, "advanced": advanced},
    )


class Params(BaseModel):
    """A technique's parameters: frozen and validated. The form, the CLI and the API come from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def fields(cls) -> list[FieldSpec]:
        """The parameters in the order of their declaration, those of the most special class first."""
        order = {name: 0 for name in cls.model_fields}
        for depth, parent in enumerate(cls.__mro__):
            order |= {name: depth for name in getattr(parent, "model_fields", ()) if name in order}
        names = sorted(cls.model_fields, key=lambda name: order[name])
        return [_spec(name, cls.model_fields[name]) for name in names]

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "Params":
        """Validate values that came from a form, a command line or JSON.

        Raises:
            InvalidParams: names the first wrong field, its label, and what would be right.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise _explain(cls, error) from None

    def same(self, kept: Any) -> bool:
        """Whether values that a run kept are these; parameters that did not exist then count as at their default."""
        try:
            return self.parse(kept) == self
        except (TypeError, InvalidParams):
            return False


def _spec(name: str, info: FieldInfo) -> FieldSpec:
    extra = info.json_schema_extra or {}
    bounds = {type(meta).__name__: meta for meta in info.metadata}
    annotation = info.annotation
    choices: tuple[str, ...] = ()
    if get_origin(annotation) is Literal:
        kind, choices = "choice", tuple(get_args(annotation))
    else:
        kind = {int: "integer", float: "number", bool: "boolean"}.get(annotation, "text")
    return FieldSpec(
        name=name,
        label=info.title or name.replace("_", " ").capitalize(),
        help=info.description or "",
        kind=kind,
        default=info.default,
        minimum=bounds["Ge"].ge if "Ge" in bounds else None,
        maximum=bounds["Le"].le if "Le" in bounds else None,
        step=extra.get("step"),
        choices=choices,
        advanced=bool(extra.get("advanced")),
    )


def _explain(cls: type[Params], error: ValidationError) -> InvalidParams:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(cls.model_fields) or "none"
        return InvalidParams(f"There is no parameter “{name}”. Known parameters: {known}.", name)
    if name not in cls.model_fields:
        return InvalidParams(first["msg"].removeprefix("Value error, "), name or None)
    spec = _spec(name, cls.model_fields[name])
    given = repr(first.get("input"))[:60]
    if spec.minimum is not None and spec.maximum is not None:
        wanted = f" It must be between {spec.minimum:g} and {spec.maximum:g}."
    elif spec.choices:
        wanted = f" It must be one of {', '.join(spec.choices)}."
    else:
        wanted = f" {first['msg'].removeprefix('Value error, ')}."
    return InvalidParams(f"{spec.label} cannot be {given}.{wanted}", name)


@dataclass
class Context:
    """What a run hands to a method.

    ``model`` is loaded and ready; the method may change it, the run's process is its own.
    ``folder`` is the run's own folder. ``embedder()`` loads the embedding model on first call.
    ``resume`` asks to go on from the last checkpoint in ``folder`` where there is one.
    ``chroma_url`` is the Chroma server that keeps indexes' vectors, None = files in ``folder``.
    """

    task: Task
    model: "LanguageModel"
    folder: Path
    seed: int
    embedder: Callable[[], "Embedder"]
    resume: bool = False
    chroma_url: str | None = None


@dataclass
class Prompt:
    """What the model is asked for one input: chat messages, and what was put into them.

    ``passages`` are the retrieved passages (RAG) as plain dicts: document, start, end, text, score.
    ``examples`` are the ids of the examples in the prompt (few-shot).
    """

    messages: list[Message]
    passages: list[dict[str, Any]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


@dataclass
class Adapted:
    """What a method hands back: it turns inputs into prompts, and knows its size on disk.

    ``model`` answers the prompts (the base model, or the adapted one). ``prompts`` maps a batch of
    input texts to prompts, in order. ``stored_bytes`` is what has to be kept on disk beside the
    base model, in bytes. Parameter counts are None where nothing was trained. ``restored`` says that an earlier
    attempt had finished the work.
    """

    model: "LanguageModel"
    prompts: Callable[[Sequence[str]], list[Prompt]]
    stored_bytes: int
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    restored: bool = False


class Method(ABC):
    """A technique. Subclasses set the class variables and write ``adapt`` (and ``restore``).

    The guide's words (training_cost, storage_cost: "None", "Low", "Medium", "High"; use_case;
    best_for) stand beside what was measured.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    family: ClassVar[Family]
    modality: ClassVar[Literal["text", "image"]] = "text"
    changes_weights: ClassVar[str]  # "No", "Yes, all", "Adds low-rank matrices" …
    summary: ClassVar[str]  # one sentence
    training_cost: ClassVar[str]
    storage_cost: ClassVar[str]
    use_case: ClassVar[str]
    best_for: ClassVar[str]
    paper: ClassVar[str] = ""  # "Hu et al. 2021, arXiv:2106.09685"
    Params: ClassVar[type[Params]] = Params

    def check(self, params: Params, task: Task) -> None:
        """Refuse parameters that do not fit the task (k larger than the pool …) before the start.

        Raises:
            InvalidParams: says which parameter, and what would fit.
        """

    def quantization(self, params: Params) -> str | None:
        """How the base model's weights are to be loaded, see ``models.quantise``; None = as they are."""
        return None

    @abstractmethod
    def adapt(self, params: Params, context: Context) -> Generator[Event, None, Adapted]:
        """Do what the technique does, telling progress, and return the adapted model."""

    def discard(self, folder: Path) -> None:
        """Give back what a run keeps outside its ``folder`` before that is removed; most keep nothing.

        Raises:
            StoreError: it cannot be reached now.
        """

    def restore(self, params: Params, context: Context) -> Adapted:
        """Make a finished run's result usable again from ``context.folder``, without training.

        Methods that store nothing may leave this as it is: it adapts again, silently.

        Raises:
            AdapterError: the folder does not hold a whole result of this method.
        """
        return result_of(self.adapt(params, context))
