"""What the tabs share: settings, the store, the queue, the model at hand."""

from dataclasses import dataclass, field
from typing import Any

from playground.data import subjects, tasks
from playground.jobs.exports import Exports
from playground.jobs.sweep import is_sweep
from playground.methods.registry import methods
from playground.models import catalogue
from playground.results.runs import ACTIVE, Run, RunStore
from playground.settings import Settings
from playground.ui.starter import Starter

INFERENCE = "inference"  # the one concurrency id of everything that asks a model in this process
# of all gr.render: two at once in one visitor's page change the dictionary that Gradio goes through
RENDERING = {"concurrency_id": "render", "concurrency_limit": 1, "show_progress": "hidden"}
MOST_RUNS = 500  # runs that the page looks at

# Methods that train and have a tab of their own, in the order of the tabs; the others share one.
OWN_TABS = {
    "full": "Full fine-tuning",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "bitfit": "BitFit",
    "bottleneck": "Adapters",
}

# Tabs of methods that train image models: id → label, the kind of subject, the methods in it.
IMAGE_TABS = {
    "dreambooth": ("DreamBooth", "subject", ("dreambooth", "dreambooth_lora")),
    "style_lora": ("Style LoRA", "style", ("style_lora",)),
}


@dataclass
class Session:
    """Handed to every tab. ``queue`` is a ``jobs.queue.Queue``, ``arbiter`` a ``jobs.arbiter.Arbiter``."""

    settings: Settings
    store: RunStore
    queue: Any
    arbiter: Any
    starter: Starter
    described: dict[str, dict[str, Any]] = field(default_factory=dict)
    exports: Exports = field(init=False)

    def __post_init__(self) -> None:
        self.exports = Exports(self.settings, self.store)
        self.described = {
            id: {
                "title": m.title,
                "family": m.family,
                "changes_weights": m.changes_weights,
                "modality": m.modality,
            }
            for id, m in methods().items()
        }

    def pulse(self) -> str:
        """Changes when anything on the page may have to; a few cheap reads."""
        active = [f"{run.id}{run.status[0]}" for run in self.store.list(status=ACTIVE)]
        starter = self.starter.state
        parts = [self.store.last_event(), *self.store.extent(), *active]
        parts += [starter.phase, starter.done // 1_000_000, starter.ready, starter.error or ""]
        parts.append(self.exports.stamp())
        return "|".join(map(str, parts))

    def runs(self, **where: Any) -> list[Run]:
        """Runs that fit, newest first."""
        return self.store.list(**{"limit": MOST_RUNS, **where})

    def newest_group(self) -> str | None:
        """The group of the newest race."""
        groups = (run.group for run in self.runs(limit=60) if run.group)
        return next((group for group in groups if not is_sweep(group)), None)

    def title(self, method_id: str) -> str:
        """A method's title; its id where the method is not installed any more."""
        return self.described.get(method_id, {}).get("title", method_id)

    def family(self, method_id: str) -> str:
        """ "non-parametric" or "parametric"; "" where the method is not installed any more."""
        return self.described.get(method_id, {}).get("family", "")

    def modality(self, method_id: str) -> str:
        """ "text" or "image"; "text" where the method is not installed any more."""
        return self.described.get(method_id, {}).get("modality", "text")

    def task_choices(self) -> list[tuple[str, str]]:
        """All tasks as (title, id)."""
        return [(task.title, id) for id, task in tasks.tasks(self.settings).items()]

    def default_task(self) -> str | None:
        """The task that the tabs begin with: the one with labels, where differences are easiest to see."""
        known = tasks.tasks(self.settings)
        return next((id for id, task in known.items() if task.answer == "label"), next(iter(known), None))

    def task_title(self, task_id: str) -> str:
        """A task's or subject's title; its id where it is gone."""
        known = tasks.tasks(self.settings).get(task_id) or self.subjects().get(task_id)
        return known.title if known else task_id

    def subjects(self, kind: str | None = None) -> dict[str, subjects.SubjectSummary]:
        """What image models can be adapted to, by id; with ``kind`` only "subject" or "style"."""
        return subjects.subjects(self.settings, kind)

    def model_choices(self, modality: str = "text") -> list[tuple[str, str]]:
        """The catalogue's models of a modality as (title, id), the starter first."""
        return [(entry.title, id) for id, entry in catalogue.models(modality).items()]

    def model_id(self, text: str | None) -> str:
        """The id of the model that was chosen or typed, checked before anything is loaded.

        Raises:
            ModelUnavailable: there is no such model, or it cannot be had now.
        """
        entry = catalogue.model(text or "", self.settings)
        if self.queue.check_model:
            self.queue.check_model(entry, self.settings)
        return entry.id

    def model_title(self, model_id: str) -> str:
        """A model's title in the catalogue; its id otherwise."""
        known = catalogue.models().get(model_id)
        return known.title if known else model_id
