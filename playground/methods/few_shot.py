"""Few-shot prompting (in-context learning): examples in the prompt, no weight changed."""

import json
import random
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from playground.data.tasks import Item, Task
from playground.errors import AdapterError, InvalidParams
from playground.events import Event
from playground.methods.base import Adapted, Context, Method, Params, Prompt, parameter

if TYPE_CHECKING:
    import numpy as np

    from playground.models.embedding import Embedder

EXAMPLES = "examples.json"
VECTORS = "examples.npy"


class FewShotParams(Params):
    """How many examples, which, and in what order."""

    k: int = parameter(
        8, "Examples (k)", "How many training examples go into the prompt.", minimum=0, maximum=64, step=1
    )
    selector: Literal["first", "random", "nearest"] = parameter(
        "random",
        "Selector",
        "random: labels in equal numbers; first: the file's first k; nearest: the most similar to each "
        "question, by embedding (far slower to test: no shared beginning).",
    )
    order: Literal["as selected", "nearest last", "labels alternating"] = parameter(
        "as selected",
        "Order",
        "The last examples weigh most. nearest last needs the selector nearest; labels alternating "
        "needs a task with labels.",
        advanced=True,
    )


class FewShot(Method):
    """k solved examples as turns of the chat, before the question."""

    id = "few_shot"
    title = "Few-shot"
    family = "non-parametric"
    changes_weights = "No"
    summary = "Put a few solved examples in front of the question; the model picks up the pattern."
    training_cost = "None"
    storage_cost = "None"
    use_case = "A few good examples, and a task that changes often"
    best_for = "Quick experiments, and formats that are easier shown than described"
    paper = "Brown et al. 2020, arXiv:2005.14165; nearest: Liu et al. 2022, arXiv:2101.06804"
    Params = FewShotParams

    def check(self, params: FewShotParams, task: Task) -> None:
        """Refuse k above the number of training examples, and orders that have nothing to order by.

        Raises:
            InvalidParams: says which parameter, and what would fit.
        """
        if params.k > len(task.train):
            raise InvalidParams(
                f"k is {params.k}, but “{task.title}” has only {len(task.train)} training examples. "
                f"Choose at most {min(64, len(task.train))}.",
                "k",
            )
        if params.order == "nearest last" and params.selector != "nearest":
            raise InvalidParams("The order “nearest last” needs the selector “nearest”.", "order")
        if params.order == "labels alternating" and task.answer != "label":
            raise InvalidParams("The order “labels alternating” needs a task with labels.", "order")

    def adapt(self, params: FewShotParams, context: Context) -> Generator[Event, None, Adapted]:
        """Choose the examples (or, for nearest, embed them all) and keep them in the run's folder."""
        self.check(params, context.task)
        vectors = None
        if params.selector == "nearest" and params.k:
            pool = list(context.task.train)
            yield Event.progress("adapt", 0, len(pool), unit="example", note="Embedding the examples")
            vectors = context.embedder().encode([item.input for item in pool])
        else:
            pool = select(context.task, params, context.seed)
        stored = _save(context.folder, pool, vectors)
        yield Event.artifact("examples", EXAMPLES, stored)
        yield Event.progress("adapt", len(pool), len(pool), unit="example")
        return _adapted(params, context, pool, vectors, stored)

    def restore(self, params: FewShotParams, context: Context) -> Adapted:
        """Take the kept examples, without choosing or embedding again.

        Raises:
            AdapterError: the folder does not hold the examples of this run.
        """
        pool, vectors = _load(context.folder)
        if (params.selector == "nearest" and params.k > 0) != (vectors is not None):
            raise AdapterError(f"The kept examples in {context.folder} are not those of this run.")
        return _adapted(params, context, pool, vectors, _stored_bytes(context.folder))


def select(task: Task, params: FewShotParams, seed: int) -> list[Item]:
    """The same k examples for every question, chosen by "first" or "random", in the asked order."""
    chosen = list(task.train[: params.k]) if params.selector == "first" else draw(task, params.k, seed)
    return arrange(chosen, params.order)


def draw(task: Task, k: int, seed: int) -> list[Item]:
    """k random training examples; with labels, their counts differ by at most one where the pool allows."""
    generator = random.Random(seed)
    pool = list(task.train)
    generator.shuffle(pool)
    if task.answer == "label":
        labels = list(dict.fromkeys(item.target for item in pool))
        pool = _alternate(pool, labels)
    return pool[:k]


def arrange(chosen: Sequence[Item], order: str) -> list[Item]:
    """The chosen examples (nearest first, where they were chosen by nearness) in the asked order."""
    if order == "nearest last":
        return list(reversed(chosen))
    if order == "labels alternating":
        return _alternate(chosen, list(dict.fromkeys(item.target for item in chosen)))
    return list(chosen)


def nearest(
    pool: Sequence[Item], vectors: "np.ndarray", inputs: Sequence[str], embedder: "Embedder", k: int
) -> list[list[Item]]:
    """For each input the k most similar items of the pool, nearest first.

    Args:
        vectors: float32 (len(pool), d), L2-normalised, so that the dot product is the cosine.
    """
    similarity = embedder.encode(list(inputs)) @ vectors.T
    ranks = (-similarity).argsort(axis=1, kind="stable")[:, :k]
    return [[pool[i] for i in row] for row in ranks]


def _alternate(items: Sequence[Item], labels: Sequence[str]) -> list[Item]:
    """One of each label in turn, as long as there are any."""
    queues = {label: [item for item in items if item.target == label] for label in labels}
    mixed: list[Item] = []
    while any(queues.values()):
        mixed += [queue.pop(0) for queue in queues.values() if queue]
    return mixed


def _adapted(
    params: FewShotParams, context: Context, pool: list[Item], vectors: "np.ndarray | None", stored: int
) -> Adapted:
    task = context.task

    def chosen(inputs: Sequence[str]) -> list[list[Item]]:
        if vectors is None:
            return [pool] * len(inputs)
        found = nearest(pool, vectors, inputs, context.embedder(), params.k)
        return [arrange(items, params.order) for items in found]

    return Adapted(context.model, _prompts(task, chosen), stored)


def _prompts(
    task: Task, chosen: Callable[[Sequence[str]], list[list[Item]]]
) -> Callable[[Sequence[str]], list[Prompt]]:
    def prompts(inputs: Sequence[str]) -> list[Prompt]:
        return [
            Prompt(task.messages(text, examples), examples=[item.id for item in examples])
            for text, examples in zip(inputs, chosen(inputs), strict=True)
        ]

    return prompts


def _save(folder: Path, pool: Sequence[Item], vectors: "np.ndarray | None") -> int:
    """Keep the examples beside the run, whole or not at all; returns their bytes on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VECTORS).unlink(missing_ok=True)
    if vectors is not None:
        import numpy as np

        beside = folder / f"{VECTORS}.part"
        with beside.open("wb") as file:
            np.save(file, vectors)
        beside.replace(folder / VECTORS)
    records = [{"id": item.id, "input": item.input, "target": item.target} for item in pool]
    beside = folder / f"{EXAMPLES}.part"
    beside.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    beside.replace(folder / EXAMPLES)
    return _stored_bytes(folder)


def _load(folder: Path) -> tuple[list[Item], "np.ndarray | None"]:
    try:
        records = json.loads((folder / EXAMPLES).read_text(encoding="utf-8"))
        pool = [Item(record["id"], record["input"], record["target"]) for record in records]
        vectors = None
        if (folder / VECTORS).exists():
            import numpy as np

            vectors = np.load(folder / VECTORS, allow_pickle=False)
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise AdapterError(f"The kept examples in {folder} cannot be read: {error}") from None
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(pool)):
        raise AdapterError(f"The kept examples in {folder} do not belong together.")
    return pool, vectors


def _stored_bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in (EXAMPLES, VECTORS) if (folder / name).exists())
